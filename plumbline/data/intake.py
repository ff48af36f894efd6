"""Preferences that a program brings: a request, a webhook, a watched folder, the feedback pages.

`take_in` (bytes), `take_in_file` and `take_in_rows` go through the same import as `plumbline data add` and
end in the same event. What they promise, from any number of threads and processes, while runs go on:

- The batch appears whole or not at all, and is on the disk before the call returns. A kill at any moment
  leaves nothing that counts, or the whole batch.
- The same content arrives once: a repeated call finds the batch that is there, and so does a file under
  another name, which is the source of rows that name none.
- No lock is waited for: see arrive.py.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import orjson

from plumbline.data.arrive import announce_once, arrive
from plumbline.errors import UserError
from plumbline.preferences.batches.arrivals import Arrival, draft, folder_of, readable_arrivals
from plumbline.preferences.batches.batch import QUARANTINE
from plumbline.preferences.jsonl import file_sha256, lines
from plumbline.preferences.reading.formats import RECOGNISED, Reading
from plumbline.preferences.reading.read import read_file
from plumbline.preferences.reading.results import Quarantined, Read, Unread, shown_name
from plumbline.preferences.types import Row, to_line
from plumbline.project.home import Home

MOST_QUARANTINED = 1000
"""An answer names at most so many quarantined rows; the batch keeps them all."""
LONGEST_NAME = 80
MOST_UNUSABLE = 100_000
"""So many rows may be unusable while hardly any can be used: what is wrong with each takes a hundred bytes to
say.
"""


@dataclass(frozen=True)
class Taken:
    """The outcome of an import by a program."""

    arrival: Arrival
    """The batch: `arrival.digest`, `arrival.batch.rows` that can be used, `arrival.batch.quarantined` that
    cannot.
    """
    already_there: bool
    """The same content had arrived before, so nothing changed."""
    quarantined: list[Quarantined]
    """The first rows that cannot be used, with line, field and reason."""
    not_announced: str | None
    """Why no event was sent; it is tried again later."""


class NothingUsable(UserError):
    """No row could be used, so there is no batch."""

    def __init__(self, message: str, quarantined: list[Quarantined]) -> None:
        super().__init__(message)
        self.quarantined = quarantined


def take_in(home: Home, content: bytes, name: str, how: Reading = RECOGNISED) -> Taken:
    """Import bytes in any known format: JSON lines, an array, CSV, Parquet, compressed or not.

    `name` stands for them in the quarantine and in `plumbline data list`; up to its first dot it is the
    source of rows that name none, so `argilla.jsonl` is right for a webhook of Argilla. Raises NothingUsable.
    """
    home.preferences.arrived.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.preferences.arrived, prefix=".new-") as folder:
        file = Path(folder) / Path(name).name[-LONGEST_NAME:]
        file.write_bytes(content)
        return take_in_file(home, file, name, how)


def take_in_file(home: Home, file: Path, name: str, how: Reading = RECOGNISED) -> Taken:
    """Import a file, which must not change meanwhile.

    Raises NothingUsable, or UserError if it is unreadable.
    """
    name, content = shown_name(name), content_digest([file_sha256(file)], how)
    for known in readable_arrivals(home.preferences)[0]:
        if known.content == content and known.action == "add":
            # An import that was killed after its batch appeared is finished here.
            return Taken(known, True, _quarantined_in(home, known), announce_once(home, known))
    return _take_in(home, name, read_file(file, name, how), content)


def _quarantined_in(home: Home, arrival: Arrival) -> list[Quarantined]:
    """Return the first quarantined rows of an arrival."""
    kept = lines(folder_of(home.preferences, arrival) / QUARANTINE)
    return [Quarantined(**orjson.loads(line)) for line in islice(kept, MOST_QUARANTINED)]


def take_in_rows(home: Home, rows: Sequence[Row], name: str) -> Taken:
    """Import rows that the caller has checked already."""
    return _take_in(home, name, rows, rows_digest(rows))


def take_in_read(home: Home, read: Sequence[Row | Quarantined], name: str, content: str,
                 beside: Mapping[str, str]) -> Taken:
    """Import rows that have been read already.

    `content` is the digest of what was read, `beside` texts to keep in the batch's folder, by their files'
    names.
    """
    return _take_in(home, name, read, content, beside)


def rows_digest(rows: Iterable[Row]) -> str:
    """Return the SHA-256 of the rows' lines."""
    return hashlib.sha256("".join(map(to_line, rows)).encode()).hexdigest()


def content_digest(files: Iterable[str], how: Reading) -> str:
    """Return one digest for files with these digests, read in this way."""
    asked = f"{how.format or ''} {sorted(how.columns.items())}"
    if how.leave or how.question:  # otherwise what was added before these could be said keeps its name
        asked += f" {sorted(how.leave)} {how.question or ''}"
    return hashlib.sha256("\n".join([asked, *files]).encode()).hexdigest()


def _take_in(home: Home, name: str, read: Read, content: str,
             beside: Mapping[str, str] | None = None) -> Taken:
    quarantined: list[Quarantined] = []
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    try:
        with draft(home.preferences, name, _noting(read, quarantined)) as drafted:
            done = arrive(home, drafted, "add", now, content, beside=beside)
    except UserError as error:
        raise NothingUsable(str(error), quarantined) from None
    return Taken(done.arrival, done.already_there, quarantined, done.not_announced)


def _noting(read: Read, quarantined: list[Quarantined]) -> Iterator[Row | Quarantined | Unread]:
    """Yield what was read, and append rows that cannot be used, up to a thousand.

    Raises UserError if hardly any row is usable, before the reasons fill the disk.
    """
    usable = unusable = 0
    for row in read:
        if isinstance(row, Quarantined):
            unusable += 1
            if len(quarantined) < MOST_QUARANTINED:
                quarantined.append(row)
            if unusable > MOST_UNUSABLE and unusable > 10 * usable:
                raise UserError(f"Of the first {usable + unusable:,} rows {unusable:,} cannot be used, so "
                                f"none was taken. The first that cannot: line {quarantined[0].line}, "
                                f"{quarantined[0].reason}. docs/data-formats.md says what rows look like; "
                                "take out what is none.")
        elif not isinstance(row, Unread):
            usable += 1
        yield row
