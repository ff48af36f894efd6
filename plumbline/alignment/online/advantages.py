"""From rewards to advantages: how much better each token was than what was to be expected.

Shapes: B responses, R response tokens padded on the right, `mask_BR` 1 at real tokens, every result 0 at
padding. The answers to one prompt, a group of `answers_per_prompt`, are next to each other. A reward has no
unit of its own; advantages are whitened, or in standard deviations of the SFT policy's rewards.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from plumbline.config import PpoParams
from plumbline.config.methods import GrpoParams


@dataclass(frozen=True)
class Targets:
    """What is learnt from, fixed for all epochs over a batch."""

    advantages_BR: torch.Tensor
    returns_BR: torch.Tensor | None
    """Of the critic; None without one."""


@dataclass(frozen=True)
class Rewarded:
    """A batch as the estimators see it."""

    rewards_BR: torch.Tensor
    mask_BR: torch.Tensor
    values_BR: torch.Tensor | None
    """None without a critic."""
    unit: float
    """What a reward of 1 is: the standard deviation of the SFT policy's rewards, or 1 for whitened ones."""


Estimator = Callable[[Rewarded, PpoParams], Targets]


def by_critic(batch: Rewarded, params: PpoParams) -> Targets:
    """Return whitened generalised advantage estimates, and the critic's targets."""
    assert batch.values_BR is not None
    advantages_BR, returns_BR = advantages_and_returns(
        batch.rewards_BR, batch.values_BR, batch.mask_BR, params.gamma, params.gae_lambda)
    return Targets(whiten(advantages_BR, batch.mask_BR), returns_BR)


def leave_one_out(batch: Rewarded, params: PpoParams) -> Targets:
    """Return each response's reward less the mean of the others to its prompt, at all of its tokens.

    Ahmadian et al. 2024, arXiv 2402.14740 (RLOO). The advantages of a group sum to 0.
    """
    size = params.answers_per_prompt
    total_GK = batch.rewards_BR.sum(1).reshape(-1, size)
    others_GK = (total_GK.sum(1, keepdim=True) - total_GK) / (size - 1)
    advantage_B = (total_GK - others_GK).flatten() / batch.unit
    return Targets(advantage_B[:, None] * batch.mask_BR, None)


def within_group(batch: Rewarded, params: PpoParams) -> Targets:
    """Return each response's reward less the mean of its group, at all of its tokens.

    It is divided by the group's standard deviation (Shao et al. 2024, arXiv 2402.03300, section 4.1.2; the
    unbiased one, as in TRL), or, without `scale_by_deviation`, by the rewards' unit, the same for all groups:
    divided by its own deviation, a group whose answers hardly differ counts as much as any (Liu et al. 2025,
    arXiv 2503.20783).
    """
    assert isinstance(params, GrpoParams)
    total_GK = batch.rewards_BR.sum(1).reshape(-1, params.answers_per_prompt)
    centred_GK = total_GK - total_GK.mean(1, keepdim=True)
    scale_G1 = total_GK.std(1, keepdim=True) + 1e-4 if params.scale_by_deviation else batch.unit
    return Targets((centred_GK / scale_G1).flatten()[:, None] * batch.mask_BR, None)


def to_go(batch: Rewarded, params: PpoParams) -> Targets:
    """Return the whitened sum of the rewards still to come, discounted by `gamma` (Hu 2025, arXiv 2501.03262,
    REINFORCE++): the batch's mean is the baseline.
    """
    none_BR = torch.zeros_like(batch.rewards_BR)
    _, returns_BR = advantages_and_returns(batch.rewards_BR, none_BR, batch.mask_BR, params.gamma, 1.0)
    return Targets(whiten(returns_BR, batch.mask_BR), None)


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over the real tokens; 0 if there are none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(values_BR: torch.Tensor, mask_BR: torch.Tensor) -> torch.Tensor:
    """Return the values shifted and scaled to mean 0 and variance 1 over the real tokens; [B, R]."""
    mean = masked_mean(values_BR, mask_BR)
    variance = masked_mean((values_BR - mean) ** 2, mask_BR)
    return (values_BR - mean) * torch.rsqrt(variance + 1e-8) * mask_BR


