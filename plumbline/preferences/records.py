"""Files as numbered records: JSON lines, a JSON array, CSV or Parquet, compressed or not, in bounded memory.

The content decides, not the name: compression, Parquet and JSON arrays are told by their first bytes; only CSV needs
its suffix (`.tsv` for tabs), in any case. Instead of a record that cannot be read stands what is wrong with it, and the
others go on. A line may have 16 MiB. A compressed file may unpack to 200 times its size, and to 64 MiB in any case:
text shrinks to a tenth or so, and what shrinks to a thousandth is there to fill the disk.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import orjson

from plumbline.errors import UserError
from plumbline.preferences.conversations import Unusable
from plumbline.preferences.json_array import Elements
from plumbline.preferences.parquet_limits import ALWAYS, MOST_TIMES, TooLarge
from plumbline.preferences.parquet_rows import parquet_rows

LINE_LIMIT = 16 * 2**20
SKIPPED_AT_ONCE = 2**16
PARQUET, BOM, UTF_16, UTF_32 = b"PAR1", b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff"), b"\0\0\xfe\xff"
SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
Records = Iterator[tuple[int, object]]


class _Damaged(Exception):
    """A compressed file that cannot be unpacked any further."""


def read_records(file: Path) -> Records:
    """Each record with its line, or what is wrong with that line. Raises OSError if the file cannot be read."""
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
        raise UserError("Reading zstd needs pyarrow, which is not installed: pip install pyarrow, or unpack the file "
                        "first.") from None
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
        """It is."""
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
            raise _Damaged(f"it unpacks to more than {MOST_TIMES} times its size; unpack it first if that is right")
        buffer[:len(read)] = read
        return len(read)


def _texts(opened: io.BufferedReader, name: str) -> Records:
    try:
        start = opened.peek(64)
    except _Damaged as damage:
        yield 1, _damage(damage)
        return
    if start.startswith((*UTF_16, UTF_32)):
        yield 1, Unusable("-", "the file is UTF-16 or UTF-32; save it as UTF-8")
    elif start.startswith(PARQUET):
        yield 1, Unusable("-", "it is Parquet within a compressed file; unpack it first")
    elif name.endswith((".csv", ".tsv")):
        yield from _csv(opened, "\t" if name.endswith(".tsv") else ",")
    elif start.removeprefix(BOM).lstrip().startswith(b"["):
        yield from _array(opened)
    else:
        for number, line in _lines(opened):
            if isinstance(line, Unusable):
                yield number, line
            elif not line.isspace():
                yield number, _json(line)


def _damage(damage: _Damaged) -> Unusable:
    return Unusable("-", f"the compressed file is not read from here on: {damage}")


def _array(opened: io.BufferedReader) -> Records:
    number = 0
    try:
        for number, element in Elements(opened, LINE_LIMIT):
            yield number, element
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
    """The value; the slower decoder of the standard library says what is wrong, and takes what only it can take."""
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
        return Unusable("-", f"not valid JSON: {error.msg} at character {error.pos + 1}")
    except (RecursionError, ValueError) as error:  # nested a thousand deep, or a number of a thousand digits
        return Unusable("-", f"not usable JSON: {error}")


def _csv(opened: io.BufferedReader, delimiter: str) -> Records:
    """Records under the header's names; a field over several lines counts as the line on which its record ends."""
    csv.field_size_limit(LINE_LIMIT)
    broken: list[tuple[int, Unusable]] = []
    reader = csv.reader(_csv_lines(opened, broken), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield reader.line_num, Unusable("-", f"not valid CSV: {error}")
            continue
        yield from broken
        broken.clear()
        if cells is None:
            return
        if header is None:
            header = cells
        elif cells and len(cells) != len(header):
            yield reader.line_num, Unusable("-", f"expected {len(header)} cells as in the header, found {len(cells)}")
        elif cells:
            yield reader.line_num, {name: _cell(cell) for name, cell in zip(header, cells, strict=True)}


def _csv_lines(opened: io.BufferedReader, broken: list[tuple[int, Unusable]]) -> Iterator[str]:
    """The lines of text; a broken one is put aside, and stands as an empty one so that the numbers stay right."""
    for number, line in _lines(opened):
        try:
            if isinstance(line, Unusable):
                broken.append((number, line))
                yield "\n"
            else:
                yield line.decode()
        except UnicodeDecodeError as error:
            broken.append((number, Unusable("-", f"not UTF-8: {error.reason} at byte {error.start} of the line")))
            yield "\n"


def _cell(cell: str) -> object:
    """The cell as it is, or the messages that it spells in JSON."""
    if cell.startswith("[") and ('"role"' in cell or '"from"' in cell):
        decoded = _json(cell.encode("utf-8", "surrogatepass"))
        if isinstance(decoded, list) and decoded and all(isinstance(turn, dict) for turn in decoded):
            return decoded
    return cell


def _parquet(opened: BinaryIO) -> Records:
    try:
        from pyarrow import ArrowException
    except ModuleNotFoundError:
        raise UserError("Reading Parquet needs pyarrow, which is not installed: pip install pyarrow.") from None
    number = 0
    try:
        for number, record in enumerate(parquet_rows(opened, LINE_LIMIT), 1):
            yield number, record
    except TooLarge as error:
        yield number + 1, Unusable("-", f"not read from here on: {error}. Write it as JSON lines if that is right")
    except (ArrowException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        yield number + 1, Unusable("-", f"not valid Parquet from here on: {str(error)[:200]}")
