"""A snapshot cut into ranges of whole lines: what one process works on at a time.

What the ranges leave is put one after the other, so that the order of rows is the snapshot's, whoever was
first.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from plumbline.preferences.batches.manifest import Manifest

RANGE_BYTES = 8 << 20
"""A second's work, roughly."""
MOST_OPEN = 64
"""So many files of a snapshot are open at a time; it may have thousands, and a process 1,024."""


@dataclass(frozen=True)
class Piece:
    """Rows of one batch: the lines from position `start` to `end` of its file."""

    file: Path
    number: int
    """Of the batch in the snapshot, from 0."""
    batch: str
    """The digest of the batch as it arrived."""
    start: int
    end: int


@dataclass(frozen=True)
class SnapshotLine:
    """A row of a snapshot: its line, and where that begins."""

    text: bytes
    piece: Piece
    position: int


@dataclass(frozen=True)
class Range:
    """Rows that follow each other, of one batch or of several small ones."""

    pieces: tuple[Piece, ...]

    def lines(self) -> Iterator[SnapshotLine]:
        """Yield the rows in their order."""
        for piece in self.pieces:
            position = piece.start
            with piece.file.open("rb") as opened:
                opened.seek(position)
                while position < piece.end:
                    text = opened.readline()
                    yield SnapshotLine(text, piece, position)
                    position += len(text)


def batch_files(snapshot: Path, manifest: Manifest) -> list[Path]:
    """Return the files of rows of a snapshot's batches."""
    return [snapshot / f"{batch.digest}.jsonl" for batch in manifest.batches]


def ranges(snapshot: Path, manifest: Manifest) -> list[Range]:
    """Return the ranges of a snapshot in its order."""
    found, open_range, size = list[Range](), list[Piece](), 0
    for piece in _pieces(snapshot, manifest):
        open_range.append(piece)
        size += piece.end - piece.start
        if size >= RANGE_BYTES:
            found.append(Range(tuple(open_range)))
            open_range, size = [], 0
    return [*found, Range(tuple(open_range))] if open_range else found


def _pieces(snapshot: Path, manifest: Manifest) -> Iterator[Piece]:
    files = batch_files(snapshot, manifest)
    for number, (batch, file) in enumerate(zip(manifest.batches, files, strict=True)):
        if not batch.rows:
            continue  # all of it is in quarantine
        size, start = file.stat().st_size, 0
        with file.open("rb") as opened:
            while start < size:
                opened.seek(min(start + RANGE_BYTES, size) - 1)
                opened.readline()
                yield Piece(file, number, batch.whole or batch.digest, start, opened.tell())
                start = opened.tell()


def lines_at(files: Sequence[Path], places: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """Yield the lines that begin at these places, each the number of a file and a position there."""
    opened: dict[int, BinaryIO] = {}
    try:
        for number, position in places:
            if number not in opened:
                if len(opened) == MOST_OPEN:
                    opened.pop(next(iter(opened))).close()  # the one that was opened first
                opened[number] = files[number].open("rb")
            opened[number].seek(position)
            yield opened[number].readline()
    finally:
        for file in opened.values():
            file.close()
