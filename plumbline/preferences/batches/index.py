"""The index of a batch: everything about its rows but their texts, as columns.

Finding duplicates, comparing versions and deciding what to remove need no texts, and a million rows of a
kilobyte are a gigabyte of them but sixty megabytes of index. An index follows from its batch alone; it is
kept beside the home's other derived files and made again when it is missing.
"""

import contextlib
import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from plumbline.preferences.batches.whole_batch import damage_first, verified_lines
from plumbline.preferences.splits import prompt_key
from plumbline.preferences.types import (
    Comparison,
    Demonstration,
    Prompt,
    Ranking,
    Rating,
    Row,
    from_json,
    row_id,
    to_line,
)
from plumbline.whole_file import whole_file

Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]
Codes = NDArray[np.int32]
Flags = NDArray[np.bool_]
Names = NDArray[np.object_]
"""Python's texts: in an array of NumPy's each takes as much room as the longest."""
KINDS = ("demonstration", "comparison", "ranking", "rating")
NOBODY = ""
VERSION = "version_4"
"""Stands in the kept file; raised when a column gets another meaning. The name stays the digest, which gc
looks for."""
SMALL_BYTES, REMEMBERED = 8_000, 32_768
"""Indexes in files up to so large, which are some 70 rows, and how many of them a process remembers: each
annotation that a webhook brings is a batch, and opening its file takes longer than all else.
"""


@dataclass(frozen=True)
class BatchIndex:
    """Columns with one entry a row, in the order of the file."""

    row: Hashes
    """The row's id: `int(row_id(line), 16)`."""
    prompt: Hashes
    """The beginning of the prompt's key, which decides the split."""
    item: Hashes
    """What was judged: the prompt and the set of responses, in whatever order they were shown. A preference
    (a comparison or a ranking), a rating and a demonstration are about different items."""
    verdict: Numbers
    """What was said of it: equal verdicts on equal items agree, whatever the order."""
    start: Numbers
    """Where the row's line begins in the file, in bytes."""
    kind: Codes
    """Position in KINDS."""
    source: Codes
    """Position in `sources`."""
    annotator: Codes
    """Position in `annotators`; the one without a name is unknown."""
    sources: Names
    annotators: Names

    def __len__(self) -> int:
        return len(self.row)


COLUMNS = [field.name for field in fields(BatchIndex)]
NAMES = ("sources", "annotators")
"""Kept as the bytes of one JSON list."""
ROW_COLUMNS = [name for name in COLUMNS if name not in NAMES]


def index_of(rows: Path, digest: str, store: Path) -> BatchIndex:
    """Return the index of the file `rows`, whose content `digest` names; it is kept in the folder `store`.

    Raises DamagedBatch if the index has to be made and the content is another.
    """
    index = _kept(_place(digest, store))
    if index is None:
        index = make_index(rows, digest)
        keep_index(index, digest, store)
    return index


def keep_index(index: BatchIndex, digest: str, store: Path) -> None:
    """Write an index into the folder `store`; one that cannot be written is made again when it is needed."""
    with contextlib.suppress(OSError):
        store.mkdir(parents=True, exist_ok=True)
        columns = {name: getattr(index, name) for name in ROW_COLUMNS}
        columns |= {name: np.frombuffer(orjson.dumps(getattr(index, name).tolist()), np.uint8)
                    for name in NAMES}
        columns[VERSION] = np.zeros(0, np.bool_)
        with whole_file(_place(digest, store)) as out:
            np.savez(out, **columns)


def _place(digest: str, store: Path) -> Path:
    return store / f"{digest}.npz"


def _kept(file: Path) -> BatchIndex | None:
    """Return the index in a file; None if it is missing, damaged, or of another version."""
    try:
        about = file.stat()
    except OSError:
        return None
    if about.st_size > SMALL_BYTES:
        return _read(file)
    return _remembered(file, (about.st_ino, about.st_size, about.st_mtime_ns))


@lru_cache(maxsize=REMEMBERED)
def _remembered(file: Path, _mark: tuple[int, int, int]) -> BatchIndex | None:
    index = _read(file)
    for name in COLUMNS if index else ():
        getattr(index, name).flags.writeable = False  # all callers share it
    return index


