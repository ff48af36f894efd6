"""Who and what is in the rows: counts, strata, lengths, machine labels, ratings, and splits that hold.

Each part of the rows is counted by itself. Counts are added; what has to be looked at by prompt lies in
shards, 24 bytes a rating and 8 bytes a prompt.
"""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from plumbline.preferences.report.judgements import NOBODY, mixed, text_hash
from plumbline.preferences.shards import Shards, made_of
from plumbline.preferences.splits import SPLITS, Split
from plumbline.preferences.sums import added
from plumbline.preferences.types import Comparison, Demonstration, Ranking, Rating, Row

KINDS = ("demonstration", "comparison", "ranking", "rating")
_KIND = {Demonstration: 0, Comparison: 1, Ranking: 2, Rating: 3}
_MACHINE: dict[bool | None, int] = {False: 0, True: 1, None: 2}
_SPLIT = {split: i for i, split in enumerate(SPLITS)}
_CELLS = (-1, len(KINDS), len(SPLITS))
_SPLIT_BITS = np.uint64(0b11)
PLACED = np.dtype([("key", np.uint64)])
"""A prompt in a split: the split in two bits of the prompt's hash."""
RATED = np.dtype([("key", np.uint64), ("by", np.uint64), ("response", np.uint64)])
"""A rating: `by` is a hash of prompt, source and annotator."""

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


class CensusColumns:
    """One entry a row of some part of the rows; sources and annotators are numbered."""

    def __init__(self) -> None:
        self.prompts, self.responses = array("Q"), array("i")
        self.kinds, self.splits, self.machine = array("b"), array("b"), array("b")
        self.sources, self.annotators, self.lengths = array("i"), array("i"), array("i")
        self.rated = bytearray()

    def add(self, row: Row, prompt: int, source: int, annotator: int, split: Split) -> None:
        """Add a row; `prompt` is 64 bits of the prompt's hash."""
        self.prompts.append(prompt)
        self.kinds.append(_KIND[type(row)])
        self.splits.append(_SPLIT[split])
        self.machine.append(_MACHINE[row.origin.machine])
        self.sources.append(source)
        self.annotators.append(annotator)
        self.lengths.append(sum(len(message.content) for message in row.prompt))
        for response in responses_of(row):
            self.responses.append(len(response))
        if isinstance(row, Rating):
            self.rated += text_hash(row.response)


