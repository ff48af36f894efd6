"""Tokens on the disk: rows are encoded once, into Arrow files, and training reads them from mapped memory.

    rows = stored(folder, demonstrations, encode, decode)
    rows[17], len(rows), rows.counts["cut"], rows.digest

As lists of Python's integers a pair of answers takes some fifteen kilobytes, in each rank; as four bytes a
token in a file that is mapped, all ranks of a machine share one copy of the pages in use, and the system may
drop them. A row is decoded when it is asked for.

The files hold `CHUNK` source rows each, whatever the number of ranks, which share the encoding: so the digest
of the tokens is the same for any number of ranks.
"""

import hashlib
import json
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from numpy.typing import NDArray

from plumbline.lm.ranks.world import world
from plumbline.preferences.jsonl import file_sha256
from plumbline.preferences.lazy_rows import LazyRows
from plumbline.whole_file import whole_file

Source = TypeVar("Source")
Row = TypeVar("Row")

CHUNK = 20_000
LISTS = pa.large_list(pa.int32())
SCHEMA = pa.schema([("ids", LISTS), ("shape", LISTS), ("value", pa.float64())])
COUNTS = b"counts"


@dataclass(frozen=True)
class Flat:
    """A row as it is stored."""

    ids: list[int]
    """All tokens, one after the other."""
    shape: list[int]
    """What says where they belong."""
    value: float = 0.0


@dataclass(frozen=True)
class Encoded:
    """What becomes of a source row: a row, unless it is left out, and what it adds to the counts of all."""

    row: Flat | None
    counts: Mapping[str, int]


class StoredRows(LazyRows[Row]):
    """The rows of Arrow files, in order, decoded as they are asked for."""

    def __init__(self, files: Sequence[Path], decode: Callable[[Flat], Row], digest: str) -> None:
        self._chunks = [_Chunk(file) for file in files]
        self._starts = np.cumsum([0, *(len(chunk) for chunk in self._chunks)]).tolist()
        self._decode = decode
        self.digest = digest
        """Of all rows and counts, whatever the number of ranks."""
        self.counts = Counter[str]()
        for chunk in self._chunks:
            self.counts.update(chunk.counts)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def row(self, number: int) -> Row:
        """Decode a row."""
        chunk = bisect_right(self._starts, number) - 1
        return self._decode(self._chunks[chunk].row(number - self._starts[chunk]))

    def lengths(self) -> NDArray[np.int32]:
        """Return (N,) how many tokens each row has."""
        return np.concatenate([np.zeros(0, np.int32), *(chunk.lengths() for chunk in self._chunks)])


class _Chunk:
    """One mapped file."""

    def __init__(self, file: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        batch = reader.get_batch(0)
        self.counts = Counter(json.loads(reader.schema.metadata[COUNTS]))
        self._ids, self._shapes = (_Lists(batch.column(name)) for name in ("ids", "shape"))
        self._values = batch.column("value").to_numpy()

    def __len__(self) -> int:
        return len(self._values)

    def row(self, number: int) -> Flat:
        return Flat(self._ids.at(number), self._shapes.at(number), float(self._values[number]))

    def lengths(self) -> NDArray[np.int32]:
        lengths: NDArray[np.int32] = np.diff(self._ids.offsets).astype(np.int32)
        return lengths


class _Lists:
    """A column of lists of integers, as the arrays that it is made of."""

    def __init__(self, column: pa.LargeListArray) -> None:
        self.offsets = column.offsets.to_numpy()
        self._values = column.values.to_numpy()

    def at(self, number: int) -> list[int]:
        found: list[int] = self._values[self.offsets[number] : self.offsets[number + 1]].tolist()
        return found


def stored(folder: Path, sources: Sequence[Source], encode: Callable[[Source], Encoded],
           decode: Callable[[Flat], Row]) -> StoredRows[Row]:
    """Encode all sources into files in `folder`, the ranks each their share, and return their rows."""
    starts = range(0, len(sources), CHUNK)
    files = [folder / f"{start // CHUNK:05d}.arrow" for start in starts]
    mine = world().mine(list(zip(starts, files, strict=True)))

    def write_mine() -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        for start, file in mine:
            _write(file, (encode(sources[i]) for i in range(start, min(start + CHUNK, len(sources)))))
        return [file_sha256(file) for _, file in mine]

    digests = world().gathered(world().together(write_mine))
    return StoredRows(files, decode, hashlib.sha256("\n".join(digests).encode()).hexdigest())


def _write(file: Path, found: Iterable[Encoded]) -> None:
    ids, shapes, values, counts = _Growing(), _Growing(), array("d"), Counter[str]()
    for one in found:
        counts.update(one.counts)
        if one.row is not None:
            ids.add(one.row.ids)
            shapes.add(one.row.shape)
            values.append(one.row.value)
    schema = SCHEMA.with_metadata({COUNTS: json.dumps(counts, sort_keys=True)})
    batch = pa.record_batch([ids.column(), shapes.column(), pa.array(np.array(values))], schema=schema)
    with whole_file(file) as out, pa.ipc.new_file(out, schema) as writer:
        writer.write_batch(batch)


class _Growing:
    """A column of lists of integers as it grows, four bytes an integer."""

    def __init__(self) -> None:
        self._offsets, self._values = array("q", [0]), array("i")

    def add(self, values: list[int]) -> None:
        self._values.extend(values)
        self._offsets.append(len(self._values))

    def column(self) -> pa.LargeListArray:
        offsets, values = (pa.array(np.array(numbers)) for numbers in (self._offsets, self._values))
        return pa.LargeListArray.from_arrays(offsets, values)
