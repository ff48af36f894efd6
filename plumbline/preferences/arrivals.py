"""What arrived, in order: batches added for good, corrections that supersede rows, and removals.

Each arrival is a folder in `data/batches/` that never changes: a batch's files, `removed.txt` with the ids of the rows
that it takes away, and `batch.json` with when, from what, and why. Nothing is edited in place, so the history of the
data can always be read, and two people who add batches on two branches have nothing to merge. What holds now follows
from all of them in order: a row is out if something took it away and no later correction brought it back.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from plumbline.errors import UserError
from plumbline.preferences.batches import BATCH, ROWS, Read, lines, move_into_place, new_folder, write_batch
from plumbline.preferences.folders import Folders
from plumbline.preferences.index import Hashes, Index, index_of
from plumbline.preferences.manifest import DIGEST, Batch

Action = Literal["add", "supersede", "remove"]
REMOVED = "removed.txt"
NAME_DIGITS = 16
NO_ROWS = np.zeros(0, np.uint64)


@dataclass(frozen=True)
class Arrival:
    """One folder of `data/batches/`."""

    digest: str
    """SHA-256 of rows and quarantine, and for what takes rows away of its time and their ids; the folder's name is its
    beginning."""
    action: Action
    added: str
    """When: ISO 8601, UTC."""
    content: str
    """SHA-256 of what was read, whatever its name was."""
    removes: int
    """Rows that it takes away."""
    reason: str
    """Why, in the words of whoever did it."""
    batch: Batch


@dataclass(frozen=True)
class Draft:
    """An arrival before it counts: its files are written, in a folder that vanishes unless it is published."""

    folder: Path
    batch: Batch
    index: Index


@contextmanager
def draft(folders: Folders, source: str, read: Read) -> Iterator[Draft]:
    """Import what `read` yields. Left alone, it leaves nothing behind, whatever ends the process."""
    with new_folder(folders.arrived) as made:
        batch = write_batch(made, source, read)
        yield Draft(made, batch, index_of(made / ROWS, batch.digest, folders.indexes))


def publish(
    folders: Folders, drafted: Draft, action: Action, added: str, content: str, removed: Hashes, reason: str
) -> Arrival:
    """Make the draft an arrival: the whole of it appears at once, and is on the disk when this returns.

    What is there already stays as it is, and is returned: the same rows arrive once, however many bring them.
    """
    names = "".join(f"{row:016x}\n" for row in np.unique(removed).tolist())
    digest = drafted.batch.digest
    if action != "add":
        # The same rows can be removed again after a correction brought them back: the time tells the two apart.
        digest = hashlib.sha256(bytes.fromhex(digest) + f"{action} {added}\n{names}".encode()).hexdigest()
    arrival = Arrival(digest, action, added, content, names.count("\n"), reason, drafted.batch)
    (drafted.folder / REMOVED).write_text(names, encoding="ascii")
    (drafted.folder / BATCH).write_text(json.dumps(asdict(arrival), indent=1) + "\n", encoding="utf-8")
    for path in (*drafted.folder.iterdir(), drafted.folder):
        _to_disk(path)
    folder = folder_of(folders, arrival)
    move_into_place(drafted.folder, folder)
    _to_disk(folders.arrived)
    return read_arrival(folder)


def _to_disk(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def folder_of(folders: Folders, arrival: Arrival) -> Path:
    """Where an arrival lies."""
    return folders.arrived / arrival.digest[:NAME_DIGITS]


def arrivals(folders: Folders) -> list[Arrival]:
    """All of them, in the order in which they count."""
    found = [read_arrival(file.parent) for file in folders.arrived.glob(f"*/{BATCH}")]
    return sorted(found, key=lambda arrival: (arrival.added, arrival.digest))


def read_arrival(folder: Path) -> Arrival:
    """What lies in a folder of `data/batches/`. Raises FileNotFoundError, and UserError for one that is damaged."""
    text = (folder / BATCH).read_text(encoding="utf-8")
    try:
        values = json.loads(text)
        if not DIGEST.fullmatch(values["digest"]):  # its folder is named by it
            raise ValueError(f"{values['digest']!r:.100} is no SHA-256")
        return Arrival(**{**values, "batch": Batch.of(values["batch"])})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / BATCH} is damaged ({error}). `dvc checkout` or `plumbline pull` puts it back, "
                        "or else delete that folder and add its data again.") from None


def find_arrival(folders: Folders, name: str) -> Arrival:
    """The one whose digest begins with `name`. Raises UserError where there is none, or more than one."""
    known = arrivals(folders)
    found = [arrival for arrival in known if arrival.digest.startswith(name.lower())]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"`{name}` is the beginning of {len(found)} batches. Give more of it.")
    newest = f"the newest is {known[-1].digest[:NAME_DIGITS]}" if known else "none has been added yet"
    raise UserError(f"No batch's digest begins with `{name}`; {newest}. See `plumbline data list`.")


def arrival_index(folders: Folders, arrival: Arrival) -> Index:
    """The index of an arrival's rows."""
    return index_of(folder_of(folders, arrival) / ROWS, arrival.batch.digest, folders.indexes)


def removed_rows(folders: Folders, known: Iterable[Arrival]) -> Hashes:
    """The ids of all rows that are out now."""
    out = NO_ROWS
    for arrival in known:
        if arrival.removes:
            out = np.union1d(out, taken_away(folders, arrival))
        if arrival.action == "supersede":
            out = np.setdiff1d(out, arrival_index(folders, arrival).row)
    return out


def taken_away(folders: Folders, arrival: Arrival) -> Hashes:
    """The ids of the rows that this arrival takes away."""
    names = lines(folder_of(folders, arrival) / REMOVED)
    return np.array([int(name, 16) for name in names], dtype=np.uint64)