class Census:
    """Adds up the parts."""

    def __init__(self, folder: Path, shards: int) -> None:
        self._cells = np.zeros(0, np.int64)  # by source, kind and split
        self._labels = np.zeros(0, np.int64)  # judged rows by annotator, the unknown one first, and machine
        self._prompt_lengths, self._response_lengths = Counter[int](), Counter[int]()
        self._placed = Shards(folder / "placed", PLACED, shards)
        self._rated = Shards(folder / "rated", RATED, shards)

    def take(self, part: CensusColumns, sources: NDArray[np.int32], annotators: NDArray[np.int32]) -> None:
        """Count a part; `sources` and `annotators` say which number each of its own numbers is here."""
        kinds, splits = _view(part.kinds), _view(part.splits)
        source, annotator = sources[_view(part.sources)], annotators[_view(part.annotators)]
        cells = np.ravel_multi_index((source, kinds, splits), (source.max(initial=0) + 1, *_CELLS[1:]))
        self._cells = added(self._cells, np.bincount(cells))
        judged = kinds != _KIND[Demonstration]
        labels = (annotator[judged].astype(np.int64) - NOBODY) * len(_MACHINE) + _view(part.machine)[judged]
        self._labels = added(self._labels, np.bincount(labels))
        self._prompt_lengths.update(counted(_view(part.lengths)))
        self._response_lengths.update(counted(_view(part.responses)))
        prompts = np.frombuffer(part.prompts, np.uint64)
        self._placed.append(made_of(PLACED, key=np.unique(prompts & ~_SPLIT_BITS | splits.astype(np.uint64))))
        rated = kinds == _KIND[Rating]
        by = mixed(prompts[rated], source[rated].astype(np.uint64), annotator[rated].astype(np.uint64))
        self._rated.append(made_of(RATED, key=prompts[rated], by=by,
                                   response=np.frombuffer(part.rated, np.uint64)))

    def by_kind(self) -> Counts:
        """Return the number of rows of each kind."""
        return _named(self._by_source().sum(axis=(0, 2)), list(KINDS), len(KINDS))

    def by_source(self, sources: list[str], most: int) -> Counts:
        """Return the number of rows of each of the `most` largest sources."""
        return _named(self._by_source().sum(axis=(1, 2)), sources, most)

    def by_annotator(self, annotators: list[str], unknown: str, most: int) -> Counts:
        """Return the number of judged rows of each of the `most` busiest annotators, and of unknown ones."""
        return _named(self._by_annotator().sum(axis=1), [unknown, *annotators], most)

    def kinds_by_source(self, sources: list[str], most: int) -> dict[str, Counts]:
        """Return rows by kind for each source."""
        return _crossed(self._by_source().sum(axis=2), sources, KINDS, most)

    def splits_by_source(self, sources: list[str], most: int) -> dict[str, Counts]:
        """Return rows by split for each source."""
        return _crossed(self._by_source().sum(axis=1), sources, SPLITS, most)

    def splits_by_kind(self) -> dict[str, Counts]:
        """Return rows by split for each kind."""
        return _crossed(self._by_source().sum(axis=0), list(KINDS), SPLITS, len(KINDS))

    def prompt_lengths(self) -> Lengths | None:
        """Return the lengths of prompts, all turns together, in characters."""
        return lengths(self._prompt_lengths)

    def response_lengths(self) -> Lengths | None:
        """Return the lengths of responses in characters."""
        return lengths(self._response_lengths)

    def labellers(self, annotators: list[str], unknown: str, most: int) -> Labellers | None:
        """Return labels by people and by machines; None without judged rows."""
        table, names = self._by_annotator(), [unknown, *annotators]
        if not table.any():
            return None
        human, by_machine, neither = table.sum(axis=0).tolist()
        found: Labellers = {"human": human, "machine": by_machine, "unknown": neither,
                            "by_annotator": _crossed(table, names, ("human", "machine", "unknown"), most)}
        if human or by_machine:
            found["share"] = by_machine / int(table.sum())
        return found

    def ratings(self, derived: int) -> Ratings | None:
        """Return counts of ratings and of the `derived` preferences made of them; None without ratings."""
        ratings = int(self._by_source()[:, _KIND[Rating]].sum())
        if not ratings:
            return None
        alone = distinct = 0
        for number in range(self._rated.count):
            rated = self._rated.read(number)
            once = np.unique(mixed(rated["by"], rated["response"]), return_index=True)[1]
            alone += int((np.unique(rated["by"][once], return_counts=True)[1] == 1).sum())
            distinct += len(once)
        return {"ratings": ratings, "derived": derived, "alone": alone, "replaced": ratings - distinct}

    def leakage(self) -> Leakage:
        """Return the number of prompts in more than one split, and of all, by 62 bits of their hash."""
        prompts = leaked = 0
        for number in range(self._placed.count):
            places = np.unique(self._placed.read(number)["key"])
            splits = np.unique(places & ~_SPLIT_BITS, return_counts=True)[1]
            prompts += len(splits)
            leaked += int((splits > 1).sum())
        return {"prompts": prompts, "prompts_in_two_splits": leaked}

    def _by_source(self) -> NDArray[np.int64]:
        """Return (sources, kinds, splits) numbers of rows."""
        return _whole(self._cells, len(KINDS) * len(SPLITS)).reshape(_CELLS)

    def _by_annotator(self) -> NDArray[np.int64]:
        """Return (annotators, 3) numbers of judged rows by `_MACHINE`, first of the unknown annotator."""
        return _whole(self._labels, len(_MACHINE)).reshape(-1, len(_MACHINE))


def responses_of(row: Row) -> tuple[str, ...]:
    """Return every response of a row."""
    return row.responses if isinstance(row, Comparison | Ranking) else (row.response,)


def counted(characters: NDArray[np.integer]) -> dict[int, int]:
    """Return how often each length is there."""
    values, times = np.unique(characters, return_counts=True)
    return dict(zip(values.tolist(), times.tolist(), strict=True))


def lengths(found: Mapping[int, int]) -> Lengths | None:
    """Return the distribution of lengths in characters, from how often each is there; None if none is."""
    if not found:
        return None
    values = np.array(sorted(found))
    upto = np.cumsum([found[value] for value in values.tolist()])  # how many are at most this long
    n = int(upto[-1])
    edges = [0, *sorted({round(2 ** (half / 2)) for half in range(64)})]
    below = np.concatenate([[0], upto])[np.searchsorted(values, edges, side="right")]
    used = int(np.searchsorted(below, n)) + 1
    median, p95 = values[np.searchsorted(upto, [n // 2, int(0.95 * (n - 1))], side="right")].tolist()
    return {"median": median, "p95": p95, "longest": int(values[-1]),
            "histogram": {"upto": edges[:used], "counts": np.diff(below[:used], prepend=0).tolist()}}


def _view(column: "array[int]") -> NDArray[np.integer]:
    return np.frombuffer(column, np.dtype(column.typecode))


def _whole(counts: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Return the counts with zeros behind them, so that they fill rows of this width."""
    return np.pad(counts, (0, -len(counts) % width))


def _crossed(table: NDArray[np.int64], names: list[str], columns: Sequence[str],
             most: int) -> dict[str, Counts]:
    return {names[code]: dict(zip(columns, table[code].tolist(), strict=True))
            for code in _largest(table.sum(axis=1), names, most)}


def _named(counts: NDArray[np.int64], names: list[str], most: int) -> Counts:
    return {names[code]: int(counts[code]) for code in _largest(counts, names, most)}


def _largest(counts: NDArray[np.int64], names: list[str], most: int) -> list[int]:
    """Return the positions of the largest counts; names break ties, so that the order is always the same."""
    return sorted(np.flatnonzero(counts).tolist(), key=lambda code: (-counts[code], names[code]))[:most]
