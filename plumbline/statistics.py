"""Means with intervals, resampled by prompt.

Outcomes on the same prompt are not independent, so whole prompts are drawn with replacement: the percentile
bootstrap (Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13) over clusters (Cameron,
Gelbach & Miller 2008, section 2).

For shares of few prompts the bootstrap's interval is too narrow: [0.70, 1.00] for nine right of ten, and no
width at all for ten of ten, which passes any gate. Of ten draws at a true share of 0.9 its 95 % interval
holds the truth 65 % of the time, Wilson's 93 % (tests/test_statistics.py computes both exactly). Below
`FEW_PROMPTS`, and whenever all outcomes agree, `share` gives Wilson's score interval (Wilson 1927; Brown, Cai
& DasGupta 2001). A tie counts as half: the variance is then smaller, never larger, than that of wins and
losses with the same mean. The same holds for several outcomes of one prompt. So Wilson's interval, with n the
number of prompts, stays on the safe side.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
FEW_PROMPTS = 30
DRAWS_AT_ONCE = 4_000_000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its 95 % interval, from `n` observations on `prompts` distinct prompts."""

    value: float
    low: float
    high: float
    n: int
    prompts: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n = {self.n}"


def mean(values: Sequence[float], prompts: Sequence[Hashable], samples: int, seed: int) -> Interval:
    """Return the mean of any measurement and its bootstrap interval, from `samples` resamples.

    `prompts` names the prompt of each value: values of the same prompt are drawn together. Raises ValueError
    if there are no values, or another number of prompts than of values.
    """
    sums, counts = _by_prompt(values, prompts)
    value = float(sums.sum() / counts.sum())
    if len(set(values)) == 1:
        value = low = high = float(values[0])  # exactly, where sums would round
    else:
        low, high = _percentiles(_resampled_means(sums, counts, samples, seed))
    return Interval(value, min(low, value), max(high, value), len(values), len(counts))


def share(outcomes: Sequence[float], prompts: Sequence[Hashable], samples: int, seed: int) -> Interval:
    """Return the mean of outcomes from 0 to 1 and its interval: an accuracy, or a win rate with ties as half.

    Raises ValueError if there are no outcomes, or if one is out of range.
    """
    if any(not 0.0 <= outcome <= 1.0 for outcome in outcomes):
        raise ValueError("an outcome is out of the range from 0 to 1")
    found = mean(outcomes, prompts, samples, seed)
    if found.prompts < FEW_PROMPTS or len(set(outcomes)) == 1:
        low, high = wilson(found.value, found.prompts)
        return Interval(found.value, low, high, found.n, found.prompts)
    return found


def wilson(value: float, n: int) -> tuple[float, float]:
    """Return the ends of Wilson's 95 % score interval for a share `value` of `n` independent trials."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    # For shares of 0 and 1 one end is exactly 0 or 1, which rounding would miss.
    return (0.0 if value == 0 else centre - half), (1.0 if value == 1 else centre + half)


def _by_prompt(values: Sequence[float], prompts: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """Return the sum and the number of the values of each prompt."""
    if not values or len(values) != len(prompts):
        raise ValueError(f"expected as many values as prompts and at least one, found {len(values)} and "
                         f"{len(prompts)}")
    index: dict[Hashable, int] = {}
    of = np.array([index.setdefault(prompt, len(index)) for prompt in prompts])
    sums, counts = np.zeros(len(index)), np.zeros(len(index))
    np.add.at(sums, of, values)
    np.add.at(counts, of, 1.0)
    return sums, counts


def _resampled_means(sums: Floats, counts: Floats, samples: int, seed: int) -> Floats:
    """Return the mean of each of `samples` resamples of whole prompts."""
    rng = np.random.default_rng(seed)
    size = len(sums)
    means = []
    at_once = max(1, DRAWS_AT_ONCE // size)  # bounds the memory, and leaves the drawn numbers as they are
    for start in range(0, samples, at_once):
        drawn = rng.integers(0, size, (min(at_once, samples - start), size))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(means)


def _percentiles(means: Floats) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
