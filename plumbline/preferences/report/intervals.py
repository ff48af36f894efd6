"""Shares with intervals that allow for prompts: what the data report says about any "how often".

Judgements of one prompt resemble each other, and the six pairs of one ranking of four are hardly six
observations. The interval is Wilson's (1927) with an effective number of observations, p(1 - p) over the
variance that whole prompts show (Kish 1965, section 8.2; Franco et al. 2019, Journal of Survey Statistics and
Methodology 7, section 2). Where every prompt is judged once, that is exactly Wilson's interval of n. A
million judgements take a second; the bootstrap of plumbline/statistics.py would take minutes.
"""

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from plumbline.statistics import FEW_PROMPTS, wilson

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Share(TypedDict):
    """A share, and of how many."""

    share: float
    n: int


class Estimate(Share):
    """A share with the ends of its 95 % interval."""

    low: float
    high: float


def estimate(wins: float, n: int, independent: float | None = None) -> Estimate:
    """Return the share `wins` / `n` with Wilson's interval for `independent` observations (default `n`)."""
    # Wilson's formula takes any positive n.
    low, high = wilson(wins / n, independent or n)  # type: ignore[arg-type]
    return {"share": wins / n, "low": low, "high": high, "n": n}


def share_by_prompt(won: Flags, prompts: Ints) -> Estimate | None:
    """Return how often (N,) `won` is true, with prompts as clusters; None for an empty array."""
    return shares_by_group(won, prompts, np.zeros(len(won), np.int64), 1).get(0)


def shares_by_group(won: Flags, prompts: Ints, groups: Ints, most: int) -> dict[int, Estimate]:
    """Return the share of (N,) `won` for each of the `most` largest groups, with prompts as clusters.

    Groups without observations are absent.
    """
    if not len(won):
        return {}
    n, wins = np.bincount(groups), np.bincount(groups, won)
    share = wins / np.maximum(n, 1)
    pairs, cluster = np.unique(groups * (prompts.max() + 1) + prompts, return_inverse=True)
    group_of = pairs // (prompts.max() + 1)
    residual = np.bincount(cluster, won) - share[group_of] * np.bincount(cluster)
    squares = np.bincount(group_of, residual**2, len(n))
    clusters = np.bincount(group_of, minlength=len(n))
    largest = sorted(np.flatnonzero(n).tolist(), key=lambda group: -n[group])[:most]
    return {group: estimate(float(wins[group]), int(n[group]),
                            _independent(int(n[group]), int(clusters[group]), float(share[group]),
                                         float(squares[group])))
            for group in largest}


def _independent(n: int, clusters: int, share: float, squares: float) -> float:
    """Return the effective number of observations, at most `n`.

    Few prompts do not show the variance between prompts: then each prompt counts once.
    """
    if clusters < FEW_PROMPTS or share in (0.0, 1.0) or squares == 0.0:
        return clusters
    return min(float(n), share * (1 - share) * n * n / squares)
