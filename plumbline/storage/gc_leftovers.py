"""Find what can be made again, or was left behind: checkpoints, imports, indexes, unfinished drafts."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from plumbline.errors import UserError
from plumbline.preferences.batches.arrivals import readable_arrivals
from plumbline.preferences.batches.batch import BATCH
from plumbline.preferences.batches.manifest import read_manifest
from plumbline.project.home import RECORD_FILE, Home
from plumbline.project.run_record import RUN_ID
from plumbline.storage.gc_needed import Needed

DAY_SECONDS = 86_400.0
"""Younger ones may be in use."""
SNAPSHOTS = ("data/snapshot", "data/prepared")


def leftovers(home: Home, live: Needed) -> list[Path]:
    """Return the leftovers that nothing needs and that are at least a day old."""
    digests = _batches(home, live)
    found = [*_checkpoints(home, live), *_imports(home, digests), *_indexes(home, digests), *_drafts(home),
             *_drafts_of_dvc(home)]
    return sorted(path for path in found if time.time() - _touched(path) > DAY_SECONDS)


def _checkpoints(home: Home, live: Needed) -> Iterator[Path]:
    """Yield the checkpoints, unless a run that stays is unfinished and may resume from one."""
    if not live.unfinished:
        yield from home.scratch.glob("*")


def _imports(home: Home, digests: set[str]) -> Iterator[Path]:
    for file in home.preferences.imported.glob(f"*/{BATCH}"):
        try:
            needed = json.loads(file.read_text(encoding="utf-8"))["digest"] in digests
        except (OSError, ValueError, KeyError, TypeError):  # damaged: it is made again from its source
            needed = False
        if not needed:
            yield file.parent


def _indexes(home: Home, digests: set[str]) -> Iterator[Path]:
    for file in home.preferences.indexes.glob("*.npz"):
        if file.stem not in digests:
            yield file


def _drafts(home: Home) -> Iterator[Path]:
    for folder in (home.runs, home.preferences.arrived, home.preferences.imported, home.preferences.indexes):
        for pattern in (".new-*", ".old-*"):
            yield from folder.glob(pattern)
    yield from home.folder.glob("now")
    for folder in home.runs.glob("[!.]*"):
        # Killed while it was made; what else people keep there is theirs.
        if RUN_ID.fullmatch(folder.name) and folder.is_dir() and not (folder / RECORD_FILE).exists():
            yield folder
    for lock in home.waiting.glob("*.lock"):
        if not lock.with_suffix("").exists():
            yield lock


def _drafts_of_dvc(home: Home) -> Iterator[Path]:
    """Yield what DVC was copying into the cache, or writing of a stage's run, when it was killed."""
    for pattern in ("files/md5/??/.*.tmp", "runs/??/*/.*.tmp"):
        yield from home.cache.glob(pattern)


def _batches(home: Home, live: Needed) -> set[str]:
    """Return the digests of all batches that arrived, and of those in snapshots of runs that stay."""
    found = {arrival.batch.digest for arrival in readable_arrivals(home.preferences)[0]}
    for folder in (home.root, *(home.runs / run for run in live.runs)):
        for snapshot in SNAPSHOTS:
            # One that is not there, or half written, names nothing; imports can be made again.
            with contextlib.suppress(FileNotFoundError, UserError):
                for batch in read_manifest(folder / snapshot).batches:
                    found |= {batch.digest, batch.whole or batch.digest}
    return found


def _touched(path: Path) -> float:
    """Return the modification time of a file, or of the newest file in a folder, in seconds."""
    return max((file.stat().st_mtime for file in (path, *path.rglob("*"))), default=0.0)
