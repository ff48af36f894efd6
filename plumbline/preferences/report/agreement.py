"""How far annotators agree: Krippendorff's alpha, and the raw share of equal judgements.

Alpha is 1 - observed / expected disagreement (Krippendorff 2011, "Computing Krippendorff's
Alpha-Reliability"): 1 is perfect, 0 is what chance gives. It takes any number of annotators with most
judgements missing, as they are here. The metric is ordinal over first < tie < second, so that a tie against a
preference is a smaller disagreement than two opposite preferences.

Two departures from the paper. Which of two responses is "the first" is arbitrary, so coincidences are
averaged with their mirror image: nobody's alpha depends on the order in which responses lie in a file. And
whoever judged a pair again counts once, with the first judgement; what they said later is a contradiction of
their own.

Intervals of alpha come from a bootstrap over the pairs of responses, which are what is drawn from a larger
whole.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NotRequired, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from plumbline.preferences.report.intervals import Estimate, Ints, estimate
from plumbline.preferences.report.judgements import NOBODY, Judgements
from plumbline.preferences.sums import Summed

Floats = NDArray[np.float64]
RESAMPLES = 1000
ENOUGH_TO_TELL_FROM_CHANCE = 50
"""Of 50 shared pairs, an annotator who agrees on 72.6 %, as those of Ouyang et al. 2022 (arXiv 2203.02155,
section 3.4) did, is told from a coin 94 times in 100."""
_MIRROR = (2, 1, 0)


class Alpha(TypedDict):
    """Krippendorff's alpha, from `n` judgements of pairs that others judged too; the ends of the 95 %
    interval."""

    value: float
    n: int
    low: NotRequired[float]
    high: NotRequired[float]


class WithOthers(Estimate):
    """One annotator against the others: equal judgements, `n` of them compared, and alpha where it is
    defined."""

    alpha: NotRequired[Alpha]
    decided: NotRequired[Estimate]
    """Of pairs on which both preferred one response: the same one. A coin gives one half."""


class PairOfAnnotators(Estimate):
    """Two annotators on the `n` pairs that both judged."""

    annotators: list[str]
    alpha: NotRequired[Alpha]


class NearChance(TypedDict):
    """Annotators whose agreement with the others cannot be told from a coin's, among those with enough shared
    pairs."""

    measured: int
    enough_pairs: int
    annotators: list[str]


class MeasuredAgreement(TypedDict):
    """Agreement between annotators; what cannot be measured is absent."""

    annotators: int
    overall: NotRequired[Estimate]
    alpha: NotRequired[Alpha]
    by_annotator: dict[str, WithOthers]
    by_pair: list[PairOfAnnotators]
    near_chance: NotRequired[NearChance]


@dataclass(frozen=True)
class _Shared:
    """Judgements of pairs that at least two known annotators judged, one an annotator, sorted by pair."""

    pairs: Ints  # numbered from 0
    annotators: Ints
    values: Ints  # 0 the second response, 1 a tie, 2 the first
    counts: Ints  # (pairs, 3): judgements of each pair by value


@dataclass(frozen=True)
class SharedTally(Summed):
    """What such judgements add up to: all of them, and (annotators, ...) each one's."""

    units: Counter[tuple[int, int, int]]
    """How many pairs have these counts of judgements by value."""
    times: Ints
    """Judgements."""
    met: Floats
    """Judgements of the same pairs by others, and how many of them are equal."""
    equal: Floats
    alike: Floats
    """The share of equal preferences, over the pairs that an annotator and others decided, and how many."""
    decided: Ints
    tables: Floats
    """(annotators, 3, 3) values met by others' values."""

    def busiest(self, names: list[str], most: int) -> list[int]:
        """Return the numbers of the annotators with most judgements."""
        known = np.flatnonzero(self.times).tolist()
        return sorted(known, key=lambda code: (-self.times[code], names[code]))[:most]


