"""The preference data that pages can show, by name: `now`, what arrived, and the snapshots that runs learned from.

Unlike `data_lookup`, which a command asks once, this is asked with every page: it knows the runs from the history,
reads the list of arrivals only when it changed, copies nothing, and keeps the columns of the data looked at last.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from plumbline.config import load_params
from plumbline.data.lookup import NOW, SNAPSHOT
from plumbline.errors import UserError
from plumbline.history.history import History, Run
from plumbline.preferences.batches.arrivals import (
    NAME_DIGITS,
    Arrival,
    arrivals,
    folder_of,
    readable_arrivals,
    removed_rows,
)
from plumbline.preferences.batches.batch import ROWS
from plumbline.preferences.batches.manifest import Batch
from plumbline.preferences.batches.snapshot import HUB, Simulation, resolve_sources
from plumbline.preferences.versions.browse import Browser
from plumbline.preferences.versions.compare import Columns, DataVersion
from plumbline.project.home import Home

SHORTEST_NAME = 6
"""Digits of a digest that a name needs."""
NOW_SECONDS = 30.0
"""How long `now` is believed: its sources may be files that somebody writes to."""
BROWSERS = 4
PULL = "`plumbline pull` brings what arrived on other machines."


@dataclass(frozen=True)
class Snapshot:
    """The data that one or more runs learned from."""

    digest: str
    """As the snapshot's manifest has it."""
    batches: tuple[Batch, ...]
    runs: tuple[Run, ...]
    """Newest first."""

    @property
    def rows(self) -> int:
        """How many rows its batches hold."""
        return sum(batch.rows for batch in self.batches)


@dataclass(frozen=True)
class Data:
    """Rows under a name."""

    name: str
    """As addresses have it: `now`, or a digest."""
    kind: Literal["now", "batch", "snapshot"]
    version: DataVersion | None
    """None where its files are not on this machine."""
    missing: str
    """Why there is no version, and the command that brings it."""
    arrival: Arrival | None = None
    snapshot: Snapshot | None = None


