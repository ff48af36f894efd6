"""One row's history: how it came, whether it was taken away, what runs did with it, which models learned from it."""

import mmap
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from plumbline.data.changes import row_number
from plumbline.data.lookup import LEARNED, PREPARED
from plumbline.data.named_versions import Data, KnownData
from plumbline.errors import UserError
from plumbline.history.history import History, RegisteredVersion, Run
from plumbline.preferences.batches.arrivals import NO_ROWS, Arrival, folder_of, read_arrival, taken_away
from plumbline.preferences.batches.batch import ROWS
from plumbline.preferences.batches.folders import Folders
from plumbline.preferences.batches.index import Hashes, index_of
from plumbline.preferences.prepare.writer import ROWS_FILE
from plumbline.preferences.versions.browse import Browser
from plumbline.project.digests import cached_file, cached_listing
from plumbline.project.home import Home


@dataclass(frozen=True)
class Use:
    """What became of the row in some runs, which prepared the same data."""

    went_to: str | None
    """train, validation, heldout or near_heldout; None where the row was not among their data."""
    batch: str
    """The beginning of the digest of the batch that it came in, if it did."""
    runs: tuple[Run, ...]
    """Newest first."""


@dataclass(frozen=True)
class Learner:
    """A registered model that learned from the row."""

    version: RegisteredVersion
    went_to: str


@dataclass(frozen=True)
class RowHistory:
    """All that is known of a row."""

    row: str
    content: dict[str, object] | None
    """The row in our schema; None where no file on this machine holds it."""
    found_in: Data | None
    """Where its content was read."""
    others: list[dict[str, object]]
    """Other rows there that judge the same responses."""
    arrivals: list[Arrival]
    """Batches and corrections that brought it."""
    removals: list[Arrival]
    """What took it away."""
    removed: bool
    """Whether it is out now."""
    uses: list[Use]
    learners: list[Learner]
    unknown: tuple[Run, ...]
    """Runs whose prepared data is not on this machine."""


def row_history(history: History, row: str) -> RowHistory:
    """Everything about a row. Raises UserError for what is no row's id, or where nothing knows it."""
    number, name = row_number(row), row.lower()
    known = KnownData(history)
    arrived, removals, removed = _arrivals_of(history.home, known.arrivals(), number)
    uses, unknown = _uses(history, name)
    data, browser = _holder(known, number, arrived, uses)
    if data is None and not (arrived or removals or uses):
        raise UserError(f"Nothing on this machine holds the row {name}: no batch, and no run's data.")
    place = browser.place(number) if browser else None
    content = browser.columns.read(place) if browser and place is not None else None
    others = [browser.columns.read(one) for one in browser.others(place)] if browser and place is not None else []
    return RowHistory(name, content, data, others, arrived, removals, removed, uses, _learners(history, uses), unknown)


def _arrivals_of(home: Home, known: list[Arrival], number: int) -> tuple[list[Arrival], list[Arrival], bool]:
    """What brought the row, what took it away, and whether it is out after all of them."""
    brought, removals, removed = [], [], False
    for arrival in known:
        rows, gone = _ids(home, arrival)
        if _holds(gone, number):
            removals.append(arrival)
            removed = True
        if _holds(rows, number):
            brought.append(arrival)
            removed = removed and arrival.action != "supersede"
    return brought, removals, removed


def _holder(known: KnownData, number: int, arrived: list[Arrival],
            uses: list[Use]) -> tuple[Data | None, Browser | None]:
    """Data on this machine that holds the row: a run's, else the batch itself, else what runs learn from now."""
    names = [*(use.runs[0].id for use in uses), *(arrival.digest for arrival in arrived), "now"]
    for name in names:
        data = known.find(name)
        if data.version is None:
            continue
        browser = known.browser(data)
        if browser.place(number) is not None:
            return data, browser
    return None, None


def _uses(history: History, row: str) -> tuple[list[Use], tuple[Run, ...]]:
    """By prepared data, which many runs share; and the runs whose data is not here."""
    by_data: dict[str, list[Run]] = {}
    for run in history.runs.values():
        if (ingest := run.steps.get("ingest")) and (md5 := ingest.outputs.get(PREPARED.as_posix())):
            by_data.setdefault(md5, []).append(run)
    uses, unknown = [], list[Run]()
    for md5, runs in by_data.items():
        file = _rows_file(history.home, md5, runs)
        if file is None:
            unknown += runs
        elif (found := _look_up(file, row)) is not None:
            uses.append(Use(found[1], found[0], tuple(runs)))
    return uses, tuple(unknown)


def _learners(history: History, uses: list[Use]) -> list[Learner]:
    """A model learned from the data of the run that made it."""
    went_to = {run.id: use.went_to for use in uses for run in use.runs if use.went_to in LEARNED}
    return [Learner(version, place) for version in history.versions.values()
            if (place := went_to.get(version.run)) is not None]


def _rows_file(home: Home, md5: str, runs: list[Run]) -> Path | None:
    """The table of rows of prepared data: in DVC's cache, or in a workspace."""
    listing = cached_listing(home.cache, md5)
    if listing and ROWS_FILE in listing and (file := cached_file(home.cache, listing[ROWS_FILE])).is_file():
        return file
    places = (run.folder / PREPARED / ROWS_FILE for run in runs if run.folder is not None)
    return next((file for file in places if file.is_file()), None)


def _look_up(file: Path, row: str) -> tuple[str, str] | None:
    """The batch and the destination of a row, from a table of perhaps millions, without reading it line by line."""
    if not file.stat().st_size:
        return None
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
        at = text.find(f"\n{row},".encode())
        if at < 0:
            return None
        text.seek(at + 1)
        _, batch, place = text.readline().decode("ascii", "replace").strip().split(",")
        return batch, place


def _holds(rows: Hashes, number: int) -> bool:
    at = int(np.searchsorted(rows, np.uint64(number)))
    return at < len(rows) and int(rows[at]) == number


def _ids(home: Home, arrival: Arrival) -> tuple[Hashes, Hashes]:
    """The ids of the rows that an arrival brings, and of those that it takes away, sorted."""
    folder = folder_of(home.preferences, arrival)
    return (_sorted_rows(folder / ROWS, arrival.batch.digest, home.preferences.indexes),
            _sorted_names(home.preferences, folder) if arrival.removes else NO_ROWS)


@lru_cache(maxsize=1024)
def _sorted_rows(file: Path, digest: str, indexes: Path) -> Hashes:
    return np.sort(index_of(file, digest, indexes).row)


@lru_cache(maxsize=1024)
def _sorted_names(folders: Folders, folder: Path) -> Hashes:
    return np.sort(taken_away(folders, read_arrival(folder)))
