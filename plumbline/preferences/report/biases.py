"""How often something that should not matter wins: length, or the place on the screen."""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from plumbline.preferences.report.intervals import Clusters, Estimate, Flags, Ints, clusters_of
from plumbline.preferences.report.judgements import NOBODY, Judgements
from plumbline.preferences.sums import Summed


class Bias(TypedDict):
    """How often something that should not matter wins; half is fair."""

    overall: Estimate
    by_source: dict[str, Estimate]
    by_annotator: dict[str, Estimate]


@dataclass(frozen=True)
class Wins(Summed):
    """What won, and how often, of the judgements that say something about it."""

    overall: Clusters
    by_source: Clusters
    by_annotator: Clusters


def longer_wins(found: Judgements) -> Wins:
    """Count how often the longer response, in characters, won, among decided pairs of different lengths."""
    longer = np.sign(found.lengths[:, 0] - found.lengths[:, 1]) * found.labels
    return _wins(found, longer, np.flatnonzero(longer))


def sides_won(found: Judgements) -> NDArray[np.int64]:
    """Return (sources, 2) how often the response shown first won, and the one shown second."""
    size = int(found.sources.max(initial=-1)) + 1
    won = [np.bincount(found.sources[found.shown == side], minlength=size) for side in (1, -1)]
    return np.stack(won, axis=1)


def first_shown_wins(found: Judgements, either: Flags) -> Wins:
    """Count how often the response shown first won, in the sources where `either` side can.

    Formats with `chosen` and `rejected` have no order: there always the same side wins.
    """
    shown = np.abs(found.shown) == 1
    return _wins(found, found.shown, np.flatnonzero(shown & either[found.sources]))


def bias(wins: Wins, sources: list[str], annotators: list[str], most: int) -> Bias | None:
    """Return the shares, those of the `most` largest sources and busiest annotators; None if nothing was
    counted."""
    overall = wins.overall.shares(1).get(0)
    if overall is None:
        return None
    by_source, by_annotator = wins.by_source.shares(most), wins.by_annotator.shares(most)
    return {"overall": overall, "by_source": {sources[code]: share for code, share in by_source.items()},
            "by_annotator": {annotators[code]: share for code, share in by_annotator.items()}}


def _wins(found: Judgements, won: NDArray[np.int8], rows: Ints) -> Wins:
    known = rows[found.annotators[rows] != NOBODY]
    return Wins(clusters_of(won[rows] > 0, found.prompts[rows], np.zeros(len(rows), np.int64)),
                clusters_of(won[rows] > 0, found.prompts[rows], found.sources[rows].astype(np.int64)),
                clusters_of(won[known] > 0, found.prompts[known], found.annotators[known].astype(np.int64)))
