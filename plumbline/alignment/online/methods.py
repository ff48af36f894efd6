"""The online methods: each is an estimator of advantages and a loss.

    ppo           Schulman et al. 2017, arXiv 1707.06347
    a2c           Mnih et al. 2016, arXiv 1602.01783; for language models Menick et al. 2022, arXiv 2203.11147
    rloo          Ahmadian et al. 2024, arXiv 2402.14740
    grpo          Shao et al. 2024, arXiv 2402.03300
    reinforce++   Hu 2025, arXiv 2501.03262
    trpo          Schulman et al. 2015, arXiv 1502.05477: one natural-gradient step of the policy
                  (trust_region.py); Adam moves the critic alone
    nlpo          Ramamurthy et al. 2023, arXiv 2210.01241: PPO that samples what an older policy finds likely

Which of them have a critic, and what they ask of their parameters, stands in config/online.py.
"""

from dataclasses import dataclass

from plumbline.alignment.online.advantages import Estimator, by_critic, leave_one_out, to_go, within_group
from plumbline.alignment.online.losses import Loss, clipped_surrogate, policy_gradient


@dataclass(frozen=True)
class Method:
    """What makes a method."""

    estimate: Estimator
    loss: Loss


METHODS = {
    "ppo": Method(by_critic, clipped_surrogate),
    "a2c": Method(by_critic, policy_gradient),
    "rloo": Method(leave_one_out, clipped_surrogate),
    "grpo": Method(within_group, clipped_surrogate),
    "reinforce++": Method(to_go, clipped_surrogate),
    "trpo": Method(by_critic, clipped_surrogate),
    "nlpo": Method(by_critic, clipped_surrogate),
}
