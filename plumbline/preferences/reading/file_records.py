"""Files as numbered records: JSON lines, other JSON, CSV or Parquet, compressed or not, in bounded memory.

The content decides, not the name: compression, Parquet, JSON arrays and objects over several lines are told
by their first bytes, and so is what is no preference data at all, which gives one record 0; only CSV needs
its suffix (`.tsv` for tabs), in any case. Instead of a record that cannot be read stands what is wrong with
it, and the others go on. A line may have 16 MiB. A compressed file may unpack to 200 times its size, and to
64 MiB in any case: text shrinks to a tenth or so, and what shrinks to a thousandth is there to fill the disk.
"""

import bz2
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import orjson

from plumbline.errors import UserError
from plumbline.preferences.reading.conversations import Unusable
from plumbline.preferences.reading.csv_table import csv_records
from plumbline.preferences.reading.json_array import Elements, why_not_json
from plumbline.preferences.reading.json_objects import OVER_LINES, Objects, unwrapped
from plumbline.preferences.reading.not_data import what_else
from plumbline.preferences.reading.parquet_limits import ALWAYS, MOST_TIMES, TooLarge
from plumbline.preferences.reading.parquet_rows import parquet_rows

LINE_LIMIT = 16 * 2**20
SKIPPED_AT_ONCE = 2**16
FIRST_BYTES = 512
"""So many tell what a file is; a stream may give more."""
PARQUET, BOM = b"PAR1", b"\xef\xbb\xbf"
SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
Records = Iterator[tuple[int, object]]
LIKE_A_HEADER = re.compile(rb"[^{}\[\]]*[,\t][^{}\[\]]*")
"""The first line of a table that lacks its suffix, and of no JSON."""
OF_A_TABLE = Unusable("-", "not valid JSON, but a line of a table, which is told by a name that ends in .csv "
                           "(commas) or .tsv (tabs): rename the file")


class _Damaged(Exception):
    """A compressed file that cannot be unpacked any further."""


def read_records(file: Path) -> Records:
    """Yield each record, or what is wrong with it, with its line.

    Raises OSError if the file cannot be read.
    """
    with file.open("rb") as plain:
        start = plain.peek(8)
        unpack = next((opener for magic, opener in PACKINGS.items() if start.startswith(magic)), None)
        if start.startswith(PARQUET):
            yield from _parquet(plain)
        elif unpack is None:
            yield from _texts(plain, file.name.lower())
        else:
            name = (file.stem if file.name.lower().endswith(SUFFIXES) else file.name).lower()
            allowed = max(ALWAYS, MOST_TIMES * file.stat().st_size)
            unpacked: io.BufferedReader = io.BufferedReader(_Unpacked(unpack(plain), allowed))
            yield from _texts(unpacked, name)


class _Stream(Protocol):
    """What unpacks a file."""

    def read(self, size: int, /) -> bytes: ...


def _zstd(plain: BinaryIO) -> _Stream:
    try:
        import pyarrow  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise UserError("Reading zstd needs pyarrow, which is not installed: pip install pyarrow, or unpack "
                        "the file first.") from None
    stream: _Stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(plain, mode="r"), "zstd")
    return stream


PACKINGS: dict[bytes, Callable[[BinaryIO], _Stream]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
    b"\x28\xb5\x2f\xfd": _zstd,
}


class _Unpacked(io.RawIOBase):
    """An unpacking stream whose many ways to fail are one, and which gives no more than `allowed` bytes."""

    def __init__(self, stream: _Stream, allowed: int) -> None:
        self.stream = stream
        self.left = allowed

    def readable(self) -> bool:
        """Return True, as io.RawIOBase asks."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer. Raises _Damaged, or OSError if the packed file cannot be read."""
        try:
            read = self.stream.read(len(buffer))
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise _Damaged(error) from None
        except OSError as error:  # also gzip's, bz2's and zstd's word for damage, then without a number
            if error.errno:
                raise
            raise _Damaged(error) from None
        self.left -= len(read)
        if self.left < 0:
            raise _Damaged(f"it unpacks to more than {MOST_TIMES} times its size; unpack it first if that is "
                           "right")
        buffer[:len(read)] = read
        return len(read)


