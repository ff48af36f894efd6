"""Bradley–Terry ratings, in Elo's units, of all contestants that ever met.

The model (Bradley & Terry 1952, Biometrika 39) gives each contestant i a strength b_i and says that i beats j
with probability 1 / (1 + exp(b_j - b_i)). The strengths are those of the greatest likelihood, as in Chatbot
Arena (Chiang et al. 2024, arXiv 2403.04132, section 4), with a tie as half a win for each. Unlike Elo's
running update, the order in which matches were played changes nothing. One Elo is ln(10) / 400 of b, so 400
more win 10 of 11.

An interval is 1.96 standard errors from the inverse of the Fisher information. It holds what chance in the
prompts adds; not that another training would have given another policy, and not that strengths may be more
than one number (A beats B beats C beats A).
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array
from scipy.sparse.linalg import splu

from plumbline.statistics import Z

ELO = 400 / log(10)
"""Elo points for each unit of strength, a difference of log-odds."""
PRIOR = 0.5
"""Wins added to either side of a match: without them a match without a loss has no finite rating (Haldane
1956)."""
STEPS, ENOUGH, AT_ONCE = 100, 1e-10, 16

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PlayedMatch:
    """The results of one contestant against another."""

    first: Hashable
    second: Hashable
    win_rate: float
    """Of the first, from 0 to 1, ties as half."""
    games: float
    """The number of independent comparisons that are worth as much: see `games_of`."""


@dataclass(frozen=True)
class Strength:
    """A contestant's strength in Elo points above the anchor, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.0f} [{self.low:+.0f}, {self.high:+.0f}]"


def games_of(win_rate: float, low: float, high: float, n: float) -> float:
    """Return how many independent games without ties have an interval as wide as the one of `n` outcomes.

    Several answers to one prompt are worth fewer games. `n` is also the most: ties make an interval narrower,
    but the model takes each game for a win or a loss.
    """
    share = (win_rate * n + PRIOR) / (n + 2 * PRIOR)  # not 0 or 1, where the variance is 0
    error = (high - low) / (2 * Z)
    return float(min(n, share * (1 - share) / error**2)) if error > 0 else float(n)


def ratings(matches: Iterable[PlayedMatch], anchor: Hashable) -> dict[Hashable, Strength]:
    """Return the rating of each contestant that met the anchor, or met one that did, and so on.

    The anchor has 0, and no interval. Raises ValueError for a win rate out of range or without games.
    """
    played = list(matches)
    for one in played:
        if not (0 <= one.win_rate <= 1 and one.games > 0):
            raise ValueError(f"expected a win rate from 0 to 1 in more than 0 games, found {one}")
    reached = _reached(played, anchor)
    played = [one for one in played if one.first in reached and one.first != one.second]
    index = {name: place for place, name in enumerate(name for name in reached if name != anchor)}
    strengths, errors = _fit(played, index)
    found = {name: Strength(ELO * value, ELO * (value - Z * error), ELO * (value + Z * error))
             for name, value, error in zip(index, strengths.tolist(), errors.tolist(), strict=True)}
    return {anchor: Strength(0.0, 0.0, 0.0), **found}


def _reached(played: Sequence[PlayedMatch], anchor: Hashable) -> Mapping[Hashable, None]:
    """Return the contestants that matches connect with the anchor, in a stable order."""
    met: dict[Hashable, list[Hashable]] = {}
    for one in played:
        met.setdefault(one.first, []).append(one.second)
        met.setdefault(one.second, []).append(one.first)
    reached, waiting = {anchor: None}, [anchor]
    while waiting:
        for other in met.get(waiting.pop(), ()):
            if other not in reached:
                reached[other] = None
                waiting.append(other)
    return reached


def _fit(played: Sequence[PlayedMatch], index: Mapping[Hashable, int]) -> tuple[Floats, Floats]:
    """Return strengths of the greatest likelihood and their standard errors, by Newton's method.

    The anchor, which has no place in `index`, is the last, at 0.
    """
    size = len(index)
    first = np.array([index.get(one.first, size) for one in played], np.intp)
    second = np.array([index.get(one.second, size) for one in played], np.intp)
    games = np.array([one.games for one in played]) + 2 * PRIOR
    wins = np.array([one.win_rate * one.games for one in played]) + PRIOR
    if not size:
        return np.zeros(0), np.zeros(0)
    strengths = np.zeros(size + 1)
    information = _information(strengths, first, second, games)
    for _ in range(STEPS):
        surprise = wins - games * _chance(strengths[first] - strengths[second])
        gradient = np.zeros(size + 1)
        np.add.at(gradient, first, surprise)
        np.add.at(gradient, second, -surprise)
        step = np.append(splu(information).solve(gradient[:size]), 0.0)
        farthest = float(np.abs(step[first] - step[second]).max())
        strengths += step / max(1.0, farthest)  # far from the solution a whole step may overshoot
        information = _information(strengths, first, second, games)
        if farthest < ENOUGH:
            break
    return strengths[:size], np.sqrt(_diagonal_of_inverse(information))


def _chance(difference: Floats) -> Floats:
    """Return the probability with which a contestant wins that is stronger by `difference`."""
    return np.asarray(1 / (1 + np.exp(-difference)))


def _information(strengths: Floats, first: NDArray[np.intp], second: NDArray[np.intp],
                 games: Floats) -> csc_array:
    """Return the Fisher information of all strengths but the anchor's: [contestants, contestants]."""
    chance = _chance(strengths[first] - strengths[second])
    weight = games * chance * (1 - chance)
    rows = np.concatenate([first, second, first, second])
    columns = np.concatenate([first, second, second, first])
    values = np.concatenate([weight, weight, -weight, -weight])
    size = len(strengths)
    whole = coo_array((values, (rows, columns)), shape=(size, size)).tocsc()
    return csc_array(whole[: size - 1, : size - 1])


def _diagonal_of_inverse(matrix: csc_array) -> Floats:
    """Return the diagonal of the inverse, few columns at a time: SuperLU is slower with many."""
    size, solved = matrix.shape[0], splu(matrix)
    found = np.zeros(size)
    for start in range(0, size, AT_ONCE):
        places = np.arange(start, min(size, start + AT_ONCE))
        unit = np.zeros((size, len(places)))
        unit[places, places - start] = 1.0
        found[places] = solved.solve(unit)[places, places - start]
    return found