class KnownData:
    """Finds preference data by its name."""

    def __init__(self, history: History) -> None:
        self._history, self._home = history, history.home

    def arrivals(self) -> list[Arrival]:
        """What arrived and can be read, in the order in which it counts."""
        return list(self._arrived()[0])

    def damaged(self) -> dict[str, str]:
        """By the names of their folders, what is wrong with what arrived and cannot be read."""
        return self._arrived()[1]

    def _arrived(self) -> tuple[list[Arrival], dict[str, str]]:
        folder = self._home.preferences.arrived
        found = _arrivals(self._home, folder.stat().st_mtime_ns) if folder.is_dir() else ([], {})
        if found[1]:
            _arrivals.cache_clear()  # repairing a file leaves its folder's time as it is
        return found

    def not_here(self) -> list[str]:
        """The names of batches that DVC knows of and this machine does not hold."""
        folder = self._home.preferences.arrived
        return sorted(file.stem for file in folder.glob("*.dvc") if not file.with_suffix("").is_dir())

    def snapshots(self) -> list[Snapshot]:
        """Every snapshot that a run learned from, the latest first."""
        digests, found = dict[str, str](), dict[str, list[Run]]()
        for run in self._history.runs.values():
            if run.batches:
                folder = run.snapshot or run.id  # many runs share one: its digest is worked out once
                digest = digests[folder] = digests.get(folder) or snapshot_digest(run.batches)
                found.setdefault(digest, []).append(run)
        return [Snapshot(digest, runs[0].batches, tuple(runs)) for digest, runs in found.items()]

    def find(self, name: str) -> Data:
        """The data of that name: `now`, `latest` or a run's id, the beginning of a digest. Raises UserError."""
        if name == NOW:
            return self._now()
        run = next(iter(self._history.runs.values()), None) if name == "latest" else self._history.runs.get(name)
        if run is not None and not run.batches:
            raise UserError(f"The run {run.id} ended before it took a snapshot.")
        wanted = snapshot_digest(run.batches) if run is not None else name.lower()
        if len(wanted) >= SHORTEST_NAME:
            for arrival in self.arrivals():
                if arrival.digest.startswith(wanted):
                    return self._batch(arrival)
            for folder, problem in self.damaged().items():
                if folder.startswith(wanted[:NAME_DIGITS]):
                    raise UserError(problem)
            for snapshot in self.snapshots():
                if snapshot.digest.startswith(wanted) or (snapshot.runs[0].snapshot or "").startswith(wanted):
                    return self._snapshot(snapshot)
            if any(name.startswith(wanted[:NAME_DIGITS]) for name in self.not_here()):
                return Data(wanted, "batch", None, f"This batch is not on this machine. {PULL}")
        raise UserError(f"There is no data {name!r:.80}: expected `{NOW}`, `latest`, a run's id, or the beginning of "
                        f"the digest of a batch or a snapshot, {SHORTEST_NAME} digits at least.")

    def browser(self, data: Data) -> Browser:
        """The rows, ready to be looked through. Raises UserError where they are not on this machine."""
        if data.version is None:
            raise UserError(data.missing)
        return _browser(data.version, self._home.preferences.indexes)

    def _batch(self, arrival: Arrival) -> Data:
        file = folder_of(self._home.preferences, arrival) / ROWS
        version = DataVersion(f"batch {arrival.digest[:NAME_DIGITS]}", ((file, arrival.batch.digest),))
        return Data(arrival.digest, "batch", version, "", arrival)

    def _snapshot(self, snapshot: Snapshot) -> Data:
        title = f"snapshot {snapshot.digest[:NAME_DIGITS]}"
        for run in snapshot.runs:
            if run.folder is not None and (files := _files(run.folder / SNAPSHOT, snapshot.batches)):
                return Data(snapshot.digest, "snapshot", DataVersion(title, files), "", snapshot=snapshot)
        newest = snapshot.runs[0].id
        return Data(snapshot.digest, "snapshot", None, "The rows of this snapshot are not on this machine. "
                    f"`plumbline restore {newest}` brings them.", snapshot=snapshot)

    def _now(self) -> Data:
        try:
            version = _now(self._home, _changed(self._home), int(time.monotonic() / NOW_SECONDS))
        except UserError as error:
            return Data(NOW, "now", None, str(error))
        return Data(NOW, "now", version, "")


def snapshot_digest(batches: Sequence[Batch]) -> str:
    """The name of the snapshot that holds these batches, as `plumbline.preferences.batches.snapshot` makes it."""
    return hashlib.sha256("\n".join(batch.digest for batch in batches).encode()).hexdigest()


def _changed(home: Home) -> tuple[int, ...]:
    files = (home.root / "params.yaml", home.preferences.arrived)
    return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)


def _files(folder: Path, batches: Sequence[Batch]) -> tuple[tuple[Path, str], ...]:
    """The files of a snapshot; none where one is missing."""
    files = tuple((folder / f"{batch.digest}.jsonl", batch.digest) for batch in batches if batch.rows)
    return files if all(file.is_file() for file, _ in files) else ()


@lru_cache(maxsize=2)
def _now(home: Home, _changed: tuple[int, ...], _time: int) -> DataVersion:
    """What a run with params.yaml would learn from: the batches where they are kept, and what is left out of them."""
    params = load_params(home.root)
    named = [source for source in params.snapshot.sources if source.startswith(HUB)]
    if named:
        raise UserError(f"snapshot.sources names {', '.join(named)}, and a page does not ask the hub. "
                        "`plumbline data show now` does.")
    found = resolve_sources(params.snapshot.sources, Simulation.of(params), home.preferences)
    gone = removed_rows(home.preferences, arrivals(home.preferences))
    files = {batch.digest: folder / ROWS for batch, folder in found if batch.rows}
    return DataVersion(NOW, tuple((file, digest) for digest, file in files.items()), tuple(gone.tolist()))


@lru_cache(maxsize=2)
def _arrivals(home: Home, _changed: int) -> tuple[list[Arrival], dict[str, str]]:
    return readable_arrivals(home.preferences)


@lru_cache(maxsize=BROWSERS)
def _browser(version: DataVersion, indexes: Path) -> Browser:
    return Browser(Columns(version, indexes))
