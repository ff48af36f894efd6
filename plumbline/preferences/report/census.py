"""Who and what is in the rows: counts, strata, lengths, machine labels, ratings, and splits that hold.

One column entry a row; a million comparisons take about 30 MB.
"""

from array import array
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from plumbline.preferences.report.judgements import NOBODY, text_hash
from plumbline.preferences.splits import SPLITS, Split
from plumbline.preferences.types import Comparison, Demonstration, Ranking, Rating, Row

KINDS = ("demonstration", "comparison", "ranking", "rating")
_KIND = {Demonstration: 0, Comparison: 1, Ranking: 2, Rating: 3}
_MACHINE: dict[bool | None, int] = {False: 0, True: 1, None: 2}
_SPLIT = {split: i for i, split in enumerate(SPLITS)}

Counts = dict[str, int]


class Histogram(TypedDict):
    """How many lengths lie above the previous edge and at or below their own; edges grow by half octaves."""

    upto: list[int]
    counts: list[int]


class Lengths(TypedDict):
    """Lengths in characters."""

    median: int
    p95: int
    longest: int
    histogram: Histogram


class Labellers(TypedDict):
    """Judged rows by who gave the label; `share` is that of machines among all rows, where any labeller is
    known."""

    human: int
    machine: int
    unknown: int
    share: NotRequired[float]
    by_annotator: dict[str, Counts]


class Ratings(TypedDict):
    """Rows with a score, and the preferences made of them.

    `alone` have no other response by the same annotator beside them; `replaced` were rated again by the same
    annotator.
    """

    ratings: int
    derived: int
    alone: int
    replaced: int


class Leakage(TypedDict):
    """Prompts in two splits, of all. Zero by construction, and counted all the
    same."""

    prompts: int
    prompts_in_two_splits: int


