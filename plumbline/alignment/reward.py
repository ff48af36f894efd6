"""The reward model: a scalar for a prompt with a response, learnt from comparisons.

A sequence classifier with one output, initialised from SFT, its head N(0, 1/(d+1)) (Stiennon et al. 2020, appendix B).
It is stored as transformers stores one, but read differently: transformers finds the last token by looking for padding,
we count. Rewards are shifted so that the SFT policy scores 0 on average (ibid.); the shift is kept as `reward_offset`
in the model's config.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from plumbline.errors import UserError
from plumbline.lm.base import DTYPES, LanguageModel, device
from plumbline.lm.chat import encode_prompt, encode_response
from plumbline.lm.optim import require_finite_weights
from plumbline.lm.sampling import positions, right_pad
from plumbline.preferences.types import Prompt


@dataclass(frozen=True)
class RewardModel:
    """Scores prompts with responses. `max_length` is the longest conversation in tokens that it was trained on."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def from_policy(cls, folder: Path, max_length: int, seed: int) -> "RewardModel":
        """A new reward model on the body of the policy in `folder`, with a fresh head."""
        model = _load(folder, "fp32", fresh_head=True)
        generator = torch.Generator().manual_seed(seed)
        head = model.score.weight
        with torch.no_grad():
            fresh = torch.randn(head.shape, generator=generator) / (head.shape[1] + 1) ** 0.5
            head.copy_(fresh.to(head.device))
        model.config.reward_offset, model.config.reward_max_length = 0.0, max_length
        return cls(model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))

    @classmethod
    def load(cls, folder: Path, precision: str = "fp32") -> "RewardModel":
        """Load what `save` left in `folder`."""
        return cls(_load(folder, precision), AutoTokenizer.from_pretrained(folder, trust_remote_code=False))

    def save(self, folder: Path) -> None:
        """Keep the model, with its offset, as safetensors beside its tokenizer.

        Raises UserError, and writes nothing, where a weight is not a number.
        """
        require_finite_weights(self.model)
        self.model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)

    @property
    def max_length(self) -> int:
        """Longest prompt with response, in tokens; `encode` cuts what is longer."""
        return int(self.model.config.reward_max_length)

    def encode(self, prompt: Prompt, response: str) -> list[int]:
        """Ids of the conversation, cut to `max_length`: the response's end goes first, the stop token always stays."""
        prompt_ids = encode_prompt(self.tokenizer, prompt)
        *body, stop = encode_response(self.tokenizer, response)
        room = self.max_length - 1
        if len(prompt_ids) >= room:
            # A prompt that fills everything keeps its end, the part nearest to the response.
            prompt_ids = prompt_ids[len(prompt_ids) - room // 2 :]
        return [*prompt_ids, *body[: room - len(prompt_ids)], stop]

    def score(
        self,
        conversations: Sequence[tuple[Prompt, str]],
        batch_size: int = 64,
        report: Callable[[int, int], None] | None = None,
    ) -> list[float]:
        """The reward of each (prompt, response); the SFT policy's mean is 0."""
        return self.score_ids([self.encode(*conversation) for conversation in conversations], batch_size, report)

    @torch.no_grad()
    def score_ids(
        self, rows: Sequence[list[int]], batch_size: int = 64, report: Callable[[int, int], None] | None = None
    ) -> list[float]:
        """The reward of each sequence of ids, read at its last token.

        Raises UserError for a reward that is infinite or not a number.
        """
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found: dict[int, float] = {}
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            scores_B = last_scores(self.model, [rows[i] for i in batch]) - self.model.config.reward_offset
            found.update(zip(batch, scores_B.tolist(), strict=True))
            if report:
                report(start + len(batch), len(rows))
        broken = sum(not math.isfinite(score) for score in found.values())
        if broken:
            raise UserError(f"The reward model must score every response with a number, but {broken} of {len(rows)} "
                            "scores are infinite or not a number: its training diverged. Lower "
                            "reward_model.learning_rate, or set precision: fp32 if it is bf16.")
        return [found[i] for i in range(len(rows))]

    def centre(self, sequences: Sequence[list[int]]) -> float:
        """Shift all rewards so that these sequences score 0 on average. Returns the total shift.

        Raises UserError if there are none.
        """
        if not sequences:
            raise UserError("There is no response of the SFT policy to centre the reward model on: every prompt is "
                            "longer than half of reward_model.max_length. Raise it.")
        self.model.config.reward_offset += sum(self.score_ids(sequences)) / len(sequences)
        return float(self.model.config.reward_offset)


def token_scores(model: PreTrainedModel, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """The head's output [B, T], fp32, at every token; what it says at padding means nothing."""
    hidden_BTD = model.base_model(input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions(mask_BT),
                                  use_cache=False).last_hidden_state
    # The head's product is taken in fp32 (and element by element, which autocast leaves alone): in bf16 a score keeps
    # 8 bits, so that different responses would tie.
    scores_BT: torch.Tensor = (hidden_BTD.float() * model.score.weight.float()).sum(-1)
    return scores_BT


def last_scores(model: PreTrainedModel, rows: Sequence[list[int]]) -> torch.Tensor:
    """The head's output [B], fp32, at the last token of each row, without the offset."""
    ids_BT, mask_BT = right_pad(rows, pad=0)
    last_B = mask_BT.sum(1) - 1
    scores_BT = token_scores(model, ids_BT.to(model.device), mask_BT.to(model.device))
    return scores_BT[torch.arange(len(rows)), last_B]


def value_model(folder: Path) -> PreTrainedModel:
    """The value model of PPO starts as the reward model (Stiennon et al. 2020, section 3.4): it knows what is good."""
    return _load(folder, "fp32")


def check_same_tokens(policy: LanguageModel, reward: RewardModel) -> None:
    """Raise UserError unless policy and reward model share their vocabulary: PPO hands over ids, not texts."""
    ours, theirs = policy.tokenizer.get_vocab(), reward.tokenizer.get_vocab()
    if ours != theirs:
        raise UserError(f"The policy and the reward model have different vocabularies ({len(ours)} and {len(theirs)} "
                        "tokens), so the reward model would misread the ids that the policy samples. Train the reward "
                        "model on the same base model as the policy.")


def _load(folder: Path, precision: str, fresh_head: bool = False) -> PreTrainedModel:
    """Raises UserError where a weight is not in `folder`, but for a head that is to be fresh."""
    model, found = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, dtype=DTYPES[precision], output_loading_info=True, trust_remote_code=False)
    if missing := set(found["missing_keys"]) - ({"score.weight"} if fresh_head else set()):
        raise UserError(f"The model in {folder} lacks {len(missing)} weights that a reward model of its architecture "
                        f"has (the first is {min(missing)}), which would be filled at random. Choose another base "
                        "model.")
    return model.to(device()).eval()
