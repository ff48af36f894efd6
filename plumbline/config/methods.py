"""The parameters of the methods that stand beside PPO in a comparison.

A method takes the values of one block of `params.yaml`, `ppo`, `direct` or `sft`, and adds its own. A
candidate is a method with some of the values changed: `candidates.NAME` holds the method's own values, and
those of its block that are to be others.
"""

from typing import Annotated

from pydantic import Field

from plumbline.config.blocks import DirectParams, PpoParams, RewardParts, SftParams
from plumbline.config.values import (
    Count,
    EngineName,
    Finite,
    Fraction,
    NotNegative,
    ParamsBlock,
    Positive,
    Share,
)


class GrpoParams(PpoParams):
    """Group-relative policy optimisation (Shao et al. 2024, arXiv 2402.03300)."""

    scale_by_deviation: bool
    """If true, an answer's advantage is divided by the deviation of its group's rewards; if false, it is that
    of Dr. GRPO (Liu et al. 2025, arXiv 2503.20783)."""


class NlpoParams(PpoParams):
    """Natural language policy optimisation (Ramamurthy et al. 2023, arXiv 2210.01241)."""

    mask_top_p: Annotated[float, Field(gt=0, le=1)]
    """Only the likeliest tokens of the masking policy, together this probable, may be sampled."""
    mask_every: Count
    """Updates after which the masking policy becomes the policy of then."""


class TrpoParams(PpoParams):
    """Trust region policy optimisation (Schulman et al. 2015, arXiv 1502.05477)."""

    trust_region: Positive
    """Largest mean KL, in nats a token, from the policy before an update to the one after it."""
    conjugate_gradients: Count
    """Steps of the conjugate-gradient method, each of which takes two passes with gradients."""
    damping: NotNegative
    """Added to the diagonal of the Fisher matrix."""


class DpoParams(DirectParams):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290)."""

    beta: Positive
    """Weight of the KL to SFT that the loss stands for."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)]
    """Probability with which each label is taken to be wrong (Mitchell 2023, "conservative DPO")."""


class IpoParams(DirectParams):
    """Identity preference optimisation (Azar et al. 2023, arXiv 2310.12036)."""

    beta: Positive
    """Weight of the KL to SFT, tau in the paper: the preferred answer's log-ratio, a token, is to be ahead by
    1 / (2 beta)."""


class KtoParams(DirectParams):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306)."""

    beta: Positive
    """How soon gains and losses saturate."""
    desirable_weight: Positive
    """Weight of the preferred answers."""
    undesirable_weight: Positive
    """Weight of the others."""


class SimpoParams(DirectParams):
    """Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734), which needs no reference."""

    beta: Positive
    """Scale of the mean log-probability a token, which is the reward."""
    target_margin: NotNegative
    """By how much the preferred answer's reward must be ahead, gamma in the paper."""


class OrpoParams(DirectParams):
    """Odds-ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691), which needs no reference."""

    odds_ratio_weight: Positive
    """Weight of the odds-ratio loss beside the likelihood of the preferred answers, lambda in the paper."""


class IlqlParams(DirectParams):
    """Implicit language Q-learning (Snell et al. 2022, arXiv 2206.11871)."""

    expectile: Share
    """Expectile of the action values that the state value learns, tau in the paper; 0.5 is their mean."""
    gamma: Fraction
    """Discount a token."""
    conservatism: NotNegative
    """Weight of the cross-entropy that keeps unseen tokens' values low (CQL), alpha in the paper."""
    likelihood_weight: NotNegative
    """Weight of the likelihood of the data, which the policy starts from."""
    target_rate: Annotated[float, Field(gt=0, le=1)]
    """Share by which the target values move towards the learnt ones, a step."""
    steering: Finite
    """Weight of the values in the policy's logits, beta in the paper."""


class RejectionParams(RewardParts, SftParams):
    """Rejection-sampling fine-tuning: SFT on its own best answers by the reward (Touvron et al. 2023, arXiv
    2307.09288, section 3.2.3)."""

    samples: Count
    """Answers sampled to each prompt, of which the best is learnt from."""
    prompts: Count
    """Training prompts that are answered, at most."""
    temperature: Positive
    """Temperature of sampling."""
    max_response: Count
    """Longest answer in tokens; an answer that does not end by itself is never the best."""
    engine: EngineName
    """What samples the answers, see `ppo.engine`."""


METHODS: dict[str, tuple[str, type[ParamsBlock]]] = {
    "ppo": ("ppo", PpoParams),
    "a2c": ("ppo", PpoParams),
    "rloo": ("ppo", PpoParams),
    "grpo": ("ppo", GrpoParams),
    "reinforce++": ("ppo", PpoParams),
    "nlpo": ("ppo", NlpoParams),
    "trpo": ("ppo", TrpoParams),
    "dpo": ("direct", DpoParams),
    "ipo": ("direct", IpoParams),
    "kto": ("direct", KtoParams),
    "simpo": ("direct", SimpoParams),
    "orpo": ("direct", OrpoParams),
    "ilql": ("direct", IlqlParams),
    "rejection": ("sft", RejectionParams),
}
"""Of each method the block whose values it takes, and the class of all its values."""
