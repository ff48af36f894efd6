"""One batch of experience: responses sampled from the policy, scored by all four models.

Every log-probability is computed by the forward pass that training uses, so that the ratio is 1 before the
first step: below fp32 the numerics of sampling and training differ, and PPO would clip the difference.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from plumbline.alignment.ppo_math import token_log_probs
from plumbline.alignment.reward import RewardModel, token_scores
from plumbline.errors import UserError
from plumbline.lm.optim import autocast
from plumbline.lm.sampling import Response, left_pad, positions, right_pad


class Sampler:
    """The model that samples for a policy: the policy itself, or in bf16 a copy with weights in bf16."""

    def __init__(self, model: PreTrainedModel, precision: str) -> None:
        self.model = model
        """The policy."""
        self._copy = None if precision == "fp32" else copy.deepcopy(model).to(torch.bfloat16)

    def renewed(self) -> PreTrainedModel:
        """Return it with the policy's weights of now."""
        if self._copy is None:
            return self.model
        self._copy.load_state_dict(self.model.state_dict())
        return self._copy


@dataclass(frozen=True)
class Sequences:
    """Prompts padded on the left to P tokens, responses on the right to R: these begin at column P."""

    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    response_BR: torch.Tensor
    mask_BR: torch.Tensor

    def rows(self, index: torch.Tensor) -> "Sequences":
        """Return the sequences of these rows, without the columns in which all of them have padding."""
        mask_BT, mask_BR = self.mask_BT[index], self.mask_BR[index]
        prompt_width = mask_BT.shape[1] - mask_BR.shape[1]
        first = int(prompt_width - mask_BT[:, :prompt_width].sum(1).max())
        width = int(mask_BR.sum(1).max())
        columns = slice(first, prompt_width + width)
        return Sequences(self.ids_BT[index, columns], mask_BT[:, columns], self.response_BR[index, :width],
                         mask_BR[:, :width])

    def micro_batches(self, index: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
        """Divide the rows `index` into parts of at most `size` rows of similar length, to spare padding."""
        length = self.mask_BT[index].sum(1)
        parts: tuple[torch.Tensor, ...] = index[length.argsort(stable=True)].split(size)
        return parts


@dataclass(frozen=True)
class Rollout:
    """Sequences, and all that stays fixed while PPO learns from them: [B, R] and 0 at padding, or [B]."""

    sequences: Sequences
    sampled_BR: torch.Tensor
    """Log-probabilities when the tokens were drawn."""
    log_probs_BR: torch.Tensor
    """Log-probabilities by the forward pass of training."""
    kl_BR: torch.Tensor
    values_BR: torch.Tensor
    score_B: torch.Tensor
    stopped_B: torch.Tensor


def join(prompts: Sequence[list[int]], responses: Sequence[Response], device: torch.device) -> Sequences:
    """Put prompts and responses side by side."""
    prompt_BP, prompt_mask_BP = left_pad(prompts, pad=0)
    response_BR, mask_BR = right_pad([response.ids for response in responses], pad=0)
    ids_BT = torch.cat([prompt_BP, response_BR], 1)
    mask_BT = torch.cat([prompt_mask_BP, mask_BR], 1)
    return Sequences(ids_BT.to(device), mask_BT.to(device), response_BR.to(device), mask_BR.to(device))


def response_log_probs(
    model: PreTrainedModel, sequences: Sequences, temperature: float, precision: str
) -> torch.Tensor:
    """Return the log-probability [B, R], in nats, of each response token; 0 at padding.

    Only the response's positions pass through the output layer: position t predicts token t + 1.
    """
    width = sequences.response_BR.shape[1]
    with autocast(precision):
        logits_BRV = model(input_ids=sequences.ids_BT, attention_mask=sequences.mask_BT,
                           position_ids=positions(sequences.mask_BT), use_cache=False,
                           logits_to_keep=width + 1).logits[:, :-1]
    return token_log_probs(logits_BRV, sequences.response_BR, temperature) * sequences.mask_BR


def response_values(model: PreTrainedModel, sequences: Sequences, precision: str) -> torch.Tensor:
    """Return the value [B, R] of the state in which each response token was chosen, just before it; 0 at
    padding.

    The value model starts as the reward model, so its output is centred in the same way.
    """
    width = sequences.response_BR.shape[1]
    with autocast(precision):
        values_BT = token_scores(model, sequences.ids_BT, sequences.mask_BT)
    values_BR: torch.Tensor = (values_BT[:, -width - 1 : -1] - model.config.reward_offset) * sequences.mask_BR
    return values_BR


@torch.no_grad()
def roll_out(
    prompts: Sequence[list[int]],
    responses: Sequence[Response],
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    value: PreTrainedModel,
    reward: RewardModel,
    *,
    temperature: float,
    missing_stop_deviations: float,
    precision: str,
    micro_batch_size: int,
) -> Rollout:
    """Score sampled responses with all models; see `RewardModel.score_sampled` for one that did not stop."""
    sequences = join(prompts, responses, policy.device)
    empty_BR = torch.zeros(sequences.mask_BR.shape, device=policy.device)
    old_BR, reference_BR, values_BR = empty_BR, empty_BR.clone(), empty_BR.clone()
    all_rows = torch.arange(len(prompts), device=policy.device)
    for rows in sequences.micro_batches(all_rows, micro_batch_size):
        part = sequences.rows(rows)
        width = part.mask_BR.shape[1]
        old_BR[rows, :width] = response_log_probs(policy, part, temperature, precision)
        reference_BR[rows, :width] = response_log_probs(reference, part, temperature, precision)
        values_BR[rows, :width] = response_values(value, part, precision)

    scores = reward.score_sampled(prompts, responses, missing_stop_deviations)
    score_B = torch.tensor(scores, device=policy.device)
    stopped_B = torch.tensor([response.stopped for response in responses], device=policy.device)
    sampled_BR = torch.zeros_like(old_BR)
    for row, response in enumerate(responses):
        sampled_BR[row, : len(response.log_probs)] = torch.tensor(response.log_probs)
    return Rollout(sequences, sampled_BR, old_BR, old_BR - reference_BR, values_BR, score_B, stopped_B)


@torch.no_grad()
def kl_estimates(
    policy: PreTrainedModel, reference: PreTrainedModel, prompts: Sequence[list[int]],
    responses: Sequence[Response], temperature: float, batch_size: int = 32, precision: str = "fp32",
) -> list[float]:
    """Return a single-sample estimate of KL(policy, reference), in nats, from each sampled response.

    `precision` is that of both forward passes.

    Raises UserError if one is infinite or not a number.
    """
    found: list[float] = []
    for start in range(0, len(prompts), batch_size):
        rows = slice(start, start + batch_size)
        sequences = join(prompts[rows], responses[rows], policy.device)
        policy_BR = response_log_probs(policy, sequences, temperature, precision)
        reference_BR = response_log_probs(reference, sequences, temperature, precision)
        found += (policy_BR - reference_BR).sum(1).tolist()
    if broken := sum(not math.isfinite(value) for value in found):
        raise UserError(f"The KL of the policy to its reference is infinite or not a number on {broken} of "
                        f"{len(found)} responses: a training diverged. Lower ppo.learning_rate, or set "
                        "precision: fp32 if it is bf16.")
    return found
