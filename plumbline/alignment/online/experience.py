"""One batch of experience: responses sampled from the policy, scored by all models.

Every log-probability is computed by the forward pass that training uses, so that the ratio is 1 before the
first step: below fp32 the numerics of sampling and training differ, and PPO would clip the difference.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from transformers import PreTrainedModel

from plumbline.alignment.online.advantages import Targets
from plumbline.alignment.online.critics import Critic
from plumbline.alignment.online.policies import Policy
from plumbline.alignment.online.rewards import CombinedReward, Reward
from plumbline.alignment.sequences import Sequences, join
from plumbline.errors import UserError
from plumbline.lm.sampling import Response


class Sampler:
    """The model that samples for a policy: its own, or in bf16 or with adapters a merged copy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._copy = None
        if policy.precision != "fp32" and not policy.adapted:
            self._copy = in_bf16(copy.deepcopy(policy.model))

    def renewed(self) -> PreTrainedModel:
        """Return it with the policy's weights of now."""
        if self.policy.adapted:
            merged = self.policy.merged()
            return merged if self.policy.precision == "fp32" else in_bf16(merged)
        if self._copy is None:
            return self.policy.model
        self._copy.load_state_dict(self.policy.model.state_dict())
        return self._copy


def in_bf16(model: PreTrainedModel) -> PreTrainedModel:
    """Round the weights of the model, in place, and not its buffers: with the frequencies of rotary positions
    rounded, the thousandth token would stand somewhere else.
    """
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    return model


@dataclass(frozen=True)
class Experience:
    """Sequences, and all that stays fixed while learning from them: [B, R] and 0 at padding, or [B]."""

    sequences: Sequences
    sampled_BR: torch.Tensor
    """Log-probabilities when the tokens were drawn."""
    old_BR: torch.Tensor
    """Log-probabilities by the forward pass of training."""
    reference_BR: torch.Tensor
    values_BR: torch.Tensor | None
    """None without a critic."""
    score_B: torch.Tensor
    stopped_B: torch.Tensor
    parts: Mapping[str, float] = field(default_factory=dict)
    """What the scores were made of, where there is more than the reward model: means over the responses."""

    @property
    def kl_BR(self) -> torch.Tensor:
        """Return log(policy / reference) of each token, an estimate of the KL."""
        return self.old_BR - self.reference_BR


@torch.no_grad()
def gather(
    prompts: Sequence[list[int]], responses: Sequence[Response], policy: Policy, critic: Critic | None,
    reward: Reward, *, missing_stop_deviations: float, micro_batch_size: int,
) -> Experience:
    """Score sampled responses with all models."""
    device = policy.model.device
    sequences = join(prompts, [response.ids for response in responses], device)
    sequences = policy.masked(policy.prepared(sequences))
    empty_BR = torch.zeros(sequences.mask_BR.shape, device=device)
    old_BR, reference_BR = empty_BR, empty_BR.clone()
    values_BR = empty_BR.clone() if critic else None
    for rows in sequences.micro_batches(torch.arange(len(prompts), device=device), micro_batch_size):
        part = sequences.rows(rows)
        width = part.mask_BR.shape[1]
        old_BR[rows, :width] = policy.log_probs(part)
        reference_BR[rows, :width] = policy.reference_log_probs(part)
        if critic and values_BR is not None:
            values_BR[rows, :width] = critic.values(part)

    parts: dict[str, float] = {}
    if isinstance(reward, CombinedReward):
        scores, parts = reward.rewards_and_parts(prompts, responses, missing_stop_deviations)
    else:
        scores = reward.score_sampled(prompts, responses, missing_stop_deviations)
    sampled_BR = torch.zeros_like(old_BR)
    for row, response in enumerate(responses):
        sampled_BR[row, : len(response.log_probs)] = torch.tensor(response.log_probs)
    return Experience(
        sequences, sampled_BR, old_BR, reference_BR, values_BR, torch.tensor(scores, device=device),
        torch.tensor([response.stopped for response in responses], device=device), parts)


def corrected(targets: Targets, experience: Experience, cap: float) -> Targets:
    """Return the targets with each token's advantage times min(policy / engine, cap), its weight in the
    policy's loss: the tokens are the engine's, and the loss is of the policy's.

    Weights are never negative, so this is the weight of the clipped objective, too. The critic's targets and
    a KL in the loss stay as they are.
    """
    weight_BR = (experience.old_BR - experience.sampled_BR).exp().clamp(max=cap)
    return replace(targets, advantages_BR=targets.advantages_BR * weight_BR)


@torch.no_grad()
def kl_estimates(
    policy: Policy, prompts: Sequence[list[int]], responses: Sequence[Response], batch_size: int = 32
) -> list[float]:
    """Return a single-sample estimate of KL(policy, reference), in nats, from each sampled response.

    Raises UserError if one is infinite or not a number.
    """
    found: list[float] = []
    for start in range(0, len(prompts), batch_size):
        rows = slice(start, start + batch_size)
        sequences = policy.prepared(
            join(prompts[rows], [response.ids for response in responses[rows]], policy.model.device))
        found += (policy.log_probs(sequences) - policy.reference_log_probs(sequences)).sum(1).tolist()
    if broken := sum(not math.isfinite(value) for value in found):
        raise UserError(f"The KL of the policy to its reference is infinite or not a number on {broken} of "
                        f"{len(found)} responses: a training diverged. Lower ppo.learning_rate, or set "
                        "precision: fp32 if it is bf16.")
    return found
