"""The KL from the reference: its estimators, and its weight."""

from dataclasses import dataclass

import torch


def estimate(log_ratio_BR: torch.Tensor, estimator: str) -> torch.Tensor:
    """Return an estimate [B, R], in nats, of KL(policy, reference) at each token that the policy sampled.

    `log_ratio_BR` is log(policy / reference). The mean of k1 is the KL, and a single one may be negative; k2,
    half its square, never is, and its gradient is the KL's, though its mean is only nearly; k3 never is
    negative and has the right mean, and its gradient is that of KL(reference, policy) (Schulman 2020,
    "Approximating KL divergence"; Tang & Munos 2025, arXiv 2506.09477).
    """
    if estimator == "k1":
        return log_ratio_BR
    if estimator == "k2":
        return 0.5 * log_ratio_BR**2
    return (-log_ratio_BR).exp() - 1 + log_ratio_BR


@dataclass
class KLController:
    """The weight of the KL penalty, beta; adaptive if there is a target (Ziegler et al. 2019, section 2.2).

    `target` is in nats a response: KL summed over tokens, averaged over responses. `horizon` is in episodes.
    """

    coef: float
    target: float | None
    horizon: int

    def update(self, kl: float, episodes: int) -> None:
        """Move `coef` by at most 20 % of `episodes / horizon`, towards the target.

        That share is at most 1: with a horizon of fewer than these episodes `coef` moves by 20 %, and never
        below 0.
        """
        if self.target is not None:
            error = max(-0.2, min(0.2, kl / self.target - 1))
            self.coef *= 1 + error * min(1.0, episodes / self.horizon)
