"""What arrived, in order: batches added for good, corrections that supersede rows, and removals.

Each arrival is a folder in `data/batches/` that never changes: a batch's files, `removed.txt` with the ids of
the rows that it takes away, and `batch.json` with when, from what, and why. Nothing is edited in place, so
the history of the data can always be read, and two people who add batches on two branches have nothing to
merge. What holds now follows from all of them in order: a row is out if something took it away and no later
correction brought it back. All of them have to be here: a removal that is not cannot be honoured.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np

from plumbline.errors import UserError
from plumbline.preferences.batches.batch import BATCH, ROWS, move_into_place, new_folder, write_batch
from plumbline.preferences.batches.folders import Folders
from plumbline.preferences.batches.index import BatchIndex, Hashes, IndexColumns, index_of, keep_index
from plumbline.preferences.batches.manifest import DIGEST, Batch
from plumbline.preferences.batches.whole_batch import put_back
from plumbline.preferences.reading.results import Read, shown_name
from plumbline.whole_file import to_disk

Action = Literal["add", "supersede", "remove"]
REMOVED = "removed.txt"
NAME_DIGITS = 16
NO_ROWS = np.zeros(0, np.uint64)
SHOWN_NAMES = 6


@dataclass(frozen=True)
class Arrival:
    """One folder of `data/batches/`."""

    digest: str
    """SHA-256 of rows and quarantine, and for what takes rows away of its time and their ids; the folder's
    name is its beginning."""
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
    """An arrival before it counts: its files are written, in a folder that vanishes unless it is
    published."""

    folder: Path
    batch: Batch
    index: BatchIndex

    def keep(self, beside: Mapping[str, str]) -> None:
        """Put texts into the folder, each under its file's name: what else is to be known of the rows."""
        for name, text in beside.items():
            (self.folder / name).write_text(text, encoding="utf-8")


@contextmanager
def draft(folders: Folders, source: str, read: Read) -> Iterator[Draft]:
    """Import what `read` yields. Left alone, it leaves nothing behind, whatever ends the process."""
    with new_folder(folders.arrived) as made:
        columns = IndexColumns()
        batch = write_batch(made, source, read, columns.add)
        index = columns.finish()
        keep_index(index, batch.digest, folders.indexes)
        yield Draft(made, batch, index)


def publish(
    folders: Folders, drafted: Draft, action: Action, added: str, content: str, removed: Hashes, reason: str
) -> Arrival:
    """Make the draft an arrival: the whole of it appears at once, and is on the disk when this returns.

    What is there already stays as it is, and is returned: the same rows arrive once, however many bring them.
    """
    names = "".join(f"{row:016x}\n" for row in np.unique(removed).tolist())
    digest = _digest(drafted.batch, action, added, names)
    arrival = Arrival(digest, action, added, content, names.count("\n"), reason, drafted.batch)
    (drafted.folder / REMOVED).write_text(names, encoding="ascii")
    (drafted.folder / BATCH).write_text(json.dumps(asdict(arrival), indent=1) + "\n", encoding="utf-8")
    for path in (*drafted.folder.iterdir(), drafted.folder):
        to_disk(path)
    folder = folder_of(folders, arrival)
    move_into_place(drafted.folder, folder)
    to_disk(folders.arrived)
    return read_arrival(folder)


def _digest(batch: Batch, action: Action, added: str, names: str) -> str:
    """Return the digest of an arrival; `names` are the ids of the rows that it removes, one a line."""
    if action == "add":
        return batch.digest
    # The same rows can be removed again after a correction brought them back: the time tells the two apart.
    return hashlib.sha256(bytes.fromhex(batch.digest) + f"{action} {added}\n{names}".encode()).hexdigest()


def folder_of(folders: Folders, arrival: Arrival) -> Path:
    """Return the folder of an arrival."""
    return folders.arrived / arrival.digest[:NAME_DIGITS]


def arrivals(folders: Folders) -> list[Arrival]:
    """Return all arrivals in order of time.

    Raises UserError if one is damaged: the rows that it adds or removes would be forgotten.
    """
    found, damaged = readable_arrivals(folders)
    if damaged:
        raise UserError(next(iter(damaged.values())))
    return found


def readable_arrivals(folders: Folders) -> tuple[list[Arrival], dict[str, str]]:
    """Return all readable arrivals in order of time, and an error message for each damaged folder by its
    name.
    """
    found, damaged = [], {}
    for file in sorted(folders.arrived.glob(f"*/{BATCH}")):
        try:
            found.append(read_arrival(file.parent))
        except UserError as error:
            damaged[file.parent.name] = str(error)
        except FileNotFoundError:  # deleted at this moment
            continue
    return sorted(found, key=lambda arrival: (arrival.added, arrival.digest)), damaged


