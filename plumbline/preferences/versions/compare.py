"""Versions of preference data side by side: which rows came, which went, and which were judged anew.

A version is a list of files of rows: a batch, or a snapshot. Comparing two needs their indexes only; texts
are read for the examples alone.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plumbline.preferences.batches.index import KINDS, BatchIndex, Codes, Flags, Hashes, Names, index_of
from plumbline.preferences.batches.whole_batch import DamagedBatch, damage_first, verified_lines
from plumbline.preferences.types import Row, from_json, row_id

EXAMPLES = 3
UNKNOWN = "unknown"
"""What rows without an annotator are counted under."""
COMPARISON = KINDS.index("comparison")
ODD = np.uint64(0x9E3779B97F4A7C15)
Rows = NDArray[np.intp]
NO_NUMBERS, NO_CODES = np.zeros(0, np.int64), np.zeros(0, np.int32)


@dataclass(frozen=True)
class DataVersion:
    """Rows under one name."""

    name: str
    files: tuple[tuple[Path, str], ...]
    """Each file of rows with the digest of its content."""
    left_out: tuple[int, ...] = ()
    """The ids of rows that the files hold and the version does not."""


@dataclass(frozen=True)
class Change:
    """Some rows: how many, by source, by annotator, and a few of them."""

    rows: int
    by_source: dict[str, int]
    by_annotator: dict[str, int]
    examples: list[dict[str, object]]


@dataclass(frozen=True)
class Relabelled(Change):
    """Rows whose verdict changed; each example has the row before and after."""

    flip_rate: float | None
    """Share of the comparisons in both versions, by the same annotator, whose label changed; None without
    any."""
    comparisons: int
    """How many comparisons that is a share of."""


@dataclass(frozen=True)
class DataDifference:
    """What it takes to get from one version to another. Rows that are in both are `unchanged`."""

    unchanged: int
    added: Change
    removed: Change
    relabelled: Relabelled


@dataclass(frozen=True)
class Holdings(Change):
    """Everything that a version holds; the same row in two batches counts once."""

    by_kind: dict[str, int]
    prompts: int


class Columns:
    """All rows of a version as columns, the same row once, whatever files it is in."""

    def __init__(self, version: DataVersion, indexes: Path) -> None:
        self._files = [file for file, _ in version.files]
        self._digests = [digest for _, digest in version.files]
        found = [index_of(file, digest, indexes) for file, digest in version.files]
        self.file = np.concatenate([NO_NUMBERS, *(np.full(len(one), n) for n, one in enumerate(found))])
        self.row = _joined([one.row for one in found])
        self.prompt = _joined([one.prompt for one in found])
        self.item = _joined([one.item for one in found])
        self.kind = np.concatenate([NO_CODES, *(one.kind for one in found)])
        self.verdict = np.concatenate([NO_NUMBERS, *(one.verdict for one in found)])
        self.start = np.concatenate([NO_NUMBERS, *(one.start for one in found)])
        self.source, self.sources = _one_numbering([(one.source, one.sources) for one in found])
        self.annotator, self.annotators = _one_numbering([(one.annotator, one.annotators) for one in found])
        self.judgement = _joined([_judgements(one) for one in found])
        first = np.sort(np.unique(self.row, return_index=True)[1])
        left_out = np.array(version.left_out, np.uint64)
        self.once: Rows = first[~np.isin(self.row[first], left_out)] if len(left_out) else first

    def read(self, position: int) -> dict[str, object]:
        """Return the row at a position in our schema, with its id."""
        with self._files[int(self.file[position])].open("rb") as rows:
            rows.seek(int(self.start[position]))
            return self.parsed(position, rows.readline())

    def parsed(self, position: int, line: bytes) -> dict[str, object]:
        """Return the row on a line read at a position, with its id.

        Raises DamagedBatch if it is another row.
        """
        import orjson

        name = f"{int(self.row[position]):016x}"
        if row_id(line) != name:
            file = int(self.file[position])
            raise DamagedBatch(self._files[file], self._digests[file], f"row {name} is not where it was")
        return {"row": name, **orjson.loads(line)}

    def lines(self, positions: Rows) -> Iterator[tuple[int, bytes]]:
        """Yield the lines at many positions, each with its position; sorted positions are quickest."""
        file, opened = -1, None
        try:
            for position in positions.tolist():
                if int(self.file[position]) != file:
                    if opened:
                        opened.close()
                    file = int(self.file[position])
                    opened = self._files[file].open("rb")
                assert opened is not None
                opened.seek(int(self.start[position]))
                yield position, opened.readline()
        finally:
            if opened:
                opened.close()


def _one_numbering(columns: list[tuple[Codes, Names]]) -> tuple[Codes, list[str]]:
    """Return the codes of several files as codes of one list of names, and that list."""
    known: dict[str, int] = {}
    parts = [NO_CODES]
    for codes, names in columns:
        if len(codes):
            ours = np.array([known.setdefault(str(name), len(known)) for name in names], np.int32)
            parts.append(ours[codes])
    return np.concatenate(parts), list(known)


def rows_of(version: DataVersion) -> Iterator[Row]:
    """Yield the rows of a version, each once. Raises DamagedBatch at the end of a file that was changed."""
    import orjson

    passed_over = set(version.left_out)
    for file, digest in version.files:
        lines = verified_lines(file, digest)
        with damage_first(lines):
            for line in lines:
                if (row := int(row_id(line), 16)) not in passed_over:
                    passed_over.add(row)  # another batch may hold it, too
                    yield from_json(orjson.loads(line))


def describe(version: DataVersion, indexes: Path) -> Holdings:
    """Return counts of the rows that a version has, with examples."""
    columns = Columns(version, indexes)
    rows = columns.once
    kinds = Counter(KINDS[kind] for kind in columns.kind[rows].tolist())
    every = _change(columns, rows)
    return Holdings(every.rows, every.by_source, every.by_annotator, every.examples,
                    dict(kinds.most_common()), len(np.unique(columns.prompt[rows])))


@dataclass(frozen=True)
class Changes:
    """The same as positions: in the rows of `before` for what went, in those of `after` for what came."""

    same: Rows
    """In `before`."""
    added: Rows
    removed: Rows
    was: Rows
    """What was judged anew, as it was, in the order of `now`."""
    now: Rows
    judged_twice: Rows
    """In `before`: rows that are gone whose item the same annotator judges in `after`, anew or not."""


def changes(old: Columns, new: Columns) -> Changes:
    """Return the positions of the rows that differ between two versions."""
    kept = np.isin(old.row[old.once], new.row[new.once])
    gone, same = old.once[~kept], old.once[kept]
    come = new.once[~np.isin(new.row[new.once], old.row[old.once])]
    _, left, right = np.intersect1d(old.judgement[gone], new.judgement[come], return_indices=True)
    judged_anew = old.verdict[gone[left]] != new.verdict[come[right]]
    was, now = gone[left][judged_anew], come[right][judged_anew]
    return Changes(same, np.setdiff1d(come, now), np.setdiff1d(gone, was), was, now, gone[left])


def compare(before: DataVersion, after: DataVersion, indexes: Path) -> DataDifference:
    """Return how `after` differs from `before`; the folder `indexes` keeps indexes."""
    return difference(Columns(before, indexes), Columns(after, indexes))


def difference(old: Columns, new: Columns) -> DataDifference:
    """Return how `new` differs from `old`: counts, and a few examples."""
    found = changes(old, new)
    pairs: list[dict[str, object]] = [
        {"before": old.read(a), "after": new.read(b)}
        for a, b in zip(found.was[:EXAMPLES].tolist(), found.now[:EXAMPLES].tolist(), strict=True)]
    flip_rate, comparisons = flips(old, found)
    return DataDifference(
        len(found.same), _change(new, found.added), _change(old, found.removed),
        Relabelled(len(found.now), count(new.source[found.now], new.sources),
                   count(new.annotator[found.now], new.annotators), pairs, flip_rate, comparisons))


def flips(old: Columns, found: Changes) -> tuple[float | None, int]:
    """Return the share of comparisons in both versions, by the same annotator, with another label; and their
    number.
    """
    same, judged_twice, flipped = (int((old.kind[rows] == COMPARISON).sum())
                                   for rows in (found.same, found.judged_twice, found.was))
    comparisons = same + judged_twice
    return flipped / comparisons if comparisons else None, comparisons


def _change(columns: Columns, rows: Rows) -> Change:
    return Change(len(rows), count(columns.source[rows], columns.sources),
                  count(columns.annotator[rows], columns.annotators),
                  [columns.read(row) for row in rows[:EXAMPLES].tolist()])


def count(codes: Codes, names: Sequence[str]) -> dict[str, int]:
    """Return how many rows have each name, the most frequent first; who has none is UNKNOWN."""
    found = Counter[str]()
    for name, n in zip(names, np.bincount(codes, minlength=len(names)).tolist(), strict=True):
        if n:
            found[name or UNKNOWN] += n  # somebody may be called so
    return dict(found.most_common())


def _judgements(index: BatchIndex) -> Hashes:
    """Return (N,) hashes of item, annotator and source of each row."""
    sources = _named(index.source, index.sources)
    return index.item * ODD ^ sources * ODD ^ _named(index.annotator, index.annotators)


def _named(codes: Codes, names: Names) -> Hashes:
    hashes = [int.from_bytes(hashlib.blake2b(str(name).encode(), digest_size=8).digest(),
                             "big") for name in names]
    return np.array(hashes, np.uint64)[codes] if len(codes) else np.zeros(0, np.uint64)


def _joined(columns: list[Hashes]) -> Hashes:
    return np.concatenate([np.zeros(0, np.uint64), *columns])


def chosen_rows(index: BatchIndex, source: str | None, annotator: str | None) -> Flags:
    """Return (N,) flags of the rows of this source and this annotator; None means any."""
    wanted = np.ones(len(index), bool)
    if source is not None:
        wanted &= (index.sources == source)[index.source] if len(index) else wanted
    if annotator is not None:
        wanted &= (index.annotators == annotator)[index.annotator] if len(index) else wanted
    return wanted
