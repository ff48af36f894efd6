"""Shares with intervals that allow for prompts: what the data report says about any "how often".

Judgements of one prompt resemble each other, and the six pairs of one ranking of four are hardly six
observations. The interval is that of plumbline/statistics.py, here for columns of a million judgements.
"""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from plumbline.preferences.sums import Summed
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
    return clusters_of(won, prompts, groups).shares(most)


@dataclass(frozen=True)
class Clusters(Summed):
    """Outcomes by group, (groups,) each, with prompts as clusters: all that shares and their intervals need.

    Sums over parts of the data are right where no prompt is in two of them.
    """

    n: Ints
    wins: Ints
    clusters: Ints
    """Prompts of the group."""
    squared_wins: Ints
    """Sum over prompts of wins squared."""
    wins_by_size: Ints
    """Sum over prompts of wins times outcomes."""
    squared_sizes: Ints
    """Sum over prompts of outcomes squared."""

    def shares(self, most: int) -> dict[int, Estimate]:
        """Return the share of wins for each of the `most` largest groups; empty ones are absent."""
        largest = sorted(np.flatnonzero(self.n).tolist(), key=lambda group: -self.n[group])[:most]
        return {group: self._share(group) for group in largest}

    def _share(self, group: int) -> Estimate:
        columns = (self.n, self.wins, self.clusters, self.squared_wins, self.wins_by_size, self.squared_sizes)
        n, wins, clusters, squared_wins, wins_by_size, squared_sizes = (int(one[group]) for one in columns)
        # Sum over prompts of (wins - share * outcomes)^2, in whole numbers: there is nothing to round before
        # the end, and the order of parts does not matter.
        squares = (n * n * squared_wins - 2 * wins * n * wins_by_size + wins * wins * squared_sizes) / (n * n)
        return estimate(wins, n, independent(wins / n, n, clusters, squares, squared_sizes))


def clusters_of(won: Flags, prompts: Ints, groups: Ints) -> Clusters:
    """Return what (N,) outcomes add up to."""
    size = int(groups.max(initial=-1)) + 1
    width = int(prompts.max(initial=-1)) + 1
    pairs, cluster = np.unique(groups * width + prompts, return_inverse=True)
    group_of = pairs // max(width, 1)
    sizes, wins = np.bincount(cluster), np.bincount(cluster[won], minlength=len(pairs))

    def summed(values: Ints) -> Ints:
        return np.bincount(group_of, values, size).astype(np.int64)  # exact: below 2**53

    return Clusters(summed(sizes), summed(wins), np.bincount(group_of, minlength=size), summed(wins * wins),
                    summed(wins * sizes), summed(sizes * sizes))
