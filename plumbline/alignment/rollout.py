"""One batch of experience: responses sampled from the policy, and what all four models say about them.

Every log-probability is computed by the forward pass that training uses, so that the ratio is 1 before the first step:
numerics of sampling and training differ below fp32, and PPO would clip the difference.
"""

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


@dataclass(frozen=True)
class Sequences:
    """Prompts padded on the left to P tokens, responses on the right to R, so that all responses begin together."""

    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    response_BR: torch.Tensor
    mask_BR: torch.Tensor

    def rows(self, index: torch.Tensor) -> "Sequences":
        """The sequences of these rows, without the columns in which all of them have padding."""
        mask_BT, mask_BR = self.mask_BT[index], self.mask_BR[index]
        prompt = mask_BT.shape[1] - mask_BR.shape[1]
        first = int(prompt - mask_BT[:, :prompt].sum(1).max())
        width = int(mask_BR.sum(1).max())
        columns = slice(first, prompt + width)
        return Sequences(self.ids_BT[index, columns], mask_BT[:, columns], self.response_BR[index, :width],
                         mask_BR[:, :width])

    def micro_batches(self, index: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
        """`index` in parts of at most `size` rows of similar length: what is left of padding costs little."""
        length = self.mask_BT[index].sum(1)
        parts: tuple[torch.Tensor, ...] = index[length.argsort(stable=True)].split(size)
        return parts


@dataclass(frozen=True)
class Rollout:
    """Sequences with everything that stays fixed while PPO learns from them. All [B, R] and 0 at padding, or [B]."""

    sequences: Sequences
    log_probs_BR: torch.Tensor
    kl_BR: torch.Tensor
    values_BR: torch.Tensor
    score_B: torch.Tensor
    stopped_B: torch.Tensor


def join(prompts: Sequence[list[int]], responses: Sequence[Response], device: torch.device) -> Sequences:
    """Put prompts and responses side by side."""
    prompt_BP, prompt_mask_BP = left_pad(prompts, pad=0)
    response_BR, mask_BR = right_pad([response.ids for response in responses], pad=0)
    return Sequences(torch.cat([prompt_BP, response_BR], 1).to(device),
                     torch.cat([prompt_mask_BP, mask_BR], 1).to(device), response_BR.to(device), mask_BR.to(device))


def response_log_probs(
    model: PreTrainedModel, sequences: Sequences, temperature: float, precision: str
) -> torch.Tensor:
    """Log-probability [B, R] of each response token. Only the response's positions pass through the output layer."""
    width = sequences.response_BR.shape[1]
    with autocast(precision):
        logits_BRV = model(input_ids=sequences.ids_BT, attention_mask=sequences.mask_BT,
                           position_ids=positions(sequences.mask_BT), use_cache=False,
                           logits_to_keep=width + 1).logits[:, :-1]
    return token_log_probs(logits_BRV, sequences.response_BR, temperature) * sequences.mask_BR


def response_values(model: PreTrainedModel, sequences: Sequences, precision: str) -> torch.Tensor:
    """Value [B, R] of the state in which each response token was chosen: what the model knew just before it.

    The value model starts as the reward model, so it is read as that one is: centred.
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
    missing_stop_reward: float,
    precision: str,
    micro_batch_size: int,
) -> Rollout:
    """Score sampled responses. A response that did not stop by itself gets `missing_stop_reward` for its score."""
    sequences = join(prompts, responses, policy.device)
    old_BR, reference_BR, values_BR = (torch.zeros(sequences.mask_BR.shape, device=policy.device) for _ in range(3))
    for rows in sequences.micro_batches(torch.arange(len(prompts), device=policy.device), micro_batch_size):
        part = sequences.rows(rows)
        width = part.mask_BR.shape[1]
        old_BR[rows, :width] = response_log_probs(policy, part, temperature, precision)
        reference_BR[rows, :width] = response_log_probs(reference, part, temperature, precision)
        values_BR[rows, :width] = response_values(value, part, precision)
    scores = reward.score_ids([prompt + response.ids for prompt, response in zip(prompts, responses, strict=True)])
    stopped_B = torch.tensor([response.stopped for response in responses], device=policy.device)
    score_B = torch.where(stopped_B, torch.tensor(scores, device=policy.device),
                          torch.tensor(missing_stop_reward, device=policy.device))
    return Rollout(sequences, old_BR, old_BR - reference_BR, values_BR, score_B, stopped_B)


@torch.no_grad()
def kl_estimates(
    policy: PreTrainedModel, reference: PreTrainedModel, prompts: Sequence[list[int]], responses: Sequence[Response],
    temperature: float, batch_size: int = 32,
) -> list[float]:
    """Single-sample estimate of KL(policy, reference), in nats, from each response that the policy sampled.

    Raises UserError where one is not a number.
    """
    found: list[float] = []
    for start in range(0, len(prompts), batch_size):
        rows = slice(start, start + batch_size)
        sequences = join(prompts[rows], responses[rows], policy.device)
        own_BR, reference_BR = (response_log_probs(model, sequences, temperature, "fp32")
                                for model in (policy, reference))
        found += (own_BR - reference_BR).sum(1).tolist()
    if broken := sum(not math.isfinite(value) for value in found):
        raise UserError(f"The KL of the policy to its reference is infinite or not a number on {broken} of "
                        f"{len(found)} responses: a training diverged. Lower ppo.learning_rate, or set precision: fp32 "
                        "if it is bf16.")
    return found
