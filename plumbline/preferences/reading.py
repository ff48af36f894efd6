"""Reading preference files: JSON lines, a JSON array, CSV or Parquet, compressed with gzip or not.

The content decides, not the name: gzip, Parquet and JSON arrays are told by their first bytes; only CSV needs its
suffix. A record that cannot be used is quarantined with file, line, field and reason, and the others go on.
"""

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from plumbline.errors import UserError
from plumbline.preferences.batches import Imported, Quarantined
from plumbline.preferences.conversations import Unusable
from plumbline.preferences.formats import EXPECTED, parse
from plumbline.preferences.types import Row

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
Records = Iterator[tuple[int, object]]


def read_file(file: Path, name: str) -> Imported:
    """Import a file; `name` stands for it in the quarantine, its stem is the source of rows that name none themselves.

    Raises UserError for a file that cannot be read, or in which nothing is usable.
    """
    source = Path(name).name.split(".")[0] or name
    try:
        return import_records(_records(file), name, source)
    except OSError as error:
        raise UserError(f"The preference file {file} cannot be read: {error.strerror or error}.") from None


def import_records(records: Iterable[tuple[int, object]], name: str, source: str) -> Imported:
    """Turn numbered records into rows. Raises UserError when none of them is usable."""
    rows: list[Row] = []
    quarantined: list[Quarantined] = []
    for line, record in records:
        try:
            if isinstance(record, Unusable):
                raise record
            rows.append(parse(record, source))
        except Unusable as problem:
            quarantined.append(Quarantined(name, line, problem.field, problem.reason))
    if not rows:
        raise UserError(_nothing_usable(name, quarantined))
    return Imported(rows, quarantined)


def _nothing_usable(name: str, quarantined: list[Quarantined]) -> str:
    if not quarantined:
        return f"{name} is empty: expected preferences or demonstrations, one JSON object a line. Expected {EXPECTED}."
    (field, reason), count = Counter((row.field, row.reason) for row in quarantined).most_common(1)[0]
    first = next(row.line for row in quarantined if (row.field, row.reason) == (field, reason))
    where = "" if field == "-" else f" in field `{field}`"
    return (f"Nothing in {name} is usable: {len(quarantined)} records read, {count} of them (first in line {first}) "
            f"with this problem{where}: {reason}. Convert the file to one of the formats that "
            "plumbline/preferences/formats.py lists, or take it out of snapshot.sources.")


def _records(file: Path) -> Records:
    """Each record with its line, or what is wrong with that line."""
    with file.open("rb") as plain:
        start = plain.read(4)
        plain.seek(0)
        if start.startswith(GZIP):
            with gzip.open(plain) as unpacked:
                yield from _texts(io.BufferedReader(unpacked), file.name.removesuffix(".gz"))
        elif start == PARQUET:
            yield from _parquet(plain)
        else:
            yield from _texts(plain, file.name)


def _texts(opened: BinaryIO, name: str) -> Records:
    lines = _numbered_lines(opened)
    if name.endswith(".csv"):
        yield from _csv(lines)
        return
    for number, line in lines:
        if isinstance(line, Unusable):
            yield number, line
        elif line.lstrip().startswith("[") and number == 1:
            rest = [text for _, text in lines]
            yield from _array([line, *rest])
        elif line.strip():
            yield number, _json(line)


def _numbered_lines(opened: BinaryIO) -> Iterator[tuple[int, str | Unusable]]:
    number = 0
    while True:
        number += 1
        try:
            line = opened.readline()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            yield number, Unusable("-", f"the compressed file is damaged from here on: {error}")
            return
        if not line:
            return
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield number, Unusable("-", f"not UTF-8: {error.reason} at byte {error.start} of the line")


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return Unusable("-", f"not valid JSON: {error.msg} at character {error.pos + 1}")
    except (RecursionError, ValueError) as error:  # nested a thousand deep, or a number of a thousand digits
        return Unusable("-", f"not usable JSON: {error}")


def _array(lines: list[str | Unusable]) -> Records:
    """One JSON array over all lines; records are numbered from 1."""
    for line in lines:
        if isinstance(line, Unusable):
            yield 1, line
            return
    values = _json("".join(line for line in lines if isinstance(line, str)))
    if isinstance(values, list):
        yield from enumerate(values, start=1)
    else:
        yield 1, values


def _csv(lines: Iterator[tuple[int, str | Unusable]]) -> Records:
    """Records under the header's names; a field over several lines counts as the line on which its record ends."""
    broken: list[tuple[int, Unusable]] = []

    def usable() -> Iterator[str]:
        for number, line in lines:
            if isinstance(line, Unusable):
                broken.append((number, line))
            else:
                yield line

    reader = csv.DictReader(usable(), restkey="", strict=True)
    while True:
        try:
            record = next(reader, None)
        except csv.Error as error:
            yield reader.line_num, Unusable("-", f"not valid CSV: {error}")
            continue
        if record is None:
            break
        if "" in record or None in record.values():
            yield reader.line_num, Unusable("-", "the number of cells differs from the header's")
        else:
            yield reader.line_num, {name: _cell(value) for name, value in record.items()}
    yield from broken


def _cell(value: str) -> object:
    """A cell as it is, or the number or list that it spells: the formats that need those say so by their types."""
    if value[:1] in "[{" or value.replace(".", "", 1).isdigit():
        decoded = _json(value)
        return value if isinstance(decoded, Unusable) else decoded
    return value


def _parquet(opened: BinaryIO) -> Records:
    try:
        from pyarrow import ArrowInvalid, parquet  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise UserError("Reading Parquet needs pyarrow, which is not installed: pip install pyarrow.") from None
    try:
        table = parquet.read_table(opened)
    except ArrowInvalid as error:
        yield 1, Unusable("-", f"not valid Parquet: {error}")
        return
    yield from enumerate(table.to_pylist(), start=1)