class Census:
    """Collects what is counted a row; sources and annotators are numbered."""

    def __init__(self) -> None:
        self._prompts, self._responses = array("Q"), array("i")
        self._kinds, self._splits, self._machine = array("b"), array("b"), array("b")
        self._sources, self._annotators, self._lengths = array("i"), array("i"), array("i")
        self._rated = bytearray()

    def add(self, row: Row, prompt: int, source: int, annotator: int, split: Split) -> None:
        """Count a row; `prompt` is 64 bits of the prompt's hash."""
        self._prompts.append(prompt)
        self._kinds.append(_KIND[type(row)])
        self._splits.append(_SPLIT[split])
        self._machine.append(_MACHINE[row.origin.machine])
        self._sources.append(source)
        self._annotators.append(annotator)
        self._lengths.append(sum(len(message.content) for message in row.prompt))
        for response in responses_of(row):
            self._responses.append(len(response))
        if isinstance(row, Rating):
            self._rated += text_hash(row.response)

    def by_kind(self) -> Counts:
        """Return the number of rows of each kind."""
        return _named(np.bincount(_view(self._kinds)), list(KINDS), len(KINDS))

    def by_source(self, sources: list[str], most: int) -> Counts:
        """Return the number of rows of each of the `most` largest sources."""
        return _named(np.bincount(_view(self._sources)), sources, most)

    def by_annotator(self, annotators: list[str], unknown: str, most: int) -> Counts:
        """Return the number of judged rows of each of the `most` busiest annotators, and of unknown ones."""
        names = [unknown, *annotators]
        return _named(np.bincount(_view(self._annotators)[self._judged()] - NOBODY), names, most)

    def kinds_by_source(self, sources: list[str], most: int) -> dict[str, Counts]:
        """Return rows by kind for each source."""
        return self._crossed(_view(self._sources), sources, _view(self._kinds), KINDS, most)

    def splits_by_source(self, sources: list[str], most: int) -> dict[str, Counts]:
        """Return rows by split for each source."""
        return self._crossed(_view(self._sources), sources, _view(self._splits), SPLITS, most)

    def splits_by_kind(self) -> dict[str, Counts]:
        """Return rows by split for each kind."""
        return self._crossed(_view(self._kinds), list(KINDS), _view(self._splits), SPLITS, len(KINDS))

    def prompt_lengths(self) -> Lengths | None:
        """Return the lengths of prompts, all turns together, in characters."""
        return lengths(_view(self._lengths))

    def response_lengths(self) -> Lengths | None:
        """Return the lengths of responses in characters."""
        return lengths(_view(self._responses))

    def labellers(self, annotators: list[str], unknown: str, most: int) -> Labellers | None:
        """Return labels by people and by machines; None without judged rows."""
        rows = self._judged()
        if not len(rows):
            return None
        machine, names = _view(self._machine)[rows], [unknown, *annotators]
        human, by_machine, neither = np.bincount(machine, minlength=3).tolist()
        found: Labellers = {"human": human, "machine": by_machine, "unknown": neither,
                            "by_annotator": self._crossed(
            _view(self._annotators)[rows] - NOBODY, names, machine, ("human", "machine", "unknown"), most)}
        if human or by_machine:
            found["share"] = by_machine / len(rows)
        return found

    def ratings(self, derived: int) -> Ratings | None:
        """Return counts of ratings and of the `derived` preferences made of them; None without ratings."""
        rows = np.flatnonzero(_view(self._kinds) == _KIND[Rating])
        if not len(rows):
            return None
        by = (self._prompts, self._sources, self._annotators)  # as ratings.derive has it
        groups = np.stack([_view(column)[rows].astype(np.uint64) for column in by], axis=1)
        _, group = np.unique(groups, axis=0, return_inverse=True)
        responses = np.unique(np.frombuffer(self._rated, np.uint64), return_inverse=True)[1]
        distinct = np.unique(np.stack([group, responses], axis=1), axis=0)[:, 0]
        return {"ratings": len(rows), "derived": derived, "alone": int((np.bincount(distinct) == 1).sum()),
                "replaced": len(rows) - len(distinct)}

    def leakage(self) -> Leakage:
        """Return the number of prompts in more than one split, and of all, by 64 bits of their hash."""
        prompts, prompt = np.unique(_view(self._prompts), return_inverse=True)
        places = np.unique(prompt * len(SPLITS) + _view(self._splits))
        return {"prompts": len(prompts),
                "prompts_in_two_splits": int((np.bincount(places // len(SPLITS)) > 1).sum())}

    def _judged(self) -> NDArray[np.int64]:
        return np.flatnonzero(_view(self._kinds) != _KIND[Demonstration])

    @staticmethod
    def _crossed(rows: NDArray[np.integer], names: list[str], columns: NDArray[np.integer],
                 column_names: tuple[str, ...], most: int) -> dict[str, Counts]:
        width = len(column_names)
        cells = rows.astype(np.int64) * width + columns
        table = np.bincount(cells, minlength=len(names) * width).reshape(-1, width)
        return {names[code]: dict(zip(column_names, table[code].tolist(), strict=True))
                for code in _largest(table.sum(axis=1), names, most)}


def responses_of(row: Row) -> tuple[str, ...]:
    """Return every response of a row."""
    return row.responses if isinstance(row, Comparison | Ranking) else (row.response,)


def lengths(characters: NDArray[np.integer]) -> Lengths | None:
    """Return the distribution of lengths in characters; None for an empty array."""
    if not len(characters):
        return None
    ordered = np.sort(characters)
    edges = [0, *sorted({round(2 ** (half / 2)) for half in range(64)})]
    below = np.searchsorted(ordered, edges, side="right")
    used = int(np.searchsorted(below, len(ordered))) + 1
    return {"median": int(ordered[len(ordered) // 2]), "p95": int(ordered[int(0.95 * (len(ordered) - 1))]),
            "longest": int(ordered[-1]),
            "histogram": {"upto": edges[:used], "counts": np.diff(below[:used], prepend=0).tolist()}}


def _view(column: "array[int]") -> NDArray[np.integer]:
    return np.frombuffer(column, np.dtype(column.typecode))


def _named(counts: NDArray[np.int64], names: list[str], most: int) -> Counts:
    return {names[code]: int(counts[code]) for code in _largest(counts, names, most)}


def _largest(counts: NDArray[np.int64], names: list[str], most: int) -> list[int]:
    """Return the positions of the largest counts; names break ties, so that the order is always the same."""
    return sorted(np.flatnonzero(counts).tolist(), key=lambda code: (-counts[code], names[code]))[:most]
