"""What a source names, read in one way by `plumbline data add` and by snapshots: a file, a folder,
`hub:NAME`.

A folder is its files in the order of their names. One in which nothing is usable is set aside and does not
stop the others, as long as one of them is usable; a file that was named itself is refused. So is a folder of
which a file cannot be read, or proves wrong after some of its rows were usable: half of a file under the
digest of the whole would never be read again.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from plumbline.errors import UserError
from plumbline.preferences.jsonl import file_sha256
from plumbline.preferences.reading.results import Quarantined, Read, Unread
from plumbline.preferences.reading.source_files import data_files, place_of, unreadable
from plumbline.preferences.types import Row

if TYPE_CHECKING:
    from plumbline.preferences.reading.formats import Reading

HUB = "hub:"


@dataclass(frozen=True)
class SourcePart:
    """A file of a source, or a data set of the hub: what becomes a batch of its own in a snapshot."""

    name: str
    """How manifest and quarantine name it."""
    digest: str
    """What names its content."""
    strictly: Callable[[], Read]
    """Its rows. Raises UserError where nothing is usable."""
    in_folder: bool = False
    """True if it was not named itself, so that others may go on without it."""

    @property
    def identity(self) -> list[str]:
        """Return the values that name the batch: the part's content, and how it is read."""
        return [self.digest, "in a folder"] if self.in_folder else [self.digest]

    def read(self) -> Read:
        """Return the part's rows.

        In a folder, a part without usable rows gives one quarantined row instead of UserError. Raises that
        for a part that cannot be read, or not to its end.
        """
        return self._tolerantly() if self.in_folder else self.strictly()

    def _tolerantly(self) -> Iterator[Row | Quarantined | Unread]:
        from plumbline.preferences.reading.read import MissingColumn, UndecidableFile, UnusableFile

        usable = aside = False
        try:
            for row in self.strictly():
                usable |= isinstance(row, Row)
                aside |= isinstance(row, Quarantined)
                yield row
        except (UnusableFile, MissingColumn, UndecidableFile) as error:
            if usable or isinstance(error, UndecidableFile):
                raise type(error)(f"{error} So nothing of the folder is added: correct the file, or take it "
                                  "out of the folder.") from None
            if not aside or isinstance(error, MissingColumn):  # otherwise each record says what is wrong
                yield Quarantined(self.name, 0, "-", str(error))


def open_source(source: str, root: Path, how: "Reading | None" = None) -> list[SourcePart]:
    """Return the parts of a source, to be read as `how` says.

    Raises UserError if there is none, or a file of it cannot be read.
    """
    if source.startswith(HUB):
        from plumbline.preferences.reading import hub  # `datasets` is an optional dependency

        dataset = hub.find(source) if how is None else hub.find(source, how)
        return [SourcePart(source, dataset.revision, dataset.read)]
    in_folder = place_of(source, root).is_dir()
    return [_link(found) if isinstance(found, Quarantined) else _file(*found, in_folder, how)
            for found in data_files(source, root)]


def read_all(source: str, parts: Sequence[SourcePart]) -> Iterator[Row | Quarantined | Unread]:
    """Yield the rows of all parts. Raises UnusableFile if none is usable, and as `SourcePart.read` does."""
    usable = 0
    for part in parts:
        for row in part.read():
            usable += not isinstance(row, Quarantined | Unread)
            yield row
    if not usable:
        refuse(source, parts)


def refuse(source: str, parts: Sequence[SourcePart]) -> NoReturn:
    """Raise UnusableFile for a source of which no part is usable, with what is wrong with the first."""
    from plumbline.preferences.reading.read import UnusableFile

    for part in parts:
        try:
            deque(part.strictly(), maxlen=0)
        except UserError as error:
            count = "1 file" if len(parts) == 1 else f"{len(parts)} files"
            raise UnusableFile(f"Nothing in the folder {source} is usable: {count}. {error}") from None
    raise UnusableFile(f"Nothing in the folder {source} is usable: it holds links alone, out of it or to "
                       "nothing. Name their targets as sources of their own.")


def _file(file: Path, name: str, in_folder: bool, how: "Reading | None") -> SourcePart:
    def read() -> Read:
        from plumbline.preferences.reading.read import read_file  # not needed while the store has the batch

        return read_file(file, name) if how is None else read_file(file, name, how)

    try:
        digest = file_sha256(file)
    except OSError as error:
        raise unreadable("file", file, error) from None
    return SourcePart(name, digest, read, in_folder)


def _link(found: Quarantined) -> SourcePart:
    digest = hashlib.sha256(json.dumps(asdict(found)).encode()).hexdigest()
    return SourcePart(found.file, digest, lambda: [found], in_folder=True)
