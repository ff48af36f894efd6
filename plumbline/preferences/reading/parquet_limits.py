"""How much a Parquet file may become in memory: told from its pages before they are unpacked.

A page of a few bytes can unpack to gigabytes, and a text that stands once in a column's dictionary can be the
value of millions of cells. What the file's footer says of its sizes is not believed: the pages' own headers
(Thrift's compact protocol, parquet.thrift) are what a reader allocates by. Where a header is none, a reader
gets no further in that column either.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData  # type: ignore[import-untyped]

LARGEST_PAGE = 256 * 2**20
MOST_TIMES, ALWAYS = 200, 64 * 2**20
"""A file may unpack to so many times its size, and to so many bytes in any case."""
FEW_VALUES = 4_000_000
"""A column may always have so many values; with more, not more than the file has bytes."""
TRUE, FALSE, BYTE, NUMBERS = 1, 2, 3, (4, 5, 6)
DOUBLE, BINARY, LIST, SET, MAP, STRUCT, UUID = range(7, 14)
"""The types of fields in Thrift's compact protocol."""
MOST_NESTED = 64


class TooLarge(ValueError):
    """The file would become too large; the message says why."""


@dataclass(frozen=True)
class PageHeader:
    """The header of a page, as far as it matters; sizes in bytes."""

    kind: int
    unpacked: int
    packed: int
    end: int
    """Where the header ends, and its bytes begin."""


def check(opened: BinaryIO, about: "FileMetaData", size: int) -> None:
    """Raise TooLarge for a file of `size` bytes that would unpack to much more than it is."""
    total, allowed = 0, max(ALWAYS, MOST_TIMES * size)
    for group in range(about.num_row_groups):
        for number in range(about.num_columns):
            column = about.row_group(group).column(number)
            if column.num_values > max(FEW_VALUES, size):
                raise TooLarge(f"the column {column.path_in_schema} claims {column.num_values:,} values in a "
                               f"file of {size:,} bytes")
            start = min(filter(None, (column.dictionary_page_offset, column.data_page_offset)))
            for page in pages(opened, start, column.total_compressed_size):
                total += page.unpacked
                if page.unpacked > LARGEST_PAGE:
                    raise TooLarge(f"a page of the column {column.path_in_schema} unpacks to "
                                   f"{page.unpacked:,} bytes")
                if total > allowed:
                    raise TooLarge(f"it unpacks to more than {MOST_TIMES} times its size")


def pages(opened: BinaryIO, start: int, length: int) -> Iterator[PageHeader]:
    """Yield the headers of the pages of a column in a row group, as long as they are valid."""
    place = start
    while place < start + length:
        opened.seek(place)
        page = _header(opened)
        if page is None:
            return
        yield page
        place = page.end + page.packed


def _header(opened: BinaryIO) -> PageHeader | None:
    """Return the page header at this position; None if there is none."""
    fields: dict[int, int] = {}
    try:
        _struct(opened, fields, MOST_NESTED)
    except ValueError:
        return None
    if not {1, 2, 3} <= fields.keys() or fields[2] < 0 or fields[3] < 0:
        return None
    return PageHeader(fields[1], fields[2], fields[3], opened.tell())


def _struct(opened: BinaryIO, numbers: dict[int, int], depth: int) -> None:
    """Skip a struct; its fields that are numbers are put into `numbers`."""
    name = 0
    while kind := _byte(opened):
        name = name + (kind >> 4) if kind >> 4 else _signed(opened)
        if kind & 15 in NUMBERS:
            numbers[name] = _signed(opened)
        elif kind & 15 not in (TRUE, FALSE):  # a field's type says which of the two it is
            _skip(opened, kind & 15, depth)


def _skip(opened: BinaryIO, kind: int, depth: int) -> None:
    if depth == 0:
        raise ValueError("a page's header is nested too deeply")
    if kind in (TRUE, FALSE, BYTE):
        _byte(opened)
    elif kind in NUMBERS:
        _varint(opened)
    elif kind == DOUBLE:
        opened.seek(8, 1)
    elif kind == BINARY:
        opened.seek(_varint(opened), 1)
    elif kind in (LIST, SET):
        about = _byte(opened)
        for _ in range(_varint(opened) if about >> 4 == 15 else about >> 4):
            _skip(opened, about & 15, depth - 1)
    elif kind == MAP:
        entries = _varint(opened)
        about = _byte(opened) if entries else 0
        for _ in range(entries):
            _skip(opened, about >> 4, depth - 1)
            _skip(opened, about & 15, depth - 1)
    elif kind == STRUCT:
        _struct(opened, {}, depth - 1)
    elif kind == UUID:
        opened.seek(16, 1)
    else:
        raise ValueError("a page's header holds what no page's does")


def _byte(opened: BinaryIO) -> int:
    read = opened.read(1)
    if not read:
        raise ValueError("the file ends within a page's header")
    return read[0]


def _varint(opened: BinaryIO) -> int:
    value = 0
    for shift in range(0, 64, 7):
        byte = _byte(opened)
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("a number in a page's header does not end")


def _signed(opened: BinaryIO) -> int:
    value = _varint(opened) & 0xFFFF_FFFF  # of a size readers take 32 bits
    return (value >> 1) ^ -(value & 1)
