"""Tables in CSV as records under the header's names.

The delimiter is the one that the file's suffix promises, unless the header has none of those, but semicolons,
tabs or bars: then those, as Excel writes them where the comma is the decimal sign. Cells in which data frames
and databases write that there is no value are absent, because nothing tells them from a text that spells the
same.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain

from plumbline.preferences.reading.conversations import Unusable, shown

ABSENT = frozenset({"nan", "NaN", "NAN", "<NA>", "NaT", "None", "null", "NULL", "NA", "\\N"})
"""Cells that stand for no value: pandas, R and databases write them."""
DELIMITERS = (",", ";", "\t", "|")
SEPARATOR = re.compile(rb'"?sep=(.)"?\s*', re.IGNORECASE)
"""The line before the header in which Excel names the delimiter."""
QUOTED = re.compile(r'"[^"]*"')
SENTENCE = re.compile(r".*[.?!]\s*|.{60,}|[\d.,]+", re.DOTALL)
"""What a cell holds, and a header does not."""

Line = tuple[int, bytes | Unusable]


def csv_records(lines: Iterable[Line], delimiter: str, longest: int) -> Iterator[tuple[int, object]]:
    """Yield records, or what is wrong with them, each with the number of its last line.

    Instead of a record that a broken line belongs to stands what is wrong with that line. `longest` is the
    maximum number of characters of a cell.
    """
    csv.field_size_limit(longest)
    broken: list[tuple[int, Unusable]] = []
    delimiter, lines = _sniffed(iter(lines), delimiter)
    reader = csv.reader(_texts(lines, broken), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if not broken:
                yield reader.line_num, Unusable("-", f"not valid CSV: {error}")
                continue
        if broken:
            yield broken[-1]  # the last, which may say that nothing more is read
            if header is None:  # without its header nothing of a table can be read
                return
            broken.clear()
        elif cells is None:
            return
        elif header is None:
            if not cells:
                continue
            header = cells
            if (problem := _no_header(header)) is not None:
                yield 0, problem
                return
        elif cells and len(cells) != len(header):
            yield reader.line_num, Unusable("-", f"expected {len(header)} cells as in the header, found "
                                                 f"{len(cells)}")
        elif cells:
            yield reader.line_num, {name: None if cell in ABSENT else cell
                                    for name, cell in zip(header, cells, strict=True)}


def _sniffed(lines: Iterator[Line], delimiter: str) -> tuple[str, Iterator[Line]]:
    """Return the delimiter, and the lines from the header on."""
    first = next(lines, None)
    if first is None:
        return delimiter, lines
    number, line = first
    if isinstance(line, Unusable):
        return delimiter, chain([first], lines)
    if named := SEPARATOR.fullmatch(line):
        return named[1].decode("latin-1"), chain([(number, b"\n")], lines)  # the numbers of lines stay right
    header = QUOTED.sub("", line.decode(errors="replace"))
    if delimiter not in header:
        delimiter = max(DELIMITERS, key=header.count) if any(map(header.count, DELIMITERS)) else delimiter
    return delimiter, chain([first], lines)


def _no_header(header: list[str]) -> Unusable | None:
    """Return the problem of a first line that names no columns, or one column twice; None if it is a header.
    """
    twice = next((name for name, count in Counter(header).items() if name and count > 1), None)
    if twice is not None:
        return Unusable("-",
                        f"a table whose header names the column {shown(twice)} twice: rename one of them")
    if len(header) > 1 and all(map(SENTENCE.fullmatch, header)):
        return Unusable("-", "a table without a header: its first line, which begins with "
                             f"{shown(header[0])}, should name the columns, such as prompt,chosen,rejected")
    return None


def _texts(lines: Iterable[Line], broken: list[tuple[int, Unusable]]) -> Iterator[str]:
    """Yield the lines as text. What is wrong with a broken line goes to `broken`; it is yielded, too, as far
    as it can be read, so that its quotes open and close cells and line numbers hold.
    """
    for number, line in lines:
        if isinstance(line, Unusable):
            broken.append((number, line))
            yield "\n"
            continue
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            broken.append((number, Unusable("-", f"not UTF-8: {error.reason} at byte {error.start} of the "
                                                 "line")))
            yield line.decode(errors="replace")
