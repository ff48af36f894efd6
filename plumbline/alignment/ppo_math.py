"""The arithmetic of PPO (Schulman et al. 2017, arXiv 1707.06347) on padded batches, without any model.

Shapes: B responses, R response tokens padded on the right, `mask_BR` 1 at real tokens. Every result is 0 at
padding.
"""

from dataclasses import dataclass

import torch


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over the real tokens; 0 if there are none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(values_BR: torch.Tensor, mask_BR: torch.Tensor) -> torch.Tensor:
    """Return the values shifted and scaled to mean 0 and variance 1 over the real tokens; [B, R]."""
    mean = masked_mean(values_BR, mask_BR)
    variance = masked_mean((values_BR - mean) ** 2, mask_BR)
    return (values_BR - mean) * torch.rsqrt(variance + 1e-8) * mask_BR


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


@dataclass(frozen=True)
class PolicyLoss:
    """Sums over the real tokens, so that micro-batches add up to their minibatch exactly."""

    loss: torch.Tensor
    clipped: torch.Tensor
    approx_kl: torch.Tensor
    ratio: torch.Tensor


def policy_loss(
    new_BR: torch.Tensor, old_BR: torch.Tensor, advantages_BR: torch.Tensor, mask_BR: torch.Tensor,
    clip: float,
) -> PolicyLoss:
    """Return the clipped surrogate objective, negated: max(-A * ratio, -A * clip(ratio, 1 - clip, 1 + clip)).

    The ratio is exp(new - old) of the log-probabilities (Schulman et al. 2017, equation 7).
    """
    log_ratio_BR = (new_BR - old_BR) * mask_BR
    ratio_BR = log_ratio_BR.exp()
    unclipped_BR = -advantages_BR * ratio_BR
    clipped_BR = -advantages_BR * ratio_BR.clamp(1 - clip, 1 + clip)
    with torch.no_grad():
        was_clipped = ((clipped_BR > unclipped_BR) * mask_BR).sum()
        # The k3 estimator of KL(old, new): never negative, of low variance (Schulman 2020, "Approximating KL
        # divergence").
        approx_kl = ((ratio_BR - 1 - log_ratio_BR) * mask_BR).sum()
    loss = (torch.maximum(unclipped_BR, clipped_BR) * mask_BR).sum()
    return PolicyLoss(loss, was_clipped, approx_kl, (ratio_BR.detach() * mask_BR).sum())


def value_loss(
    new_BR: torch.Tensor, old_BR: torch.Tensor, returns_BR: torch.Tensor, mask_BR: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return half the squared error summed over the real tokens, the larger of two at each token.

    One is of the new value, the other of the new value clipped to `clip` around the old one
    (openai/lm-human-preferences, `train_policy.py`).
    """
    near_BR = old_BR + (new_BR - old_BR).clamp(-clip, clip)
    error_BR = torch.maximum((new_BR - returns_BR) ** 2, (near_BR - returns_BR) ** 2)
    return 0.5 * (error_BR * mask_BR).sum()


@dataclass
class KLController:
    """The weight of the KL penalty, beta; adaptive if there is a target (Ziegler et al. 2019, section 2.2).

    `target` is in nats a response: KL summed over tokens, averaged over responses. `horizon` is in episodes.
    """

    coef: float
    target: float | None
    horizon: int

    def update(self, kl: float, episodes: int) -> None:
        """Move `coef` by at most 20 % of `episodes / horizon`, towards the target."""
        if self.target is not None:
            error = max(-0.2, min(0.2, kl / self.target - 1))
            self.coef *= 1 + error * episodes / self.horizon


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
