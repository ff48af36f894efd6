"""Losses of policy and critic on padded batches, without any model.

Shapes: B responses, R response tokens padded on the right, `mask_BR` 1 at real tokens. Losses are sums over
the real tokens, so that micro-batches add up to their minibatch exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PolicyLoss:
    """The loss, with its gradient, and figures of it: sums over the real tokens."""

    loss: torch.Tensor
    clipped: torch.Tensor
    approx_kl: torch.Tensor
    ratio: torch.Tensor


def clipped_surrogate(
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


def policy_gradient(
    new_BR: torch.Tensor, old_BR: torch.Tensor, advantages_BR: torch.Tensor, mask_BR: torch.Tensor,
    clip: float,  # noqa: ARG001 - nothing is clipped
) -> PolicyLoss:
    """Return -A * log-probability, whose gradient is the plain policy gradient (Mnih et al. 2016, arXiv
    1602.01783, section 4, A2C): for one step on each batch, because it does not look at the ratio.
    """
    log_ratio_BR = (new_BR - old_BR).detach() * mask_BR
    ratio_BR = log_ratio_BR.exp()
    approx_kl = ((ratio_BR - 1 - log_ratio_BR) * mask_BR).sum()
    loss = (-advantages_BR * new_BR * mask_BR).sum()
    return PolicyLoss(loss, torch.zeros_like(approx_kl), approx_kl, (ratio_BR * mask_BR).sum())


Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], PolicyLoss]
