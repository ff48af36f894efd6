"""Preference data by its name: `now`, what arrived, and the snapshots that runs learned from.

Commands and pages find data here. A page asks with every request, so it takes the runs from the history,
believes `now` for some seconds, and keeps the columns of the data looked at last. A command asks once, and
takes the runs whose workspace is on this machine.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.history.assembly import runs_here
from plumbline.history.facts import SNAPSHOT
from plumbline.lineage.records import Run
from plumbline.preferences.batches.arrivals import (
    NAME_DIGITS,
    Arrival,
    arrivals,
    folder_of,
    not_here,
    readable_arrivals,
    removed_rows,
    require_all_here,
)
from plumbline.preferences.batches.batch import ROWS
from plumbline.preferences.batches.manifest import Batch
from plumbline.preferences.batches.snapshot import HUB, Simulation, resolve_sources, with_imports_made_again
from plumbline.preferences.batches.whole_batch import verified_lines
from plumbline.preferences.versions.browse import Browser
from plumbline.preferences.versions.compare import Columns, DataVersion
from plumbline.project.home import Home
from plumbline.project.run_record import LATEST, runs_called

NOW = "now"
SHORTEST_NAME = 6
"""Digits of a digest, or of a run's id, that a name on a page needs."""
NOW_SECONDS = 30.0
"""Seconds for which a page believes `now`: its sources may be files that somebody writes to."""
BROWSERS = 4
PULL = "`plumbline pull` brings what arrived on other machines."


@dataclass(frozen=True)
class KnownSnapshot:
    """The data that one or more runs learned from."""

    digest: str
    """As the snapshot's manifest has it."""
    batches: tuple[Batch, ...]
    runs: tuple[Run, ...]
    """Newest first."""

    @property
    def rows(self) -> int:
        """The number of rows in its batches."""
        return sum(batch.rows for batch in self.batches)


@dataclass(frozen=True)
class NamedData:
    """Rows under a name."""

    name: str
    """As addresses have it: `now`, or a digest."""
    kind: Literal["now", "batch", "snapshot"]
    version: DataVersion | None
    """None if its files are not on this machine."""
    missing: str
    """Why there is no version, and the command that brings it."""
    arrival: Arrival | None = None
    snapshot: KnownSnapshot | None = None


class KnownData:
    """Finds preference data among what arrived and what some runs, newest first, learned from."""

    def __init__(self, home: Home, runs: Mapping[str, Run]) -> None:
        self.home = home
        self.runs = runs

    def arrivals(self) -> list[Arrival]:
        """Return what arrived and can be read, in the order in which it counts."""
        return list(self._arrived()[0])

    def damaged(self) -> dict[str, str]:
        """Return what is wrong with arrivals that cannot be read, by the names of their folders."""
        return self._arrived()[1]

    def _arrived(self) -> tuple[list[Arrival], dict[str, str]]:
        folder = self.home.preferences.arrived
        found = _arrivals(self.home, folder.stat().st_mtime_ns) if folder.is_dir() else ([], {})
        if found[1]:
            _arrivals.cache_clear()  # repairing a file leaves its folder's time as it is
        return found

    def not_here(self) -> list[str]:
        """Return the names of batches that DVC knows of and this machine does not hold whole."""
        return not_here(self.home.preferences)

    def snapshots(self) -> list[KnownSnapshot]:
        """Return every snapshot that a run learned from, the latest first."""
        digests: dict[str, str] = {}
        found: dict[str, list[Run]] = {}
        for run in self.runs.values():
            if run.batches:
                folder = run.snapshot or run.id  # many runs share one: its digest is worked out once
                digest = digests[folder] = digests.get(folder) or snapshot_digest(run.batches)
                found.setdefault(digest, []).append(run)
        return [KnownSnapshot(digest, runs[0].batches, tuple(runs)) for digest, runs in found.items()]

    def find(self, name: str, shortest: int = SHORTEST_NAME) -> NamedData:
        """Return the data that a name means, whose beginning of a digest or of a run's id has `shortest`
        letters.

        The names are `now`, `latest` or a run's id, and the digest of a batch or a snapshot. Raises UserError
        for any other name, for the name of a damaged batch, and for a run that ended before it took a
        snapshot.
        """
        if name == NOW:
            return self._now()
        if name != LATEST and len(name) < shortest:
            raise self._unknown(name)
        return self._by_digest(name) or self._by_run(name)

    def browser(self, data: NamedData) -> Browser:
        """Return the rows, ready to be looked through. Raises UserError if they are not on this machine."""
        if data.version is None:
            raise UserError(data.missing)
        return _browser(data.version.files, data.version.left_out, self.home.preferences.indexes)

    def _by_digest(self, name: str) -> NamedData | None:
        wanted = name.lower()
        batches = [arrival for arrival in self.arrivals() if arrival.digest.startswith(wanted)]
        if len(batches) > 1:
            raise UserError(f"`{name}` is the beginning of {len(batches)} batches. Give more of it.")
        if batches:
            return self._batch(batches[0])
        for folder, problem in self.damaged().items():
            if folder.startswith(wanted[:NAME_DIGITS]):
                raise UserError(problem)
        for snapshot in self.snapshots():
            # DVC has several folders of the same rows where what their manifests say of them differs.
            folders = (run.snapshot or "" for run in snapshot.runs)
            if any(digest.startswith(wanted) for digest in (snapshot.digest, *folders)):
                return self._snapshot(snapshot, f"snapshot {name}")
        if any(folder.startswith(wanted[:NAME_DIGITS]) for folder in self.not_here()):
            return NamedData(wanted, "batch", None, f"This batch is not on this machine. {PULL}")
        return None

    def _by_run(self, name: str) -> NamedData:
        found = runs_called(name, list(self.runs))
        if not found:
            raise self._unknown(name)
        if len(found) > 1:
            raise UserError(f"`{name}` is the beginning of {len(found)} runs, the newest {found[0]}. Give "
                            "more of it.")
        run = self.runs[found[0]]
        if not run.batches:
            raise UserError(f"The run {run.id} ended before it took a snapshot.")
        digest = snapshot_digest(run.batches)
        snapshot = next(one for one in self.snapshots() if one.digest == digest)
        return self._snapshot(snapshot, f"run {run.id}")

    def _unknown(self, name: str) -> UserError:
        return UserError(f"There is no data {name!r:.80}: expected `{NOW}`, `{LATEST}` or a run's id, or the "
                         f"beginning of the digest of a batch or a snapshot, on a page {SHORTEST_NAME} "
                         "digits at least. `plumbline data list` and `plumbline runs` list them.")

    def _batch(self, arrival: Arrival) -> NamedData:
        file = folder_of(self.home.preferences, arrival) / ROWS
        version = DataVersion(f"batch {arrival.digest[:NAME_DIGITS]}", ((file, arrival.batch.digest),))
        return NamedData(arrival.digest, "batch", version, "", arrival)

    def _snapshot(self, snapshot: KnownSnapshot, title: str) -> NamedData:
        for run in snapshot.runs:
            if run.folder is not None and (files := _files(run.folder / SNAPSHOT, snapshot.batches)):
                version = DataVersion(title, files)
                return NamedData(snapshot.digest, "snapshot", version, "", snapshot=snapshot)
        restore = f"`plumbline restore {snapshot.runs[0].id}` brings them."
        missing = f"The rows of this snapshot are not on this machine. {restore}"
        return NamedData(snapshot.digest, "snapshot", None, missing, snapshot=snapshot)

    def _now(self) -> NamedData:
        try:
            version = _recent_now(self.home, _changed(self.home), int(time.monotonic() / NOW_SECONDS))
        except UserError as error:
            return NamedData(NOW, "now", None, str(error))
        return NamedData(NOW, "now", version, "")


