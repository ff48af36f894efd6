"""Which data is meant by a name, where a row came from, and which models learned from it."""

import shutil
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from plumbline.config import load_params
from plumbline.data.changes import row_number
from plumbline.errors import UserError
from plumbline.preferences.batches.arrivals import (
    Arrival,
    arrival_index,
    find_arrival,
    folder_of,
    readable_arrivals,
    removed_rows,
)
from plumbline.preferences.batches.batch import ROWS
from plumbline.preferences.batches.manifest import MANIFEST, read_manifest
from plumbline.preferences.batches.snapshot import Simulation, fix_snapshot
from plumbline.preferences.prepare.writer import ROWS_FILE
from plumbline.preferences.versions.compare import DataVersion
from plumbline.project.dvc_yaml import outputs_of
from plumbline.project.home import Home
from plumbline.project.run_record import find_run, run_folders, workspace_of
from plumbline.tracking.registry import Registry
from plumbline.tracking.store import StoreGone

NOW = "now"
SNAPSHOT, PREPARED = Path("data/snapshot"), Path("data/prepared")
LEARNED = ("train", "validation")
Seen = dict[str, dict[str, str]]
"""Where the rows in question went, by the digest of the prepared data."""


@dataclass(frozen=True)
class Learner:
    """A registered model, and how many of the rows in question it learned from."""

    name: str
    version: int
    aliases: tuple[str, ...]
    run: str
    rows: int | None
    """None where the run's prepared data is gone from this machine."""


@dataclass(frozen=True)
class Place:
    """Where a row came in, and what became of it."""

    row: str
    batches: list[Arrival]
    removed: bool
    went_to: dict[str, str]
    """By run: train, validation, heldout, or near_heldout."""
    learners: list[Learner]
    damaged: list[str]
    """What is wrong with batches that cannot be read, and may hold it too."""


def find_version(home: Home, name: str) -> DataVersion:
    """The data that a name means: `now`, a run (`latest`, its id), a batch or a snapshot (its digest).

    `now` is what a run with params.yaml would learn from. Raises UserError where nothing has that name.
    """
    if name == NOW:
        return _snapshot(NOW, _now(home))
    known, damaged = readable_arrivals(home.preferences)
    names = [*(arrival.digest for arrival in known), *damaged]
    if any(one.startswith(name) for one in names):
        arrival = find_arrival(home.preferences, name)
        return DataVersion(f"batch {arrival.digest[:16]}",
                       ((folder_of(home.preferences, arrival) / ROWS, arrival.batch.digest),))
    for folder in reversed(run_folders(home)):
        snapshot = folder / SNAPSHOT
        if (snapshot / MANIFEST).exists() and read_manifest(snapshot).digest.startswith(name):
            return _snapshot(f"snapshot {name}", snapshot)
    try:
        run = find_run(home, name)
    except UserError:
        raise UserError(f"`{name}` is no data here: expected `{NOW}`, `latest` or a run's id, or the beginning of a "
                        "batch's or a snapshot's digest. See `plumbline data list` and `plumbline runs`.") from None
    if not (run / SNAPSHOT / MANIFEST).exists():
        raise UserError(f"The run {run.name} has no snapshot in {run / SNAPSHOT}: it ended before it took one.")
    return _snapshot(f"run {run.name}", run / SNAPSHOT)


def where_is(home: Home, row: str) -> Place:
    """Everything that is known of a row. Raises UserError for a row that is nowhere."""
    folders, number = home.preferences, row_number(row)
    known, damaged = readable_arrivals(folders)
    found = [arrival for arrival in known if number in arrival_index(folders, arrival).row]
    wanted, seen = {row}, Seen()
    went_to = {run.name: place for run in run_folders(home) if (place := _destinations(run, wanted, seen).get(row))}
    if not found and not went_to:
        raise UserError(f"No batch and no run on this machine holds the row {row}. `plumbline data diff` and "
                        "`plumbline data show` print the ids of rows.")
    return Place(row, found, bool(number in removed_rows(folders, known)), went_to, learners(home, [row]),
                 list(damaged.values()))


def learners(home: Home, rows: Iterable[str]) -> list[Learner]:
    """Every registered model with how many of these rows it learned from, newest first; those with none left out."""
    try:
        registry = Registry.open(home, load_params(home.root).promote.model_name)
    except StoreGone:
        return []  # nothing has been registered yet
    wanted, seen, found = set(rows), Seen(), []
    for version, run, aliases in registry.versions():
        count = None
        folder = workspace_of(home, run)
        if folder and (folder / PREPARED / ROWS_FILE).exists():
            count = sum(place in LEARNED for place in _destinations(folder, wanted, seen).values())
        if count != 0:
            found.append(Learner(registry.name, version, aliases, run, count))
    return found


def _destinations(run: Path, wanted: Set[str], seen: Seen) -> dict[str, str]:
    """Where the wanted rows went in a run; nothing for a run that has not prepared its data.

    A run has a line for each of its rows, and most runs have the same as the one before: `seen` remembers them.
    """
    file = run / PREPARED / ROWS_FILE
    if not file.exists():
        return {}
    digest = outputs_of(run, "ingest").get(str(PREPARED), run.name)
    if digest not in seen:
        seen[digest] = dict(_read_destinations(file, wanted))
    return seen[digest]


def _read_destinations(file: Path, wanted: Set[str]) -> Iterator[tuple[str, str]]:
    with file.open(encoding="ascii") as lines:
        next(lines)
        for line in lines:
            row, _, place = line.partition(",")
            if row in wanted:
                yield row, place.rstrip("\n").rpartition(",")[2]


def _now(home: Home) -> Path:
    """The snapshot that a run with params.yaml would take, made anew."""
    params = load_params(home.root)
    out = home.folder / "now"
    shutil.rmtree(out, ignore_errors=True)
    fix_snapshot(params.snapshot.sources, Simulation.of(params), home.preferences, out)
    return out


def _snapshot(name: str, folder: Path) -> DataVersion:
    files = ((folder / f"{batch.digest}.jsonl", batch.digest) for batch in read_manifest(folder).batches if batch.rows)
    return DataVersion(name, tuple(files))
