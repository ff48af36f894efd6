"""What is measured of a batch of experience and of the updates."""

from collections.abc import Sequence

import torch

from plumbline.alignment.online.advantages import explained_variance, masked_mean
from plumbline.alignment.online.experience import Experience
from plumbline.config import PpoParams
from plumbline.errors import UserError
from plumbline.lm.engines.agreement import prob_error

Metrics = dict[str, float]
TOKEN_MEANS = ("policy_loss", "clip_fraction", "approx_kl", "ratio", "value_loss")
"""Sums over the tokens of an update, shown as their means."""
NEGATIVE_KL = 0.1
"""Nats a response; less may be the rounding of bf16."""
NEGATIVE_KL_SUM = 14.0
"""Nats, over all responses of a batch: exp(-14) is about one in a million."""


def describe(experience: Experience, rewards_BR: torch.Tensor, params: PpoParams) -> Metrics:
    """Return means over the responses of this batch, and how well the values explain their returns.

    `reward` is over all responses, and `score`, the reward model's own, over those that stopped; where there
    are other sources, what each gives and each penalty stand beside. In bf16 another model samples
    than learns: `sampler_gap` is the mean of log(policy / sampler) over the tokens.
    """
    mask_BR = experience.sequences.mask_BR
    metrics = {
        "reward": float(experience.score_B.mean()),
        # Minus the mean log-probability of the sampled tokens is an unbiased estimate of the entropy a token.
        "entropy": -float(masked_mean(experience.old_BR, mask_BR)),
        "length": float(mask_BR.sum(1).float().mean()),
        "stopped": float(experience.stopped_B.float().mean()),
        **experience.parts,
    }
    if params.precision != "fp32":
        gap = (experience.old_BR - experience.sampled_BR)[mask_BR.bool()]
        metrics |= {"sampler_gap": float(gap.mean()), "sampler_gap_std": float(gap.std(correction=0))}
    if bool(experience.stopped_B.any()):
        metrics["score"] = float(experience.score_B[experience.stopped_B].mean())
    if experience.values_BR is not None:
        explained = explained_variance(experience.values_BR, rewards_BR, mask_BR, params.gamma)
        if explained is not None:
            metrics["explained_variance"] = explained
    return metrics


def engine_gap(experience: Experience) -> Metrics:
    """Return how far the engine that sampled and the forward pass of training agree about the tokens.

    `engine_gap` is the mean of |log(policy / engine)|, in nats a token; see agreement.py for `prob_error`.
    """
    gap_N = (experience.old_BR - experience.sampled_BR)[experience.sequences.mask_BR.bool()]
    return {"engine_gap": float(gap_N.abs().mean()), "prob_error": prob_error(gap_N)}


def measured_kl(experience: Experience) -> Metrics:
    """Return `kl`, the policy's to the reference in nats a response, and `kl_error`, its standard error.

    Raises UserError if it is so negative as chance does not make it. Of a response that the policy sampled,
    reference / policy is 1 on average (or less), so by Markov's inequality the sum of log(policy / reference)
    over independent responses is below -s with a probability of at most exp(-s), however few they are.
    """
    kl_B = experience.kl_BR.sum(1)
    kl, total = float(kl_B.mean()), float(kl_B.sum())
    if kl < -NEGATIVE_KL and total < -NEGATIVE_KL_SUM:
        raise UserError(f"The KL of the policy to the reference is {kl:.2f} nats a response, measured on "
                        f"{len(kl_B)} responses. A KL cannot be negative, and chance makes it so less than "
                        "once in a million batches: sampling and scoring disagree about the policy. Is the "
                        "reference the SFT model that the policy started from, and does ppo.temperature "
                        "match the sampling?")
    return {"kl": kl, "kl_error": float(kl_B.std(correction=0)) / len(kl_B) ** 0.5}


def average(history: Sequence[Metrics]) -> Metrics:
    """Return the mean of each figure over the updates that have it."""
    found: dict[str, list[float]] = {}
    for metrics in history:
        for name, value in metrics.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}
