"""Versions of preference data side by side: which rows came, which went, and which were judged anew.

A version is a list of files of rows: a batch, or a snapshot. Comparing two needs their indexes only; texts are read for
the examples alone.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plumbline.preferences.index import KINDS, Codes, Flags, Hashes, Index, Names, index_of
from plumbline.preferences.types import Row, from_json

EXAMPLES = 3
COMPARISON = KINDS.index("comparison")
ODD = np.uint64(0x9E3779B97F4A7C15)
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Version:
    """Rows under one name."""

    name: str
    files: tuple[tuple[Path, str], ...]
    """Each file of rows with the digest of its content."""


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
    """Share of the comparisons in both versions, by the same annotator, whose label changed; None without any."""
    comparisons: int
    """How many comparisons that is a share of."""


@dataclass(frozen=True)
class Difference:
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

    def __init__(self, version: Version, indexes: Path) -> None:
        self._files = [file for file, _ in version.files]
        found = [index_of(file, digest, indexes) for file, digest in version.files]
        self._file = np.concatenate([np.zeros(0, np.int64), *(np.full(len(one), n) for n, one in enumerate(found))])
        self.row = _joined([one.row for one in found])
        self.prompt = _joined([one.prompt for one in found])
        self.kind = np.concatenate([np.zeros(0, np.int32), *(one.kind for one in found)])
        self.verdict = np.concatenate([np.zeros(0, np.int64), *(one.verdict for one in found)])
        self._start = np.concatenate([np.zeros(0, np.int64), *(one.start for one in found)])
        self.sources = np.concatenate([np.zeros(0, np.str_), *(one.sources[one.source] for one in found)])
        self.annotators = np.concatenate([np.zeros(0, np.str_), *(one.annotators[one.annotator] for one in found)])
        self.judgement = _joined([_judgements(one) for one in found])
        self.once = np.unique(self.row, return_index=True)[1]

    def read(self, position: int) -> dict[str, object]:
        """The row at a position, in our schema, with its id."""
        import orjson

        with self._files[int(self._file[position])].open("rb") as rows:
            rows.seek(int(self._start[position]))
            return {"row": f"{int(self.row[position]):016x}", **orjson.loads(rows.readline())}


def rows_of(version: Version) -> Iterator[Row]:
    """The rows of a version, file after file."""
    import orjson

    for file, _ in version.files:
        with file.open("rb") as rows:
            yield from (from_json(orjson.loads(line)) for line in rows)


def describe(version: Version, indexes: Path) -> Holdings:
    """What a version holds."""
    columns = Columns(version, indexes)
    rows = columns.once
    kinds = Counter(KINDS[kind] for kind in columns.kind[rows].tolist())
    every = _change(columns, rows)
    return Holdings(every.rows, every.by_source, every.by_annotator, every.examples, dict(kinds.most_common()),
                    len(np.unique(columns.prompt)))


def compare(before: Version, after: Version, indexes: Path) -> Difference:
    """How `after` differs from `before`; `indexes` keeps what had to be worked out."""
    old, new = Columns(before, indexes), Columns(after, indexes)
    gone = old.once[~np.isin(old.row[old.once], new.row)]
    come = new.once[~np.isin(new.row[new.once], old.row)]
    _, left, right = np.intersect1d(old.judgement[gone], new.judgement[come], return_indices=True)
    judged_anew = old.verdict[gone[left]] != new.verdict[come[right]]
    was, now = gone[left][judged_anew], come[right][judged_anew]
    same = old.once[np.isin(old.row[old.once], new.row)]
    pairs: list[dict[str, object]] = [
        {"before": old.read(a), "after": new.read(b)}
        for a, b in zip(was[:EXAMPLES].tolist(), now[:EXAMPLES].tolist(), strict=True)]
    comparisons = int((old.kind[same] == COMPARISON).sum() + (old.kind[gone[left]] == COMPARISON).sum())
    flipped = int((old.kind[was] == COMPARISON).sum())
    return Difference(
        len(same), _change(new, np.setdiff1d(come, now)), _change(old, np.setdiff1d(gone, was)),
        Relabelled(len(now), _count(new.sources[now]), _count(new.annotators[now]), pairs,
                   flipped / comparisons if comparisons else None, comparisons))


def _change(columns: Columns, rows: Rows) -> Change:
    return Change(len(rows), _count(columns.sources[rows]), _count(columns.annotators[rows]),
                  [columns.read(row) for row in rows[:EXAMPLES].tolist()])


def _count(names: Names) -> dict[str, int]:
    values, counts = np.unique(names, return_counts=True)
    found = Counter({str(name) or "unknown": int(n) for name, n in zip(values, counts, strict=True)})
    return dict(found.most_common())


def _judgements(index: Index) -> Hashes:
    """What was judged, by whom and in which source, as one number a row."""
    return index.item * ODD ^ _named(index.source, index.sources) * ODD ^ _named(index.annotator, index.annotators)


def _named(codes: Codes, names: Names) -> Hashes:
    hashes = [int.from_bytes(hashlib.blake2b(str(name).encode(), digest_size=8).digest(), "big") for name in names]
    return np.array(hashes, np.uint64)[codes] if len(codes) else np.zeros(0, np.uint64)


def _joined(columns: list[Hashes]) -> Hashes:
    return np.concatenate([np.zeros(0, np.uint64), *columns])


def chosen_rows(index: Index, source: str | None, annotator: str | None) -> Flags:
    """Which rows are of this source and this annotator; None takes any."""
    wanted = np.ones(len(index), bool)
    if source is not None:
        wanted &= (index.sources == source)[index.source] if len(index) else wanted
    if annotator is not None:
        wanted &= (index.annotators == annotator)[index.annotator] if len(index) else wanted
    return wanted
