"""The losses of the methods that learn from pairs of answers, as functions of log-probabilities.

Of P pairs, `better` and `worse` are the log-probabilities, in nats, of the whole answers with their stop
tokens; a log-ratio is that minus the same under the reference, which is SFT. Each function returns a loss a
pair [P]; what a batch makes of them is in `pairwise.py`. All are computed through softplus, so that they stay
finite however far apart the answers are.

    method   what is compared, r(answer)                loss
    dpo      beta * log-ratio                           -log sigmoid(r(better) - r(worse))
    ipo      log-ratio / tokens                         (r(better) - r(worse) - 1 / (2 beta))^2
    kto      beta * log-ratio                           of each answer by itself, against a common zero
    simpo    beta * log-probability / tokens            -log sigmoid(r(better) - r(worse) - gamma)
    orpo     log odds of exp(log-probability / tokens)  -lambda log sigmoid(r(better) - r(worse)),
                                                        and the log-probability of the better answer

ILQL's losses of values are a loss a token [N]; `ilql.py` says what they are for.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import softplus

SUREST = -1e-6
"""Largest mean log-probability a token of which odds are taken: at 0 they would be infinite."""


def dpo(
    better_ratio_P: torch.Tensor, worse_ratio_P: torch.Tensor, beta: float, label_smoothing: float
) -> torch.Tensor:
    """Return the loss of direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

    With `label_smoothing` each label is taken to be wrong with that probability (Mitchell 2023, "A note on
    DPO with noisy preferences and relationship to IPO", equation 3, "conservative DPO").
    """
    difference_P = beta * (better_ratio_P - worse_ratio_P)
    return (1 - label_smoothing) * softplus(-difference_P) + label_smoothing * softplus(difference_P)


def ipo(
    better_ratio_P: torch.Tensor, worse_ratio_P: torch.Tensor, better_tokens_P: torch.Tensor,
    worse_tokens_P: torch.Tensor, beta: float,
) -> torch.Tensor:
    """Return the loss of identity preference optimisation (Azar et al. 2023, arXiv 2310.12036, equation 17).

    Log-ratios are means a token. The paper does not say so; its authors did, and so does TRL: of whole
    answers they grow with the length, which the fixed distance 1 / (2 beta) does not.
    """
    ahead_P = better_ratio_P / better_tokens_P - worse_ratio_P / worse_tokens_P
    return (ahead_P - 1 / (2 * beta)) ** 2


def kto(
    better_ratio_P: torch.Tensor, worse_ratio_P: torch.Tensor, kl: float, beta: float,
    desirable_weight: float, undesirable_weight: float,
) -> torch.Tensor:
    """Return the loss of Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8).

    Of each pair the better answer is desirable and the worse undesirable, and the loss is their mean. `kl` is
    the zero from which gains and losses count, z0 in the paper; no gradient passes it.
    """
    desirable_P = desirable_weight * (1 - torch.sigmoid(beta * (better_ratio_P - kl)))
    undesirable_P = undesirable_weight * (1 - torch.sigmoid(beta * (kl - worse_ratio_P)))
    return (desirable_P + undesirable_P) / 2


def simpo(
    better_P: torch.Tensor, worse_P: torch.Tensor, better_tokens_P: torch.Tensor,
    worse_tokens_P: torch.Tensor, beta: float, target_margin: float,
) -> torch.Tensor:
    """Return the loss of simple preference optimisation (Meng et al. 2024, arXiv 2405.14734, equation 6)."""
    difference_P = beta * (better_P / better_tokens_P - worse_P / worse_tokens_P)
    return softplus(target_margin - difference_P)


def orpo(
    better_P: torch.Tensor, worse_P: torch.Tensor, better_tokens_P: torch.Tensor,
    worse_tokens_P: torch.Tensor, odds_ratio_weight: float,
) -> torch.Tensor:
    """Return the loss of odds-ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691, equation 6).

    The likelihood is that of the better answer, a mean over its tokens.
    """
    better_mean_P = better_P / better_tokens_P
    difference_P = log_odds(better_mean_P) - log_odds(worse_P / worse_tokens_P)
    return odds_ratio_weight * softplus(-difference_P) - better_mean_P


def log_odds(mean_log_prob_P: torch.Tensor) -> torch.Tensor:
    """Return log(p / (1 - p)) of p = exp(mean log-probability a token) (ibid., equations 3 and 4)."""
    mean_log_prob_P = mean_log_prob_P.clamp(max=SUREST)
    return mean_log_prob_P - torch.log(-torch.expm1(mean_log_prob_P))


def bellman(
    q_N: Sequence[torch.Tensor], reward_N: torch.Tensor, next_value_N: torch.Tensor, gamma: float
) -> torch.Tensor:
    """Return the squared errors [N], of both heads together, of the tokens taken.

    They are to be worth what follows; no gradient passes into the next state's value.
    """
    target_N = reward_N + gamma * next_value_N.detach()
    return (q_N[0] - target_N) ** 2 + (q_N[1] - target_N) ** 2


def expectile(q_N: torch.Tensor, value_N: torch.Tensor, share: float) -> torch.Tensor:
    """Return the errors [N] of V, squared and weighed with `share` where Q is larger, 1 - `share` where it is
    smaller (Kostrikov et al. 2021, arXiv 2110.06169, equation 5).
    """
    ahead_N = q_N.detach() - value_N
    return torch.where(ahead_N > 0, share, 1 - share) * ahead_N ** 2