def _read(file: Path) -> BatchIndex | None:
    try:
        with np.load(file, allow_pickle=False) as kept:
            if VERSION not in kept.files:
                return None
            sources, annotators = (_names(orjson.loads(kept[name].tobytes())) for name in NAMES)
            index = BatchIndex(**{name: kept[name] for name in ROW_COLUMNS}, sources=sources,
                               annotators=annotators)
    except Exception:  # NumPy and zipfile raise a dozen kinds; whatever is wrong, the index is made again
        return None
    return index if len({len(getattr(index, name)) for name in ROW_COLUMNS}) == 1 else None


def make_index(rows: Path, digest: str) -> BatchIndex:
    """Return the index of a file of rows. Raises DamagedBatch if its content is not what the digest names."""
    columns, lines = IndexColumns(), verified_lines(rows, digest)
    with damage_first(lines):
        for line in lines:
            columns.add(from_json(orjson.loads(line)), line)
    return columns.finish()


def index_of_rows(rows: Iterable[Row]) -> BatchIndex:
    """Return the index of rows that are in no file."""
    columns = IndexColumns()
    for row in rows:
        columns.add(row, to_line(row).encode())
    return columns.finish()


class IndexColumns:
    """An index as it grows: at most eight bytes an entry instead of Python's forty."""

    def __init__(self) -> None:
        self.row, self.prompt, self.item = array("Q"), array("Q"), array("Q")
        self.verdict, self.start = array("q"), array("q")
        self.kind, self.source, self.annotator = array("i"), array("i"), array("i")
        self.sources: dict[str, int] = {}
        self.annotators: dict[str, int] = {}
        self.position = 0

    def add(self, row: Row, line: bytes) -> None:
        """Append the next row of the file, which is written as `line`."""
        prompt, origin = prompt_hash(row.prompt), row.origin
        self.row.append(int(row_id(line), 16))
        self.prompt.append(prompt)
        self.item.append(_item(row, prompt))
        self.verdict.append(_verdict(row))
        self.start.append(self.position)
        self.kind.append(KINDS.index(type(row).__name__.lower()))
        self.source.append(self.sources.setdefault(origin.source, len(self.sources)))
        self.annotator.append(self.annotators.setdefault(origin.annotator or NOBODY, len(self.annotators)))
        self.position += len(line)

    def finish(self) -> BatchIndex:
        """Return the index of all rows so far."""
        return BatchIndex(
            row=np.array(self.row, np.uint64), prompt=np.array(self.prompt, np.uint64),
            item=np.array(self.item, np.uint64), verdict=np.array(self.verdict, np.int64),
            start=np.array(self.start, np.int64), kind=np.array(self.kind, np.int32),
            source=np.array(self.source, np.int32), annotator=np.array(self.annotator, np.int32),
            sources=_names(self.sources), annotators=_names(self.annotators))


def _names(texts: Iterable[str]) -> Names:
    return np.array(list(texts), np.object_)


def prompt_hash(prompt: Prompt) -> int:
    """Return the first 64 bits of the prompt's key as a number."""
    return int(prompt_key(prompt)[:16], 16)


def _item(row: Row, prompt: int) -> int:
    sort = "preference" if isinstance(row, Comparison | Ranking) else type(row).__name__
    return _hash([f"{prompt:x}", sort, *sorted(_responses(row))])


def _responses(row: Row) -> Sequence[str]:
    return [row.response] if isinstance(row, Demonstration | Rating) else row.responses


def _verdict(row: Row) -> int:
    match row:
        case Comparison():
            if row.label == "tie":
                return 0
            return 1 if (row.label == "A") == (row.responses[0] <= row.responses[1]) else -1
        case Ranking() if len(row.responses) == 2:
            return _verdict(row.comparisons()[0])
        case Ranking():
            ranks = sorted(zip(row.responses, row.ranks, strict=True))
            # 1, 1, 3 is 1, 1, 2.
            places = {rank: str(place) for place, rank in enumerate(sorted(set(row.ranks)), 1)}
            return _hash([places[rank] for _, rank in ranks]) >> 1
        case Rating():
            return _hash([repr(row.score)]) >> 1
        case _:
            return 0


def _hash(texts: Sequence[str]) -> int:
    text = "\0".join(texts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
