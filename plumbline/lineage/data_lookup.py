"""Which data is meant by a name, where a row came from, and which models learned from it."""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.lineage.data_changes import folders_of
from plumbline.lineage.home import Home
from plumbline.lineage.records import find_run, run_folders
from plumbline.lineage.registry import Registry
from plumbline.preferences.arrivals import Arrival, arrival_index, arrivals, find_arrival, folder_of, removed_rows
from plumbline.preferences.batches import ROWS
from plumbline.preferences.manifest import MANIFEST, read_manifest
from plumbline.preferences.parts import ROWS_FILE
from plumbline.preferences.snapshot import Simulation, fix_snapshot
from plumbline.preferences.versions import Version

NOW = "now"
SNAPSHOT, PREPARED = Path("data/snapshot"), Path("data/prepared")
LEARNED = ("train", "validation")


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


def find_version(home: Home, name: str) -> Version:
    """The data that a name means: `now`, a run (`latest`, its id), a batch or a snapshot (its digest).

    `now` is what a run with params.yaml would learn from. Raises UserError where nothing has that name.
    """
    if name == NOW:
        return _snapshot(NOW, _now(home))
    known = arrivals(folders_of(home))
    if any(arrival.digest.startswith(name) for arrival in known):
        arrival = find_arrival(folders_of(home), name)
        return Version(f"batch {arrival.digest[:16]}",
                       ((folder_of(folders_of(home), arrival) / ROWS, arrival.batch.digest),))
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
    folders, number = folders_of(home), _number(row)
    known = arrivals(folders)
    found = [arrival for arrival in known if number in arrival_index(folders, arrival).row]
    went_to = {run.name: place for run in run_folders(home) if (place := _destinations(run).get(row))}
    if not found and not went_to:
        raise UserError(f"No batch and no run on this machine holds the row {row}. `plumbline data diff` and "
                        "`plumbline data show` print the ids of rows.")
    return Place(row, found, bool(number in removed_rows(folders, known)), went_to, learners(home, [row]))


def learners(home: Home, rows: Iterable[str]) -> list[Learner]:
    """Every registered model with how many of these rows it learned from, newest first; those with none left out."""
    wanted = set(rows)
    registry = Registry.open(home, load_params(home.root).promote.model_name)
    found = []
    for version, run, aliases in registry.versions():
        count = None
        if (home.runs / run / PREPARED / ROWS_FILE).exists():
            count = sum(row in wanted for row, place in _destinations(home.runs / run).items() if place in LEARNED)
        if count != 0:
            found.append(Learner(registry.name, version, aliases, run, count))
    return found


def _destinations(run: Path) -> dict[str, str]:
    """Where each row of a run went; nothing for a run that has not prepared its data."""
    file = run / PREPARED / ROWS_FILE
    return dict(_read_destinations(file)) if file.exists() else {}


def _read_destinations(file: Path) -> Iterator[tuple[str, str]]:
    with file.open(encoding="ascii") as lines:
        next(lines)
        for line in lines:
            row, _, place = line.rstrip("\n").split(",")
            yield row, place


def _number(row: str) -> int:
    try:
        return int(row, 16)
    except ValueError:
        raise UserError(f"{row!r} is not a row's id: expected 16 hexadecimal digits.") from None


def _now(home: Home) -> Path:
    """The snapshot that a run with params.yaml would take, made anew."""
    params = load_params(home.root)
    chosen = params.snapshot
    simulation = Simulation(params.seed, chosen.simulated_demonstrations, chosen.simulated_comparisons,
                            chosen.simulated_rankings)
    out = home.folder / "now"
    shutil.rmtree(out, ignore_errors=True)
    fix_snapshot(chosen.sources, simulation, folders_of(home), out)
    return out


def _snapshot(name: str, folder: Path) -> Version:
    files = ((folder / f"{batch.digest}.jsonl", batch.digest) for batch in read_manifest(folder).batches if batch.rows)
    return Version(name, tuple(files))