def of_unit_variance(values_BR: torch.Tensor, mask_BR: torch.Tensor) -> torch.Tensor:
    """Return the values divided by their standard deviation over the real tokens; [B, R].

    Their mean is divided, too, and not lost: it is what the policy earns. openai/lm-human-preferences
    (`whiten` without `shift_mean`) leaves it as it is, in the unit that the spread no longer has, so that a
    reward of another unit would favour longer or shorter answers.
    """
    variance = masked_mean((values_BR - masked_mean(values_BR, mask_BR)) ** 2, mask_BR)
    return values_BR * torch.rsqrt(variance + 1e-8) * mask_BR


def token_rewards(
    score_B: torch.Tensor, kl_BR: torch.Tensor, mask_BR: torch.Tensor, kl_coef: float
) -> torch.Tensor:
    """Return the reward [B, R] of each token: -kl_coef * kl, plus the score at the last real token.

    Ziegler et al. 2019, arXiv 1909.08593, equation 2. Each response has a token, were it only the one that
    ends it.
    """
    rewards_BR = -kl_coef * kl_BR * mask_BR
    last_B = mask_BR.sum(1) - 1
    assert bool((last_B >= 0).all()), "a response without any token has no place for its score"
    rewards_BR[torch.arange(len(score_B)), last_B.long()] += score_B
    return rewards_BR


def advantages_and_returns(
    rewards_BR: torch.Tensor, values_BR: torch.Tensor, mask_BR: torch.Tensor, gamma: float, gae_lambda: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return generalised advantage estimates and value targets (returns), both [B, R].

    delta_t = r_t + gamma * V_(t+1) - V_t, and A_t = delta_t + gamma * lambda * A_(t+1) (Schulman et al. 2016,
    arXiv 1506.02438, equation 16). V is 0 after the last real token: the response ends there. A response that
    was cut needs no bootstrap either, because it got a reward of its own (`missing_stop_deviations`).
    """
    mask_BR = mask_BR.to(values_BR.dtype)
    values_BR = values_BR * mask_BR
    advantages_BR = torch.zeros_like(values_BR)
    running_B = torch.zeros_like(values_BR[:, 0])
    next_value_B = torch.zeros_like(running_B)
    for t in reversed(range(values_BR.shape[1])):
        delta_B = rewards_BR[:, t] + gamma * next_value_B - values_BR[:, t]
        # At padding A and V stay 0, so the last real token gets nothing from the columns behind it.
        running_B = (delta_B + gamma * gae_lambda * running_B) * mask_BR[:, t]
        next_value_B = values_BR[:, t]
        advantages_BR[:, t] = running_B
    return advantages_BR, (advantages_BR + values_BR) * mask_BR


def explained_variance(
    values_BR: torch.Tensor, rewards_BR: torch.Tensor, mask_BR: torch.Tensor, gamma: float
) -> float | None:
    """Return the share of the variance of the Monte Carlo returns that the values explain.

    1 - Var(returns - values) / Var(returns): 1 is perfect, 0 no better than a constant. The returns that the
    value model learns from would not do, because they contain its own values. None if all returns are the
    same.
    """
    # Without values, and with lambda 1, a return is the discounted sum of the rewards still to come.
    _, returns_BR = advantages_and_returns(rewards_BR, torch.zeros_like(values_BR), mask_BR, gamma, 1.0)
    returns, values = returns_BR[mask_BR.bool()], values_BR[mask_BR.bool()]
    variance = returns.var(correction=0)
    if variance == 0:
        return None
    return float(1 - (returns - values).var(correction=0) / variance)
