"""Rows of a Parquet file, in bounded memory whatever is in it.

A text that stands once in a column's dictionary can be the value of millions of cells. So the longest text of
each dictionary decides how many rows are unpacked at a time. Lists may name a text any number of times: where
that could be too much, rows are measured before they are unpacked, if need be one by one.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from plumbline.preferences.reading import parquet_limits
from plumbline.preferences.reading.conversations import Unusable
from plumbline.preferences.reading.parquet_limits import ALWAYS, MOST_TIMES, TooLarge

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch  # type: ignore[import-untyped]
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

MOST_ROWS = 1024
AT_ONCE = 64 * 2**20
"""Bytes of text that are unpacked at a time."""
MOST_IN_LISTS = 512 * 2**20
"""What the lists of a row group could at the most become, in bytes, without each batch being measured
first."""


def parquet_rows(opened: BinaryIO, row_limit: int) -> Iterator[dict[str, object] | Unusable]:
    """Yield each row, or what is wrong with it. Raises TooLarge, and pyarrow's errors for a damaged file."""
    from pyarrow import parquet

    size = opened.seek(0, 2)
    with parquet.ParquetFile(opened) as table:
        parquet_limits.check(opened, table.metadata, size)
        left = max(ALWAYS, MOST_TIMES * size)
        for group in range(table.num_row_groups):
            for batch in _batches(opened, table, group):
                unpacked = _length(batch)
                left -= unpacked
                if left < 0:
                    raise TooLarge(f"it unpacks to more than {MOST_TIMES} times its size")
                if unpacked <= row_limit:
                    yield from batch.to_pylist()
                else:
                    yield from _one_by_one(batch, row_limit)


def _batches(opened: BinaryIO, table: "ParquetFile", group: int) -> "Iterator[RecordBatch]":
    """Yield the rows of a row group in batches of bounded memory."""
    from pyarrow import parquet

    named = _with_dictionary(table, group)
    if not named:
        yield from table.iter_batches(MOST_ROWS, [group])
        return
    with parquet.ParquetFile(opened, read_dictionary=list(named)) as kept:
        first = next(kept.iter_batches(1, [group]), None)
        longest, in_lists = _longest_texts(first) if first is not None else (0, 0)
        rows = max(1, min(MOST_ROWS, AT_ONCE // max(1, longest + in_lists)))
        unpacked = table.iter_batches(rows, [group])
        if in_lists * max(named.values()) <= MOST_IN_LISTS:
            yield from unpacked
            return
        large = False
        for batch in kept.iter_batches(rows, [group]):
            large = large or _length(batch) > AT_ONCE
            yield batch if large else next(unpacked)


def _with_dictionary(table: "ParquetFile", group: int) -> dict[str, int]:
    """Return the number of values of each text column of a row group that has a dictionary."""
    about = table.metadata.row_group(group)
    return {column.path_in_schema: column.num_values for column in map(about.column, range(about.num_columns))
            if column.has_dictionary_page and column.physical_type == "BYTE_ARRAY"}


def _longest_texts(batch: "RecordBatch") -> tuple[int, int]:
    """Return the sum of the longest texts in the dictionaries of plain columns, and that of lists, in bytes.
    """
    from pyarrow import compute, types

    plain = nested = 0
    for column in batch.columns:
        dictionaries = [leaf.dictionary for leaf in _leaves([column]) if types.is_dictionary(leaf.type)]
        longest = sum(compute.max(compute.binary_length(texts)).as_py() or 0 for texts in dictionaries)
        if types.is_nested(column.type):
            nested += longest
        else:
            plain += longest
    return plain, nested


def _one_by_one(batch: "RecordBatch", row_limit: int) -> "Iterator[dict[str, object] | Unusable]":
    for number in range(batch.num_rows):
        row = batch.slice(number, 1)
        if _length(row) > row_limit:
            yield Unusable("-", f"the row is longer than {row_limit // 2**20} MiB")
        else:
            yield from row.to_pylist()


def _length(batch: "RecordBatch") -> int:
    """Return the bytes of all texts in some rows, each counted as often as it is used."""
    return sum(_of_texts(leaf) for leaf in _leaves(batch.columns))


def _of_texts(leaf: "Array") -> int:
    from pyarrow import compute, types

    if types.is_dictionary(leaf.type):
        lengths = compute.take(compute.binary_length(leaf.dictionary), leaf.indices)
    elif any(is_it(leaf.type) for is_it in (types.is_string, types.is_binary, types.is_large_string,
                                            types.is_large_binary)):
        lengths = compute.binary_length(leaf)
    else:
        return 8 * len(leaf)
    return compute.sum(lengths).as_py() or 0


def _leaves(arrays: "Sequence[Array]") -> "Iterator[Array]":
    """Yield the columns of values in nested columns."""
    from pyarrow import types

    for array in arrays:
        if types.is_struct(array.type):
            yield from _leaves(array.flatten())
        elif any(is_it(array.type) for is_it in (types.is_list, types.is_large_list,
                                                 types.is_fixed_size_list)):
            yield from _leaves([array.flatten()])
        elif types.is_map(array.type):
            yield from _leaves([array.keys, array.items])
        else:
            yield array
