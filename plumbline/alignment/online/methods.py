"""The online methods: each is an estimator of advantages, a loss, and whether a critic learns beside it.

    ppo           Schulman et al. 2017, arXiv 1707.06347
    a2c           Mnih et al. 2016, arXiv 1602.01783; for language models Menick et al. 2022, arXiv 2203.11147
    rloo          Ahmadian et al. 2024, arXiv 2402.14740
    grpo          Shao et al. 2024, arXiv 2402.03300
    reinforce++   Hu 2025, arXiv 2501.03262
    trpo          Schulman et al. 2015, arXiv 1502.05477: one natural-gradient step in place of the others
    nlpo          Ramamurthy et al. 2023, arXiv 2210.01241: PPO that samples what an older policy finds likely
"""

from dataclasses import dataclass

from plumbline.alignment.online.advantages import Estimator, by_critic, leave_one_out, to_go, within_group
from plumbline.alignment.online.losses import Loss, clipped_surrogate, policy_gradient
from plumbline.config import PpoParams
from plumbline.config.methods import NlpoParams
from plumbline.errors import UserError
from plumbline.lm.ranks.world import world


@dataclass(frozen=True)
class Method:
    """What makes a method."""

    estimate: Estimator
    loss: Loss
    has_critic: bool = False
    compares_answers: bool = False
    """True if an answer is compared with others to its prompt."""
    one_epoch: bool = False
    natural_step: bool = False
    """True if the policy makes one step within a trust region (trust_region.py) and Adam moves the critic
    alone."""


METHODS = {
    "ppo": Method(by_critic, clipped_surrogate, has_critic=True),
    "a2c": Method(by_critic, policy_gradient, has_critic=True, one_epoch=True),
    "rloo": Method(leave_one_out, clipped_surrogate, compares_answers=True),
    "grpo": Method(within_group, clipped_surrogate, compares_answers=True),
    "reinforce++": Method(to_go, clipped_surrogate),
    "trpo": Method(by_critic, clipped_surrogate, has_critic=True, natural_step=True),
    "nlpo": Method(by_critic, clipped_surrogate, has_critic=True),
}


def require_usable(name: str, params: PpoParams) -> Method:
    """Return the method. Raises UserError for values that contradict it or each other."""
    method, ranks = METHODS[name], world().size
    if params.minibatches > params.batch_size:
        raise UserError(f"ppo.minibatches = {params.minibatches} leaves some without a response: "
                        f"ppo.batch_size is {params.batch_size}. Lower the one or raise the other.")
    if params.batch_size // params.minibatches < ranks:
        raise UserError(f"ppo.batch_size = {params.batch_size} in ppo.minibatches = {params.minibatches} "
                        f"leaves some of {ranks} processes without a response. Raise the one, or lower the "
                        "other or the number of processes.")
    if ranks > 1 and method.natural_step:
        raise UserError(f"{name} makes its step on all weights at once, which none of several processes has, "
                        f"and here are {ranks}. Give this stage one process, or choose another method.")
    if params.batch_size % params.answers_per_prompt:
        raise UserError(f"ppo.batch_size = {params.batch_size} responses cannot be divided into groups of "
                        f"ppo.answers_per_prompt = {params.answers_per_prompt}. Change either.")
    if method.compares_answers and params.answers_per_prompt == 1:
        raise UserError(f"{name} compares the answers to one prompt, so ppo.answers_per_prompt must be at "
                        "least 2; found 1. Set it to 4, say.")
    if method.one_epoch and params.epochs > 1:
        raise UserError(f"{name} may look at each batch once only, because its loss ignores how far the "
                        f"policy has moved, but ppo.epochs is {params.epochs}. Set it to 1.")
    if method.natural_step and params.ptx_coef:
        raise UserError(f"{name} makes one step on its own objective, to which nothing can be added. Set "
                        "ppo.ptx_coef to 0.")
    if isinstance(params, NlpoParams) and params.engine != "own":
        raise UserError(f"{name} samples what an older policy finds likely, which no server does. Set "
                        "ppo.engine to own.")
    if params.kl_in == "loss" and params.kl_estimator == "k1":
        raise UserError("ppo.kl_in: loss needs an estimator whose gradient is a KL's, which k1's is not: its "
                        "mean is 0. Set ppo.kl_estimator to k2 or k3.")
    return method
