"""JSON objects that are not written one a line: over several lines, or as one object around the list of
records."""

import re
from collections.abc import Iterator
from itertools import chain, count

from plumbline.preferences.reading.conversations import Unusable
from plumbline.preferences.reading.json_array import Elements

OVER_LINES = re.compile(rb'\{\s*?\n\s*["}/]|\{[^\r\n]*[,\[{][ \t]*\r?\n(?:[ \t]+["{\[}\]/]|["}])')
"""How an object begins that goes on in the next line; after a line that was cut off comes one that starts
with `{`."""
NEXT_OBJECT = re.compile(r"\}\s*(?=\{)")
AROUND = ("data", "rows", "records", "examples", "items", "results", "instances", "samples", "train")
"""What the list of records is called in the one object of a file."""
ABOUT = frozenset({"version", "features", "schema", "info", "about", "meta", "metadata", "name", "title",
                   "description",
                   "license", "dataset", "config", "split", "count", "total", "size", "num_rows",
                   "num_rows_total",
                   "num_rows_per_page", "partial", "page", "limit", "offset", "next", "previous", "has_more",
                   "object", "created_at", "updated_at", "exported_at", "date", "url", "columns"})
"""Fields beside that list that describe it."""
SERVED = frozenset({"row_idx", "row", "truncated_cells"})
"""A row as the hub's server of rows gives it."""
BY_COLUMNS = Unusable("-", "one object that holds the table by columns: write it by rows, with pandas "
                           "`to_json(FILE, orient=\"records\", lines=True)`")


class Objects(Elements):
    """Objects after each other, of which each may go over several lines."""

    next_object = NEXT_OBJECT
    too_long = ("; if it is one object around a list of records, write them alone: jq -c '.data[]' FILE > "
                "preferences.jsonl")

    def __iter__(self) -> Iterator[tuple[int, object]]:
        self._read()
        for number in count(1):
            self._skip_filling()
            if not self.text:
                return
            yield number, self._element()
            if self.lost:
                return


def unwrapped(records: Iterator[tuple[int, object]]) -> Iterator[tuple[int, object]]:
    """Yield the records; where the first object wraps a list, the elements of all such lists are numbered.

    A list may be saved in pages, an object each.
    """
    first = next(records, None)
    if first is None:
        return
    number, value = first
    key = _around(value)
    if key is None:
        yield (0, BY_COLUMNS) if _is_by_columns(value) else first
        yield from records
        return
    numbers = count(1)
    for number, value in chain([first], records):
        inside = _inside(value, key)
        if inside is None:
            yield number, value
        else:
            yield from ((next(numbers), _served(record)) for record in inside)


def _around(value: object) -> str | None:
    """Return what the list of records is called that an object wraps, or None if it is a record itself."""
    return next((name for name in AROUND if _inside(value, name)), None)


def _inside(value: object, key: str) -> list[object] | None:
    """Return the list of records in an object's field `key`; None where it says more than what describes
    it."""
    if not isinstance(value, dict) or not value.keys() - {key} <= ABOUT:
        return None
    inside = value.get(key)
    return inside if isinstance(inside, list) and all(isinstance(record, dict) for record in inside) else None


def _is_by_columns(value: object) -> bool:
    """True if each field holds a column: an object by row number, or a list as long as `prompt`."""
    if not isinstance(value, dict):
        return False
    columns = list(value.values())
    first = columns[0] if len(columns) > 1 else None
    if isinstance(first, dict):
        return bool(first) and all(name.isdecimal() for name in first) and all(
            isinstance(column, dict) and column.keys() == first.keys() for column in columns)
    prompts = value.get("prompt", value.get("instruction"))
    return isinstance(prompts,
                      list) and bool(prompts) and all(isinstance(text, str) for text in prompts) and all(
        isinstance(column, list) and len(column) == len(prompts) for column in columns)


def _served(record: object) -> object:
    if isinstance(record, dict) and "row" in record and record.keys() <= SERVED:
        if record.get("truncated_cells"):
            return Unusable("truncated_cells", "the server cut the texts of this row: download the data "
                                               "set's files")
        return record["row"]
    return record