def agreement(tally: SharedTally, names: list[str], most: int) -> MeasuredAgreement:
    """Return the agreement overall, and by annotator for the `most` busiest."""
    out: MeasuredAgreement = {"annotators": int((tally.times > 0).sum()), "by_annotator": {}, "by_pair": []}
    if not tally.units:
        return out
    units, times = _kinds(tally)
    judged = units.sum(axis=1)
    met = int((times * judged * (judged - 1)).sum() // 2)
    same = int((times[:, None] * units * (units - 1)).sum() // 2)
    out["overall"] = estimate(same, met, min(met, int(times.sum())))
    if (alpha := _alpha_of_all(units, times)) is not None:
        out["alpha"] = alpha
    out["by_annotator"] = {names[code]: one for code, one in _with_others(tally, most).items()}
    if (near := _near_chance(out["by_annotator"])) is not None:
        out["near_chance"] = near
    return out


def _kinds(tally: SharedTally) -> tuple[Ints, Ints]:
    """Return (kinds, 3) distinct counts of pairs in their order, and how often each is there."""
    kinds = sorted(tally.units)
    return np.array(kinds), np.array([tally.units[kind] for kind in kinds])


def coincidences(counts: Ints, times: Ints | None = None) -> Floats:
    """Return (V, V) coincidences of values within units, from (units, V) counts (Krippendorff 2011, step C).

    Each unit counts (units,) `times`, by default once.
    """
    judged = counts.sum(axis=1)
    weights = (judged > 1) * (1 if times is None else times) / np.maximum(judged - 1, 1)
    met: Floats = (counts * weights[:, None]).T @ counts - np.diag(weights @ counts)
    return met


def ordinal_alpha(coincidence: Floats) -> float | None:
    """Return alpha with the ordinal metric for a (V, V) matrix of coincidences; None if all values are equal.
    """
    n = coincidence.sum(axis=0)
    # A difference of these is the paper's sum between two values, half of each included.
    middle = np.cumsum(n) - n / 2
    distance = (middle[:, None] - middle[None, :]) ** 2
    expected = (np.outer(n, n) * distance).sum()
    return float(1 - (n.sum() - 1) * (coincidence * distance).sum() / expected) if expected else None


def _shared(found: Judgements) -> _Shared:
    known = np.flatnonzero(found.annotators != NOBODY)
    judge_and_pair = found.pairs[known] * (found.annotators.max(initial=0) + 1) + found.annotators[known]
    first = known[np.unique(judge_and_pair, return_index=True)[1]]  # sorted by pair, then annotator
    first = first[np.bincount(found.pairs[first])[found.pairs[first]] > 1] if len(first) else first
    pairs = np.unique(found.pairs[first], return_inverse=True)[1]
    values = found.labels[first].astype(np.int64) + 1
    units = int(pairs.max(initial=-1)) + 1
    counts = np.bincount(pairs * 3 + values, minlength=3 * units).reshape(units, 3)
    return _Shared(pairs, found.annotators[first].astype(np.int64), values, counts)


def _mirrored(coincidence: Floats) -> Floats:
    return (coincidence + coincidence[_MIRROR, :][:, _MIRROR]) / 2


def _alpha(coincidence: Floats, n: int) -> Alpha | None:
    value = ordinal_alpha(_mirrored(coincidence))
    return None if value is None else {"value": value, "n": n}


def _alpha_of_all(kinds: Ints, times: Ints) -> Alpha | None:
    """Return alpha over all pairs, with an interval by bootstrap.

    Pairs with the same counts are interchangeable, so a resample draws how many of each there are.
    """
    alpha = _alpha(coincidences(kinds, times), int(times @ kinds.sum(axis=1)))
    if alpha is None or times.sum() < 2:
        return alpha
    each = np.stack([coincidences(kind[None, :]) for kind in kinds])
    rng = np.random.default_rng(0)
    drawn = (rng.multinomial(times.sum(), times / times.sum()) for _ in range(RESAMPLES))
    resampled = [value for draw in drawn
                 if (value := ordinal_alpha(_mirrored(np.tensordot(draw.astype(float), each,
                                                                   1)))) is not None]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return alpha | {"low": min(float(low), alpha["value"]), "high": max(float(high), alpha["value"])}


def shared_tally(found: Judgements) -> SharedTally:
    """Add up the judgements that several annotators made of the same pairs, each annotator's with others'."""
    shared = _shared(found)
    judged = shared.counts.sum(axis=1)[shared.pairs]
    others = shared.counts[shared.pairs]
    others[np.arange(len(others)), shared.values] -= 1
    same = others[np.arange(len(others)), shared.values]
    opposite = np.where(shared.values == 1, 0, others[np.arange(len(others)), 2 - shared.values])
    decided = np.flatnonzero((shared.values != 1) & (same + opposite > 0))
    size = int(shared.annotators.max(initial=-1)) + 1
    own = shared.annotators * 3 + shared.values
    met = [_summed(own, others[:, value] / (judged - 1), 3 * size) for value in range(3)]
    return SharedTally(
        Counter(map(tuple, shared.counts.tolist())), np.bincount(shared.annotators, minlength=size),
        _summed(shared.annotators, judged - 1, size), _summed(shared.annotators, same, size),
        _summed(shared.annotators[decided], same[decided] / (same + opposite)[decided], size),
        np.bincount(shared.annotators[decided], minlength=size), np.stack(met, axis=1).reshape(size, 3, 3))


def _summed(groups: Ints, values: Ints | Floats, size: int) -> Floats:
    """Return (size,) sums of the values of each group."""
    return np.bincount(groups, values, size).astype(np.float64)


def _with_others(tally: SharedTally, most: int) -> dict[int, WithOthers]:
    """Return each annotator's agreement with all others on the same pairs, by the annotator's number."""
    out: dict[int, WithOthers] = {}
    met, times = tally.met, tally.times
    for code in sorted(np.flatnonzero(met).tolist(), key=lambda code: -met[code])[:most]:
        out[code] = cast(WithOthers, estimate(float(tally.equal[code]), int(met[code]), int(times[code])))
        if (alpha := _alpha(tally.tables[code] + tally.tables[code].T, int(times[code]))) is not None:
            out[code]["alpha"] = alpha
        if tally.decided[code]:
            out[code]["decided"] = estimate(float(tally.alike[code]), int(tally.decided[code]))
    return out


def met_in_pairs(found: Judgements, busiest: list[int]) -> Floats:
    """Return flat (B, B, 3, 3) counts of the values with which two of `busiest` annotators met."""
    shared = _shared(found)
    place = np.full(max(max(busiest, default=-1), int(shared.annotators.max(initial=-1))) + 1, NOBODY)
    place[busiest] = np.arange(len(busiest))
    kept = place[shared.annotators] != NOBODY
    pairs, annotators, values = shared.pairs[kept], place[shared.annotators[kept]], shared.values[kept]
    met = np.zeros(len(busiest) ** 2 * 9)
    for step in range(1, len(busiest)):  # within a pair: judgements that lie so far apart
        here = np.flatnonzero(pairs[step:] == pairs[:-step])
        if not len(here):
            break
        there = here + step
        two = (annotators[here] * len(busiest) + annotators[there]) * 9 + values[here] * 3 + values[there]
        met += np.bincount(two, minlength=len(met))
    return met


def by_pair(met: Floats, busiest: list[int], names: list[str]) -> list[PairOfAnnotators]:
    """Return the agreement of each two of the annotators `busiest`, the pairs with most judgements first."""
    tables = met.reshape(len(busiest), len(busiest), 3, 3)
    tables = tables + tables.transpose(1, 0, 3, 2)
    found = [_two((names[busiest[i]], names[busiest[j]]), tables[i, j])
             for i in range(len(busiest)) for j in range(i) if tables[i, j].any()]
    return sorted(found, key=lambda pair: (-pair["n"], pair["annotators"]))


def _two(names: tuple[str, str], table: Floats) -> PairOfAnnotators:
    n = round(table.sum())
    found = cast(PairOfAnnotators, {**estimate(float(np.trace(table)), n), "annotators": sorted(names)})
    if (alpha := _alpha(table + table.T, n)) is not None:
        found["alpha"] = alpha
    return found


def _near_chance(annotators: Mapping[str, WithOthers]) -> NearChance | None:
    enough = {name: one["decided"] for name, one in annotators.items()
              if "decided" in one and one["decided"]["n"] >= ENOUGH_TO_TELL_FROM_CHANCE}
    if not enough:
        return None
    near = sorted(name for name, decided in enough.items() if decided["low"] <= 0.5)
    return {"measured": len(enough), "enough_pairs": ENOUGH_TO_TELL_FROM_CHANCE, "annotators": near}
