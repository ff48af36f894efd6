"""The reward model: a scalar for a prompt with a response, learnt from comparisons.

It is a sequence classifier with one output, initialised from SFT, its head N(0, 1/(d+1)) (Stiennon et al.
2020, appendix B), and is stored as transformers stores one. Here the last token is found by counting, where
transformers looks for padding. Rewards are shifted so that the SFT policy's finished answers score 0 on
average (ibid.). Their mean and standard deviation are kept in the model's config, as `reward_offset` and
`reward_std`: a reward has no unit of its own, so whatever is added to it is given in these deviations.

An ensemble has several members, which differ in their heads' first weights and in the order of what they
have learnt (Coste et al. 2023, arXiv 2310.02743, section 3.1). It scores an answer with the mean of its
members' deviations, in the unit of the first one, from which PPO's critic starts; the deviation of that mean
is kept in the first one's config, as `reward_mean_std`. On disk the others are folders in that of the first.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from plumbline.errors import UserError
from plumbline.lm.base import DTYPES, LanguageModel, save_pretrained
from plumbline.lm.chat import differences, encode_prompt, encode_response
from plumbline.lm.hidden import hidden_states
from plumbline.lm.optim import device, require_finite_weights
from plumbline.lm.ranks.sharding import inside, sharded
from plumbline.lm.ranks.world import world
from plumbline.lm.sampling import Response, right_pad
from plumbline.preferences.types import Prompt

SPARE = [[0]]
"""What a rank reads that has no row left, while others have."""
LEAST_TO_CENTRE = 8
"""Finished answers without which a mean and a standard deviation would say nothing."""
MEMBERS = "members"
"""The folder, in that of an ensemble, with those of its second and further members."""


@dataclass(frozen=True)
class RewardModel:
    """Scores prompts with responses."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    others: tuple["RewardModel", ...] = ()
    """The other members of an ensemble. They are only asked, and on several ranks they are in parts."""

    @classmethod
    def from_policy(cls, folder: Path, max_length: int, seed: int) -> "RewardModel":
        """Return a new reward model: the body of the policy in `folder`, with a fresh head."""
        model = _load(folder, "fp32", fresh_head=True)
        generator = torch.Generator().manual_seed(seed)
        head = model.score.weight
        with torch.no_grad():
            fresh = torch.randn(head.shape, generator=generator) / (head.shape[1] + 1) ** 0.5
            head.copy_(fresh.to(head.device))
        model.config.reward_offset, model.config.reward_std = 0.0, 1.0
        model.config.reward_max_length = max_length
        return cls(model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))

    @classmethod
    def load(cls, folder: Path, precision: str = "fp32") -> "RewardModel":
        """Load the model that `save` wrote to `folder`, and the members beside it, with the weights in
        `precision`.
        """
        # Each is taken apart before the next one is loaded.
        others = tuple(cls.load(member, precision).sharded() for member in members_beside(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return cls(_load(folder, precision), tokenizer, others)

    @property
    def members(self) -> tuple["RewardModel", ...]:
        """Return the members of an ensemble, each as a reward model by itself; a single one is its only
        member.
        """
        return replace(self, others=()), *self.others

    def sharded(self) -> "RewardModel":
        """Return the model in parts, one on each rank, to be asked and not trained; itself with one rank.

        With several, this one has no weights any more.
        """
        return replace(self, model=sharded(self.model))

    def save(self, folder: Path) -> None:
        """Write the model with its offset, as safetensors, and its tokenizer to `folder`.

        All ranks have to call it, of which the first one writes. Raises UserError, and writes nothing, if a
        weight is infinite or not a number.
        """
        require_finite_weights(self.model)
        save_pretrained(self.model, self.tokenizer, folder)

    @property
    def max_length(self) -> int:
        """Return the longest prompt with response that the model was trained on, in tokens."""
        return int(self.model.config.reward_max_length)

    @property
    def std(self) -> float:
        """Return the standard deviation of the SFT policy's rewards; 1 for a model that has none on
        record."""
        return float(getattr(self.model.config, "reward_std", 1.0))

    def whole(self, prompt: Prompt, response: str) -> list[int]:
        """Return the ids of a prompt with a finished response, however many."""
        return encode_prompt(self.tokenizer, prompt) + encode_response(self.tokenizer, response)

    def encode(self, prompt: Prompt, response: str) -> list[int]:
        """Return the ids, cut at `max_length`: then without a stop token, as an answer that was cut."""
        return self.whole(prompt, response)[: self.max_length]

    def fits(self, prompt: Prompt, response: str) -> bool:
        """Return whether a finished response is read whole. PPO never asks about one that was cut."""
        return len(self.whole(prompt, response)) <= self.max_length

    def score(
        self,
        conversations: Sequence[tuple[Prompt, str]],
        batch_size: int = 64,
        report: Callable[[int, int], None] | None = None,
    ) -> list[float]:
        """Return the reward of each (prompt, response); the SFT policy's mean is 0.

        A conversation longer than `max_length` is read at its last token that fits, without a stop token.
        """
        rows = [self.encode(prompt, response) for prompt, response in conversations]
        return self.score_ids(rows, batch_size, report)

    @torch.no_grad()
    def score_ids(
        self, rows: Sequence[list[int]], batch_size: int = 64,
        report: Callable[[int, int], None] | None = None,
    ) -> list[float]:
        """Return the reward of each sequence of ids, read at its last token.

        The ranks share the rows. `report` is called with the sequences done here and their total, by each
        member of an ensemble. Raises UserError if a reward is infinite or not a number.
        """
        if self.others:
            return self.combined([member.score_ids(rows, batch_size, report) for member in self.members])
        found = world().gathered(self._score_ids(world().mine(rows), batch_size, report))
        broken = sum(not math.isfinite(score) for score in found)
        if broken:
            raise UserError(f"The reward model must score every response with a number, but {broken} of "
                            f"{len(rows)} scores are infinite or not a number: its training diverged. Lower "
                            "reward_model.learning_rate, or set precision: fp32 if it is bf16.")
        return found

    def combined(self, of_members: Sequence[Sequence[float]]) -> list[float]:
        """Return an ensemble's reward of each sequence, from those that its members give them."""
        deviations = [[score / member.std for score in scores]
                      for member, scores in zip(self.members, of_members, strict=True)]
        unit = self.std / float(self.model.config.reward_mean_std)
        return [unit * mean for mean in _means(deviations)]

    def deviations(self, rows: Sequence[list[int]]) -> list[float]:
        """Return the reward of each sequence, see `score_ids`, in standard deviations of SFT's answers."""
        return [score / self.std for score in self.score_ids(rows)]

    def _score_ids(
        self, rows: Sequence[list[int]], batch_size: int, report: Callable[[int, int], None] | None
    ) -> list[float]:
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        found: dict[int, float] = {}
        for batch, weight in world().passes(batches, []):
            read = [rows[i] for i in batch] or SPARE
            scores_B = inside(self.model, partial(last_scores, self.model, read))
            scores_B = scores_B - self.model.config.reward_offset
            found.update(zip(batch, scores_B.tolist(), strict=False))
            if report and weight:
                report(len(found), len(rows))
        return [found[i] for i in range(len(rows))]

    def score_sampled(
        self, prompts: Sequence[list[int]], responses: Sequence[Response], missing_stop_deviations: float
    ) -> list[float]:
        """Return the reward of each sampled response to the prompt, in ids, beside it.

        One that did not stop by itself is no answer yet, so the model is not asked about it: it gets
        `missing_stop_deviations` standard deviations below the SFT policy's mean, which is 0.
        """
        finished = [prompt + response.ids for prompt, response in zip(prompts, responses, strict=True)
                    if response.stopped]
        scores = iter(self.score_ids(finished))
        cut = -missing_stop_deviations * self.std
        return [next(scores) if response.stopped else cut for response in responses]

    def centre(self, sequences: Sequence[list[int]]) -> None:
        """Shift all rewards so that these sequences score 0 on average, and keep their standard deviation.

        Raises UserError if they are too few, and if all of them have the same reward.
        """
        require_enough(sequences)
        scores = self.score_ids(sequences)
        self.model.config.reward_std = _deviation(scores)
        self.model.config.reward_offset += fmean(scores)

    def lead(self, of_members: Sequence[Sequence[float]]) -> None:
        """Make this the first member of an ensemble: keep the standard deviation of the members' mean.

        `of_members` are the deviations, by each member and by this one first, of the sequences that all of
        them were centred on. Raises UserError if all sequences have the same mean.
        """
        self.model.config.reward_mean_std = _deviation(_means(of_members))


def members_beside(folder: Path) -> list[Path]:
    """Return the folders of an ensemble's members but for the first, which is in `folder` itself."""
    return sorted((folder / MEMBERS).glob("*"), key=lambda member: int(member.name))


def require_enough(finished: Sequence[list[int]]) -> None:
    """Raise UserError if finished answers are fewer than LEAST_TO_CENTRE."""
    if len(finished) < LEAST_TO_CENTRE:
        raise UserError("The reward model is centred on finished answers of the SFT policy, and wants at "
                        f"least {LEAST_TO_CENTRE} of them; found {len(finished)}. Raise ppo.max_response or "
                        "reward_model.centering_samples, or show SFT more answers that end.")


def _means(of_members: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean over the members of what each gives a sequence."""
    return [fmean(of_row) for of_row in zip(*of_members, strict=True)]


def _deviation(scores: Sequence[float]) -> float:
    """Return the standard deviation of the SFT policy's scores. Raises UserError if there is none."""
    if (deviation := stdev(scores)) == 0:
        raise UserError(f"The reward model gives all {len(scores)} answers of the SFT policy the same "
                        "reward, so there is nothing to learn from it. Raise reward_model.learning_rate "
                        "or reward_model.epochs.")
    return deviation


def token_scores(model: PreTrainedModel, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Return the head's output [B, T], in fp32, at every token; it means nothing at padding."""
    return scores_of(hidden_states(model.base_model, ids_BT, mask_BT), model.score.weight)


def scores_of(hidden_BTD: torch.Tensor, weight_1D: torch.Tensor) -> torch.Tensor:
    """Return the scores [B, T] of hidden states.

    The product is taken in fp32 (and element by element, which autocast leaves alone): in bf16 a score keeps
    8 bits, so that different responses would tie.
    """
    scores_BT: torch.Tensor = (hidden_BTD.float() * weight_1D.float()).sum(-1)
    return scores_BT


def last_scores(model: PreTrainedModel, rows: Sequence[list[int]]) -> torch.Tensor:
    """Return the head's output [B], in fp32, at the last token of each row; the offset is not subtracted."""
    ids_BT, mask_BT = right_pad(rows, pad=0)
    last_B = mask_BT.sum(1) - 1
    scores_BT = token_scores(model, ids_BT.to(model.device), mask_BT.to(model.device))
    return scores_BT[torch.arange(len(rows)), last_B]


def value_model(folder: Path) -> PreTrainedModel:
    """Load PPO's value model: it starts as the reward model (Stiennon et al. 2020, section 3.4)."""
    return _load(folder, "fp32")


def check_same_tokens(policy: LanguageModel, reward: RewardModel) -> None:
    """Raise UserError unless policy and reward model have the same tokens: PPO hands over ids, not texts."""
    if different := differences(policy.tokenizer, reward.tokenizer):
        raise UserError("The policy and the reward model must have the same tokens, but they differ in "
                        f"{' and '.join(different)}, so the reward model would misread the ids that the "
                        "policy samples. Train the reward model on the same base model as the policy.")


def _load(folder: Path, precision: str, fresh_head: bool = False) -> PreTrainedModel:
    """Load a sequence classifier. Raises UserError if `folder` lacks a weight other than a fresh head's."""
    model, found = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, dtype=DTYPES[precision], output_loading_info=True, trust_remote_code=False)
    if missing := set(found["missing_keys"]) - ({"score.weight"} if fresh_head else set()):
        raise UserError(f"The model in {folder} lacks {len(missing)} weights that a reward model of its "
                        f"architecture has (the first is {min(missing)}), which would be filled at random. "
                        "Choose another base model.")
    return model.to(device()).eval()
