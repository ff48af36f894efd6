"""Shares with intervals that allow for prompts: what the data report says about any "how often".

Judgements of one prompt resemble each other, and the six pairs of one ranking of four are hardly six
observations. The interval is that of plumbline/statistics.py, here for columns of a million judgements.
"""

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from plumbline.statistics import independent, wilson

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


def estimate(wins: float, n: int, observations: float | None = None) -> Estimate:
    """Return the share `wins` / `n` with Wilson's interval for independent `observations` (default `n`)."""
    low, high = wilson(wins / n, observations or n)
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
    sizes = np.bincount(cluster)
    residual = np.bincount(cluster, won) - share[group_of] * sizes
    squares = np.bincount(group_of, residual**2, len(n))
    squared_sizes = np.bincount(group_of, sizes.astype(float) ** 2, len(n))
    clusters = np.bincount(group_of, minlength=len(n))
    largest = sorted(np.flatnonzero(n).tolist(), key=lambda group: -n[group])[:most]
    worth = {group: independent(float(share[group]), int(n[group]), int(clusters[group]),
                                float(squares[group]), float(squared_sizes[group])) for group in largest}
    return {group: estimate(float(wins[group]), int(n[group]), worth[group]) for group in largest}
