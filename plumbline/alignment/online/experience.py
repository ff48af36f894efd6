"""One batch of experience: responses sampled from the policy, scored by all models.

Every log-probability is computed by the forward pass that training uses, so that the ratio is 1 before the
first step: below fp32 the numerics of sampling and training differ, and PPO would clip the difference.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from transformers import PreTrainedModel

from plumbline.alignment.online.advantages import Targets
from plumbline.alignment.online.critics import Critic
from plumbline.alignment.online.policies import Policy
from plumbline.alignment.online.rewards import CombinedReward, Reward
from plumbline.alignment.sequences import Sequences, join
from plumbline.errors import UserError
from plumbline.lm.ranks.sharding import fill
from plumbline.lm.ranks.world import world
from plumbline.lm.sampling import Response


class Sampler:
    """The model that samples for a policy: its own, or in bf16 or with adapters a merged copy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._copy = None
        if policy.precision != "fp32" and not policy.adapted:
            self._copy = copy_in_bf16(policy.origin.model)

    def renewed(self) -> PreTrainedModel:
        """Return it with the policy's weights of now, all of them on each rank."""
        if self._copy is not None:
            fill(self._copy, self.policy.model)
            return self._copy
        whole = self.policy.whole()
        if not whole.adapted:
            return whole.model
        merged = whole.merged()
        return merged if self.policy.precision == "fp32" else in_bf16(merged)


def in_bf16(model: PreTrainedModel) -> PreTrainedModel:
    """Round the weights of the model, in place, and not its buffers: with the frequencies of rotary positions
    rounded, the thousandth token would stand somewhere else.
    """
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    return model


def copy_in_bf16(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the model with its weights rounded, without one in fp32 on the way; see `in_bf16`."""
    copies = {id(weight): nn.Parameter(weight.to(torch.bfloat16), weight.requires_grad)
              for weight in model.parameters()}
    return copy.deepcopy(model, copies)


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
    """Score sampled responses with all models; the ranks share them, and each has all that is found."""
    device = policy.model.device
    read = _read_by_all(prompts, responses, policy, critic, micro_batch_size)
    parts: dict[str, float] = {}
    if isinstance(reward, CombinedReward):
        scores, parts = reward.rewards_and_parts(prompts, responses, missing_stop_deviations)
    else:
        scores = reward.score_sampled(prompts, responses, missing_stop_deviations)
    sampled_BR = torch.zeros_like(read.old_BR)
    for row, response in enumerate(responses):
        sampled_BR[row, : len(response.log_probs)] = torch.tensor(response.log_probs)
    return Experience(
        read.sequences, sampled_BR, read.old_BR, read.reference_BR, read.values_BR,
        torch.tensor(scores, device=device),
        torch.tensor([response.stopped for response in responses], device=device), parts)


@dataclass(frozen=True)
class _Readings:
    """What policy, reference and critic say of sequences; see `Experience`."""

    sequences: Sequences
    old_BR: torch.Tensor
    reference_BR: torch.Tensor
    values_BR: torch.Tensor | None


def _read_by_all(
    prompts: Sequence[list[int]], responses: Sequence[Response], policy: Policy, critic: Critic | None,
    micro_batch_size: int,
) -> _Readings:
    """Let each rank read its rows, and put what they found together.

    What `Policy.prepared` and `masked` add to sequences is too large to be sent around: later passes find it
    themselves.
    """
    here = world()
    found = _read(here.mine(prompts), here.mine(responses), policy, critic, micro_batch_size)
    if here.size == 1:
        return found
    sequences = join(prompts, [response.ids for response in responses], policy.model.device)
    tables = [found.old_BR, found.reference_BR, *([] if found.values_BR is None else [found.values_BR])]
    whole_BCR = tables[0].new_zeros(len(prompts), len(tables), sequences.mask_BR.shape[1])
    # Copies, because a view is sent with all that it is a view of.
    mine = [row_CR.clone() for row_CR in torch.stack(tables, 1).cpu()]
    for row, own_CR in enumerate(here.gathered(mine)):
        whole_BCR[row, :, : own_CR.shape[1]] = own_CR
    old_BR, reference_BR, *values = whole_BCR.unbind(1)
    return _Readings(sequences, old_BR, reference_BR, values[0] if values else None)


def _read(
    prompts: Sequence[list[int]], responses: Sequence[Response], policy: Policy, critic: Critic | None,
    micro_batch_size: int,
) -> _Readings:
    device = policy.model.device
    sequences = policy.masked(join(prompts, [response.ids for response in responses], device))
    trunk_BTD = None
    empty_BR = torch.zeros(sequences.mask_BR.shape, device=device)
    old_BR, reference_BR = empty_BR, empty_BR.clone()
    values_BR = empty_BR.clone() if critic else None
    every = torch.arange(len(prompts), device=device)
    # A pass that does not count writes again what is there.
    for rows, _ in world().passes(sequences.micro_batches(every, micro_batch_size), every[:1]):
        part = policy.prepared(sequences.rows(rows))
        width = part.mask_BR.shape[1]
        if part.trunk_BTD is not None and world().size == 1:  # kept for all epochs over the batch
            if trunk_BTD is None:
                trunk_BTD = part.trunk_BTD.new_zeros(*sequences.ids_BT.shape, part.trunk_BTD.shape[2])
            trunk_BTD[rows, sequences.columns(rows)] = part.trunk_BTD
        old_BR[rows, :width] = policy.log_probs(part)
        reference_BR[rows, :width] = policy.reference_log_probs(part)
        if critic and values_BR is not None:
            values_BR[rows, :width] = critic.values(part)
    return _Readings(replace(sequences, trunk_BTD=trunk_BTD), old_BR, reference_BR, values_BR)


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
    """Return a single-sample estimate of KL(policy, reference), in nats, from each sampled response, which
    the ranks share.

    Raises UserError if one is infinite or not a number.
    """
    here, found = world(), list[float]()
    rows = [(prompt, response.ids) for prompt, response in zip(prompts, responses, strict=True)]
    mine = here.mine(rows)
    parts = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    for part, weight in here.passes(parts, rows[:1]):
        sequences = policy.prepared(
            join([prompt for prompt, _ in part], [ids for _, ids in part], policy.model.device))
        kl_B = (policy.log_probs(sequences) - policy.reference_log_probs(sequences)).sum(1)
        found += kl_B.tolist() if weight else []
    found = here.gathered(found)
    if broken := sum(not math.isfinite(value) for value in found):
        raise UserError(f"The KL of the policy to its reference is infinite or not a number on {broken} of "
                        f"{len(found)} responses: a training diverged. Lower ppo.learning_rate, or set "
                        "precision: fp32 if it is bf16.")
    return found
