"""Records of one size on the disk, divided by a 64-bit hash: equal keys meet in one shard.

What has to be looked at together (rows of one id, judgements of one prompt, signatures of one band) is looked
at a shard at a time, which fits into memory however many there are; and a shard can be any process's work.
How many shards there are follows from the number of records alone, never from that of processes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

Records = NDArray[np.void]
Hashes = NDArray[np.uint64]
Scalar = TypeVar("Scalar", bound=np.generic)

SHARD_RECORDS = 200_000
"""So many records of evenly spread keys are one shard: up to nine megabytes, and several times that while
they are sorted."""
MOST_SHARDS = 1024
HALF = np.uint64(32)


def shards_for(records: int) -> int:
    """Return how many shards so many records are divided into."""
    return min(1 + records // SHARD_RECORDS, MOST_SHARDS)


@dataclass(frozen=True)
class Shards:
    """A folder of records, whose type has a field `key`. Within a shard they keep the order of coming."""

    folder: Path
    dtype: DTypeLike
    count: int

    def append(self, records: Records) -> None:
        """Add records, each to its shard."""
        if not len(records):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        shards = shard_of(records["key"], self.count)
        order = np.argsort(shards, kind="stable")
        numbers, starts = np.unique(shards[order], return_index=True)
        for number, some in zip(numbers.tolist(), np.split(records[order], starts[1:]), strict=True):
            self._write(number, some)

    def read(self, number: int) -> Records:
        """Return the records of a shard."""
        file = self._file(number)
        return np.fromfile(file, self.dtype) if file.exists() else np.zeros(0, self.dtype)

    def _write(self, number: int, records: Records) -> None:
        with self._file(number).open("ab") as out:
            out.write(records.tobytes())  # `tofile` fails without an errno on a full disk, or not at all

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:04d}"


def shard_of(keys: Hashes, count: int) -> NDArray[np.int64]:
    """Return (N,) numbers of shards: of equal width in the range of the keys, in the same order."""
    return ((keys >> HALF) * np.uint64(count) >> HALF).astype(np.int64)


def made_of(dtype: DTypeLike, **columns: object) -> Records:
    """Return records of these columns, each (N,) or one value for all."""
    size = max((len(column) for column in columns.values() if isinstance(column, np.ndarray)), default=1)
    records = np.zeros(size, dtype)
    for name, column in columns.items():
        records[name] = column
    return records


class Column(Generic[Scalar]):
    """Values on the disk, added at the end and read anywhere."""

    def __init__(self, file: Path, dtype: np.dtype[Scalar]) -> None:
        self._file, self._dtype = file, dtype
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    def __len__(self) -> int:
        return self._file.stat().st_size // self._dtype.itemsize

    def append(self, values: NDArray[Scalar]) -> None:
        """Add (N, ...) values at the end."""
        with self._file.open("ab") as out:
            out.write(values.tobytes())

    def read(self, start: int, count: int) -> NDArray[Scalar]:
        """Return `count` values from `start`, or as many as there are."""
        with self._file.open("rb", buffering=0) as values:
            values.seek(start * self._dtype.itemsize)
            return np.frombuffer(values.read(count * self._dtype.itemsize), self._dtype)