def find_version(home: Home, name: str) -> DataVersion:
    """Return the rows that a name means to a command. Raises UserError as `find`, and if they are not on this
    machine.

    `now` is what a run with params.yaml would learn from: the hub is asked, and each row is verified.
    """
    if name == NOW:
        return with_imports_made_again(home.preferences, lambda: _verified(_now(home, ask_hub=True)))
    data = KnownData(home, runs_here(home)).find(name, shortest=1)
    if data.version is None:
        raise UserError(data.missing)
    return data.version


def snapshot_digest(batches: Sequence[Batch]) -> str:
    """Return the digest of the snapshot of these batches, as `plumbline.preferences.batches.snapshot` makes
    it.
    """
    return hashlib.sha256("\n".join(batch.digest for batch in batches).encode()).hexdigest()


def _verified(version: DataVersion) -> DataVersion:
    for file, digest in version.files:
        for _ in verified_lines(file, digest):
            continue
    return version


def _changed(home: Home) -> tuple[int, ...]:
    files = (home.root / "params.yaml", home.preferences.arrived)
    return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)


def _files(folder: Path, batches: Sequence[Batch]) -> tuple[tuple[Path, str], ...]:
    """Return the files of a snapshot with their digests; none if one is missing."""
    files = tuple((folder / f"{batch.digest}.jsonl", batch.digest) for batch in batches if batch.rows)
    return files if all(file.is_file() for file, _ in files) else ()


def _now(home: Home, ask_hub: bool) -> DataVersion:
    """Return the batches that a run with params.yaml would learn from, where they are kept, without removed
    rows.

    Raises UserError like a run, also for an arrival that is not here.
    """
    require_all_here(home.preferences)
    params = load_params(home.root)
    named = [source for source in params.snapshot.sources if source.startswith(HUB)]
    if named and not ask_hub:
        raise UserError(f"snapshot.sources names {', '.join(named)}, and a page does not ask the hub. "
                        "`plumbline data show now` does.")
    known = arrivals(home.preferences)
    found = resolve_sources(params.snapshot.sources, Simulation.of(params), home.preferences, known)
    gone = removed_rows(home.preferences, known)
    files = {batch.digest: folder / ROWS for batch, folder in found if batch.rows}
    return DataVersion(NOW, tuple((file, digest) for digest, file in files.items()), tuple(gone.tolist()))


@lru_cache(maxsize=2)
def _recent_now(home: Home, _changed: tuple[int, ...], _time: int) -> DataVersion:
    return _now(home, ask_hub=False)


@lru_cache(maxsize=2)
def _arrivals(home: Home, _changed: int) -> tuple[list[Arrival], dict[str, str]]:
    return readable_arrivals(home.preferences)


@lru_cache(maxsize=BROWSERS)
def _browser(files: tuple[tuple[Path, str], ...], left_out: tuple[int, ...], indexes: Path) -> Browser:
    return Browser(Columns(DataVersion("", files, left_out), indexes))