def not_here(folders: Folders) -> list[str]:
    """Return the names of arrivals that DVC knows of and this machine does not hold whole."""
    return sorted(file.stem for file in folders.arrived.glob("*.dvc")
                  if not (file.with_suffix("") / BATCH).is_file())


def require_all_here(folders: Folders) -> None:
    """Raise UserError if an arrival is not here: rows that it takes away would be learned from."""
    missing = not_here(folders)
    if not missing:
        return
    shown = ", ".join(missing[:SHOWN_NAMES])
    more = f" and {len(missing) - SHOWN_NAMES} more" if len(missing) > SHOWN_NAMES else ""
    halves = [name for name in missing if (folders.arrived / name).exists()]
    advice = "`plumbline pull` brings them."
    if halves:  # pull leaves a folder that is there as it is
        advice = f"Delete what there is of {', '.join(halves[:SHOWN_NAMES])}; then {advice}"
    raise UserError(f"Of the arrivals in {folders.arrived} that have a .dvc file, {len(missing)} are not on "
                    f"this machine: {shown}{more}. They may take away rows that would be learned from "
                    f"without them. {advice}")


def time_of_next(known: Iterable[Arrival]) -> str:
    """Return the time of an arrival that is made now: later than all known ones, whatever the clock says.

    Their order decides what holds, and a clock can be put back.
    """
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    newest = max((arrival.added for arrival in known), default="")
    if newest < now:
        return now
    return (datetime.fromisoformat(newest) + timedelta(microseconds=1)).isoformat(timespec="microseconds")


def read_arrival(folder: Path) -> Arrival:
    """Return the arrival in a folder of `data/batches/`.

    Raises FileNotFoundError, and UserError if it is damaged.
    """
    try:
        values = json.loads((folder / BATCH).read_text(encoding="utf-8"))
        if not DIGEST.fullmatch(values["digest"]):  # its folder is named by it
            raise ValueError(f"{values['digest']!r:.100} is no SHA-256")
        arrival = Arrival(**{**values, "batch": _shown(Batch.of(values["batch"]))})
        if not arrival.digest.startswith(folder.name):
            raise ValueError(f"it names the batch {arrival.digest[:NAME_DIGITS]}")
        return arrival
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / BATCH} is damaged ({error}). {put_back(folder)}") from None


def _shown(batch: Batch) -> Batch:
    """Return the batch with names of fields that can be written; an earlier version kept them as they came.
    """
    unread, left_alone = ({shown_name(name): n for name, n in fields.items()}
                          for fields in (batch.unread, batch.left_alone))
    return replace(batch, unread=unread, left_alone=left_alone)


def find_arrival(folders: Folders, name: str) -> Arrival:
    """Return the arrival whose digest begins with `name`.

    Raises UserError for none, several, or a damaged one.
    """
    known, damaged = readable_arrivals(folders)
    for folder, problem in damaged.items():
        if folder.startswith(name.lower()[:NAME_DIGITS]):
            raise UserError(problem)
    found = [arrival for arrival in known if arrival.digest.startswith(name.lower())]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"`{name}` is the beginning of {len(found)} batches. Give more of it.")
    newest = f"the newest is {known[-1].digest[:NAME_DIGITS]}" if known else "none has been added yet"
    raise UserError(f"No batch's digest begins with `{name}`; {newest}. See `plumbline data list`.")


def arrival_index(folders: Folders, arrival: Arrival) -> BatchIndex:
    """Return the index of an arrival's rows."""
    return index_of(folder_of(folders, arrival) / ROWS, arrival.batch.digest, folders.indexes)


def removed_rows(folders: Folders, known: Iterable[Arrival],
                 by: Collection[Action] = ("remove", "supersede")) -> Hashes:
    """Return the ids of all rows that are out now because arrivals of these actions took them away."""
    out = NO_ROWS
    for arrival in known:
        if arrival.removes and arrival.action in by:
            out = np.union1d(out, taken_away(folders, arrival))
        if arrival.action == "supersede":
            out = np.setdiff1d(out, arrival_index(folders, arrival).row)
    return out


def taken_away(folders: Folders, arrival: Arrival) -> Hashes:
    """Return the ids of the rows that this arrival removes.

    Raises UserError if their list has changed: removed rows would be learned from again.
    """
    file = folder_of(folders, arrival) / REMOVED
    try:
        names = file.read_text(encoding="ascii") if arrival.removes else ""
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}). {put_back(file.parent)}") from None
    if _digest(arrival.batch, arrival.action, arrival.added, names) != arrival.digest:
        raise UserError(f"{file} is damaged: it does not list the {arrival.removes:,} rows that it listed. "
                        f"{put_back(file.parent)}")
    return np.array([int(name, 16) for name in names.split()], dtype=np.uint64)
