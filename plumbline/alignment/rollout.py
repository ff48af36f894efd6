"""One batch of experience: responses sampled from the policy, and what all four models say about them.

Every log-probability is computed by the forward pass that training uses, so that the ratio is 1 before the first step:
numerics of sampling and training differ below fp32, and PPO would clip the difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from transformers import PreTrainedModel

from plumbline.alignment.ppo_math import token_log_probs
from plumbline.alignment.reward import RewardModel, token_scores
from plumbline.lm.optim import autocast
from plumbline.lm.sampling import Response, left_pad, positions, right_pad


@dataclass(frozen=True)
class Sequences:
    """Prompts padded on the left to P tokens, responses on the right to R, so that all responses begin in one column."""

    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    response_BR: torch.Tensor
    mask_BR: torch.Tensor

    def rows(self, index: torch.Tensor) -> "Sequences":
        """The sequences of these rows."""
        return Sequences(*(getattr(self, field.name)[index] for field in fields(self)))


@dataclass(frozen=True)
class Rollout:
    """Sequences with everything that stays fixed while PPO learns from them. All [B, R], 0 at padding, but `score_B`."""

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
    return Sequences(torch.cat([prompt_BP, response_BR], 1).to(device), torch.cat([prompt_mask_BP, mask_BR], 1).to(device),
                     response_BR.to(device), mask_BR.to(device))


def response_log_probs(model: PreTrainedModel, sequences: Sequences, temperature: float, precision: str) -> torch.Tensor:
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
    return (values_BT[:, -width - 1 : -1] - model.config.reward_offset) * sequences.mask_BR


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
    parts = torch.arange(len(prompts), device=policy.device).split(micro_batch_size)
    old_BR, reference_BR, values_BR = (
        torch.cat(computed) for computed in zip(*(
            (response_log_probs(policy, sequences.rows(rows), temperature, precision),
             response_log_probs(reference, sequences.rows(rows), temperature, precision),
             response_values(value, sequences.rows(rows), precision)) for rows in parts), strict=True))
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
    """Single-sample estimate of KL(policy, reference), in nats, from each response that the policy sampled."""
    found: list[float] = []
    for start in range(0, len(prompts), batch_size):
        rows = slice(start, start + batch_size)
        sequences = join(prompts[rows], responses[rows], policy.device)
        own_BR, reference_BR = (response_log_probs(model, sequences, temperature, "fp32") for model in (policy, reference))
        found += (own_BR - reference_BR).sum(1).tolist()
    return found