def _texts(opened: io.BufferedReader, name: str) -> Records:
    try:
        start = opened.peek(FIRST_BYTES)
    except _Damaged as damage:
        yield 1, _damage(damage)
        return
    content = start.removeprefix(BOM).lstrip()
    if start.startswith(PARQUET):
        yield 0, Unusable("-", "Parquet within a compressed file; unpack it first")
    elif what := what_else(start, name):
        yield 0, Unusable("-", what)
    elif name.endswith((".csv", ".tsv")):
        yield from csv_records(_lines(opened), "\t" if name.endswith(".tsv") else ",", LINE_LIMIT)
    elif content.startswith(b"["):
        yield from _decoded(Elements(opened, LINE_LIMIT))
    elif OVER_LINES.match(content):
        yield from unwrapped(_decoded(Objects(opened, LINE_LIMIT)))
    else:
        yield from unwrapped(_json_lines(opened))


def _json_lines(opened: io.BufferedReader) -> Records:
    table: bool | None = None
    for number, line in _lines(opened):
        if isinstance(line, Unusable):
            yield number, line
        elif not line.isspace():
            record = _json(line)
            if table is None:
                table = isinstance(record, Unusable) and LIKE_A_HEADER.fullmatch(line) is not None
            yield number, OF_A_TABLE if table and isinstance(record, Unusable) else record


def _damage(damage: _Damaged) -> Unusable:
    return Unusable("-", f"the compressed file is not read from here on: {damage}")


def _decoded(values: Elements) -> Records:
    number = 0
    try:
        for number, value in values:
            yield number, value
    except _Damaged as damage:
        yield number + 1, _damage(damage)


def _lines(opened: io.BufferedReader) -> Iterator[tuple[int, bytes | Unusable]]:
    number = 0
    while True:
        number += 1
        try:
            line = opened.readline(LINE_LIMIT + 1)
            if not line:
                return
            long = len(line) > LINE_LIMIT
            if long:
                _skip_line(opened, line)
        except _Damaged as damage:
            yield number, _damage(damage)
            return
        if long:
            yield number, Unusable("-", f"the line is longer than {LINE_LIMIT // 2**20} MiB")
        else:
            yield number, line.removeprefix(BOM) if number == 1 else line


def _skip_line(opened: io.BufferedReader, read: bytes) -> None:
    while read and not read.endswith(b"\n"):
        read = opened.readline(SKIPPED_AT_ONCE)


def _json(line: bytes) -> object:
    """Return the decoded value, or what is wrong with the line.

    The standard library's slower decoder names the error, and reads numbers that orjson does not.
    """
    try:
        value: object = orjson.loads(line)
    except orjson.JSONDecodeError:
        pass
    else:
        return value
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Unusable("-", f"not UTF-8: {error.reason} at byte {error.start} of the line")
    except json.JSONDecodeError as error:
        return Unusable("-", f"not valid JSON: {why_not_json(error)}")
    except (RecursionError, ValueError) as error:  # nested a thousand deep, or a number of a thousand digits
        return Unusable("-", f"not usable JSON: {error}")


def _parquet(opened: BinaryIO) -> Records:
    try:
        from pyarrow import ArrowException
    except ModuleNotFoundError:
        raise UserError("Reading Parquet needs pyarrow, which is not installed: pip install pyarrow."
                        ) from None
    number = 0
    try:
        for number, record in enumerate(parquet_rows(opened, LINE_LIMIT), 1):
            yield number, record
    except TooLarge as error:
        yield number + 1, Unusable("-", f"not read from here on: {error}. Write it as JSON lines if that is "
                                        "right")
    except (ArrowException, ValueError, OSError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        yield number + 1, Unusable("-", f"not valid Parquet from here on: {str(error)[:200]}")
