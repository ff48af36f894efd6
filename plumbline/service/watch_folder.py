"""A watched folder or bucket prefix: files that appear there are added, once each, and never touched.

A file waits until it has not changed for a while, so that a half-written one is not read. What has been added
is known by its content: a copy, or the same file after a restart, makes nothing. A file in which nothing is
usable is said once, and read again when it changes.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.data.intake import take_in_file
from plumbline.errors import UserError
from plumbline.preferences.reading.results import Quarantined, shown_name
from plumbline.preferences.reading.source_files import data_files, is_data
from plumbline.project.home import Home
from plumbline.whole_file import write_whole

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SEEN = "watched.json"
Mark = str
"""Changes when the file does: its size and time, or a bucket's own mark."""


@dataclass(frozen=True)
class Found:
    """A file in the watched folder or bucket."""

    name: str
    mark: Mark


class Watch:
    """A watched folder or bucket prefix. Call `look` every few seconds."""

    def __init__(self, home: Home, place: str, settle_seconds: float) -> None:
        self._home, self._place, self._settle = home, place, settle_seconds
        self._files: Folder | Bucket = Bucket(place) if "://" in place else Folder(home.root, place)
        self._changed: dict[str, tuple[Mark, float]] = {}
        self._unreadable: set[Found] = set()

    def look(self) -> list[str]:
        """Add the files that have not changed for the settling time. Returns a line for each."""
        seen, said = self._seen(), []
        for found in self._settled(seen):
            try:
                taken = self._files.take(self._home, found)
            except UserError as error:
                said.append(f"{self._place}: {error}")
            except Exception as error:  # of another user, archived: may be put right without a new mark
                if found not in self._unreadable:
                    said.append(f"{found.name} could not be read, and is tried again: "
                                f"{type(error).__name__}: {error}")
                    self._unreadable.add(found)
                continue
            else:
                said.append(f"{found.name}: batch {taken}")
            self._remember({**seen, found.name: found.mark})
            seen = self._seen()
        return said

    def _settled(self, seen: dict[str, Mark]) -> Iterator[Found]:
        now, here = time.monotonic(), {}
        for found in self._files.look():
            mark, since = self._changed.get(found.name, ("", now))
            here[found.name] = (found.mark, since if mark == found.mark else now)
            if seen.get(found.name) != found.mark and now - here[found.name][1] >= self._settle:
                yield found
        self._changed = here

    def _seen(self) -> dict[str, Mark]:
        try:
            values = json.loads((self._home.folder / SEEN).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}  # everything is read again, and is there already
        return dict(values.get(self._place, {}))

    def _remember(self, seen: dict[str, Mark]) -> None:
        write_whole(self._home.folder / SEEN, json.dumps({self._place: seen}) + "\n")


class Folder:
    """A folder on this machine."""

    def __init__(self, root: Path, place: str) -> None:
        self._root, self._place = root, place
        self._aside: dict[str, str] = {}

    def look(self) -> Iterator[Found]:
        """Yield the preference files, and what is set aside: links that are not followed, folders that cannot
        be listed. A missing folder is empty.
        """
        for found in self._files(self._place):
            if isinstance(found, Quarantined):
                self._aside[found.file] = found.reason
                yield Found(found.file, found.reason)
                continue
            try:
                about = found[0].stat()
            except OSError:  # it has just gone, or is nobody's to look at: the others count
                continue
            yield Found(str(found[0]), f"{about.st_size} {about.st_mtime_ns} {about.st_ino}")

    def _files(self, place: str) -> Iterator[tuple[Path, str] | Quarantined]:
        """Yield what `data_files` does; where it refuses a folder because of one part, that of the others."""
        try:
            yield from list(data_files(place, self._root))
            return
        except (UserError, OSError) as error:
            problem = str(error)
        try:
            below = sorted(os.scandir(self._root / Path(place).expanduser()), key=attrgetter("name"))
        except (FileNotFoundError, RuntimeError):  # also the folder of a user whom there is not
            return
        except OSError:
            yield Quarantined(shown_name(place), 0, "-", f"left out: {problem.removesuffix('.')}")
            return
        for entry in below:
            if entry.name.startswith("."):
                continue
            inner = f"{place.rstrip('/')}/{entry.name}"
            if entry.is_symlink() and (is_data(entry.name) or entry.is_dir()):
                yield Quarantined(shown_name(inner), 0, "-", "a symbolic link")
            elif is_data(entry.name) or entry.is_dir(follow_symlinks=False):
                yield from self._files(inner)

    def take(self, home: Home, found: Found) -> str:
        """Add a file, read from a copy so that it may change meanwhile. Returns the batch's first 16 digits.

        Raises UserError for what was set aside.
        """
        if found.mark == self._aside.get(found.name):
            raise UserError(f"{found.name} was not added. It is {found.mark}.")
        with _copies(home) as folder:
            copy = Path(folder) / Path(found.name).name
            shutil.copyfile(found.name, copy)
            return take_in_file(home, copy, Path(found.name).name).arrival.digest[:16]


class Bucket:
    """The files below a prefix of a bucket, or of another place that fsspec reads."""

    def __init__(self, place: str) -> None:
        self._place = place

    def look(self) -> Iterator[Found]:
        """Yield the preference files below the prefix."""
        for name, about in self._system().find(self._prefix(), detail=True).items():
            if is_data(name.rsplit("/", 1)[-1]):
                marks = (about.get(key) for key in ("ETag", "etag", "mtime", "LastModified"))
                mark = next(filter(None, marks), None)
                yield Found(name, f"{about.get('size')} {mark}")

    def take(self, home: Home, found: Found) -> str:
        """Fetch an object and add it. Returns the batch's first 16 digits."""
        with _copies(home) as folder:
            copy = Path(folder) / found.name.rsplit("/", 1)[-1]
            self._system().get_file(found.name, str(copy))
            return take_in_file(home, copy, copy.name).arrival.digest[:16]

    def _system(self) -> "AbstractFileSystem":
        import fsspec

        kind = self._place.partition("://")[0]
        try:
            return fsspec.filesystem(kind, skip_instance_cache=True, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UserError(f"retrain.watched names {self._place}, which cannot be read: {error}") from None

    def _prefix(self) -> str:
        return self._place.partition("://")[2]


def _copies(home: Home) -> tempfile.TemporaryDirectory[str]:
    """Return a folder for a copy, where `sweep` deletes what a kill leaves."""
    home.preferences.arrived.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=home.preferences.arrived, prefix=".new-")
