"""Reading preference files: from a file or numbered records to rows, each record that is no row in
quarantine.

Everything is an iterator, so a file of any size is read in the memory of one record. What went wrong with the
file as a whole is raised: at the start that it cannot be opened, at the end that nothing in it was usable.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from plumbline.errors import UserError
from plumbline.preferences.reading.conversations import Undecidable, Unusable
from plumbline.preferences.reading.file_records import read_records
from plumbline.preferences.reading.formats import EXPECTED, RECOGNISED, Reading, closest, parse
from plumbline.preferences.reading.formats.fields import TakenBack
from plumbline.preferences.reading.results import Quarantined, Unread, shown_name
from plumbline.preferences.reading.source_files import unreadable
from plumbline.preferences.types import Row

__all__ = ["MissingColumn", "Reading", "UndecidableFile", "UnusableFile", "import_records", "read_file"]

EXPORTED_AT = re.compile(r"-at-\d{4}(-\d\d){4}-[0-9a-f]{8}.*")
"""What Label Studio puts behind a project's name: each export of a project that grows holds the rows of the
last one, which are the same rows only if their source is, too."""
NAMED_WITHIN = 1000
"""A mapped column must be named by one of this many first records."""
KINDS_OF_PROBLEM = 1000


class UnusableFile(UserError):
    """A file in which nothing is usable, so that a folder may go on without it, or a folder of such files."""


class MissingColumn(UserError):
    """A file without a column that was mapped; rows that came before that was known may be usable."""


class UndecidableFile(UserError):
    """A file of which no record can be trusted, though some could be read."""


def read_file(file: Path, name: str, how: Reading = RECOGNISED) -> Iterator[Row | Quarantined | Unread]:
    """Import a file; `name` stands for it in the quarantine, its stem is the source of rows that name none
    themselves, without the time at which Label Studio made it.

    What was not read of its fields, and what was taken back, comes last.

    Raises UserError for a file that cannot be read, wherever that shows, and as `import_records` does.
    """
    name = shown_name(name)
    source = EXPORTED_AT.sub("", Path(name).name.split(".")[0]) or name
    try:
        yield from import_records(read_records(file), name, source, how)
    except OSError as error:
        raise unreadable("file", file, error) from None


def import_records(records: Iterable[tuple[int, object]], name: str, source: str,
                   how: Reading = RECOGNISED) -> Iterator[Row | Quarantined | Unread]:
    """Turn numbered records into rows. Raises UnusableFile at the end when none of them was usable.

    Raises, whatever was read before, MissingColumn where the first records do not name a mapped column, and
    UndecidableFile for a record that leaves the meaning of the others in doubt.
    """
    problems, unread = _Problems(name), Unread()
    usable = False
    for line, record in _with_columns(records, name, how) if how.columns else records:
        for judged in (record,) if isinstance(record, Unusable) else parse(record, source, how, unread):
            if isinstance(judged, Undecidable):
                raise UndecidableFile(f"Nothing of {name} was read: in line {line}, field `{judged.field}`: "
                                      f"{judged.reason}.")
            if isinstance(judged, Unusable):
                if not usable:
                    problems.note(line, judged)
                if isinstance(judged, TakenBack):
                    unread.taken_back.append(judged.row)
                yield Quarantined(name, line, judged.field, judged.reason)
            else:
                usable = True
                yield judged
    if unread.unknown or unread.left_alone or unread.taken_back:
        yield unread
    if not usable:
        raise UnusableFile(problems.message())


def _with_columns(records: Iterable[tuple[int, object]], name: str,
                  how: Reading) -> Iterator[tuple[int, object]]:
    """Yield the records if the first ones name all mapped columns. Raises MissingColumn if they do not."""
    missing, seen, count = set(how.columns.values()), dict[str, None](), 0
    for line, record in records:
        if missing and isinstance(record, dict):
            count += 1
            seen |= dict.fromkeys(record)
            missing -= seen.keys()
            if missing and count == NAMED_WITHIN:
                break
        yield line, record
    if missing and seen:
        column = min(missing)
        raise MissingColumn(shown_name(f"{name} has no column {column!r}.{closest(column, list(seen))} Its "
                                       f"columns: {', '.join(list(seen)[:40])}."))


class _Problems:
    """What was wrong with the first records of a file, while none has been usable, and how often."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.read = 0
        self.found: dict[tuple[str, str], tuple[int, int]] = {}

    def note(self, line: int, problem: Unusable) -> None:
        """Count the problem under its first line. Only so many kinds are kept: a reason can quote the
        record."""
        self.read += 1
        kind = (problem.field, problem.reason)
        if kind in self.found or len(self.found) < KINDS_OF_PROBLEM:
            times, first = self.found.get(kind, (0, line))
            self.found[kind] = (times + 1, first)

    def message(self) -> str:
        """Return the message that nothing is usable, with the most frequent problem."""
        if not self.found:
            return (f"{self.name} is empty: expected preferences or demonstrations, one JSON object a line. "
                    f"Expected {EXPECTED}.")
        (field, reason), (times, first) = max(self.found.items(), key=lambda kind: kind[1][0])
        if first == 0:
            return f"{self.name} cannot be read. It is {reason}."
        where = "" if field == "-" else f" in field `{field}`"
        return (f"Nothing in {self.name} is usable: {self.read} records read, {times} of them (first in line "
                f"{first}) with this problem{where}: {reason}. Convert the file to one of the formats of "
                "docs/data-formats.md, name its columns with --map FIELD=COLUMN, or leave it out.")
