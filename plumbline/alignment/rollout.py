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

from plumbline.alignment.reward import RewardModel, token_scores
from plumbline.alignment.sequences import Sequences, join, response_log_probs
from plumbline.errors import UserError
from plumbline.lm.optim import autocast
from plumbline.lm.sampling import Response


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
    sequences = join(prompts, [response.ids for response in responses], policy.device)
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
        sequences = join(prompts[rows], [response.ids for response in responses[rows]], policy.device)
        policy_BR = response_log_probs(policy, sequences, temperature, precision)
        reference_BR = response_log_probs(reference, sequences, temperature, precision)
        found += (policy_BR - reference_BR).sum(1).tolist()
    if broken := sum(not math.isfinite(value) for value in found):
        raise UserError(f"The KL of the policy to its reference is infinite or not a number on {broken} of "
                        f"{len(found)} responses: a training diverged. Lower ppo.learning_rate, or set "
                        "precision: fp32 if it is bf16.")
    return found
