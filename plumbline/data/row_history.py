"""One row's history: how it came, whether it was taken away, what runs did with it, which models learned from
it.

A run leaves a table, `rows.csv`, with the destination of each of its rows. A registered model learned from
the rows that the run which made it learned from.
"""

import mmap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from plumbline.data.changes import row_number
from plumbline.data.named_versions import PULL, KnownData
from plumbline.errors import UserError
from plumbline.history.assembly import runs_here
from plumbline.lineage.records import RegisteredVersion, Run
from plumbline.preferences.batches.arrivals import Arrival, arrival_index, folder_of, read_arrival, taken_away
from plumbline.preferences.batches.folders import Folders
from plumbline.preferences.batches.index import Hashes
from plumbline.preferences.prepare.writer import ROWS_FILE
from plumbline.project.digests import cached_file, cached_listing
from plumbline.project.dvc_yaml import outputs_of
from plumbline.project.home import Home
from plumbline.project.run_record import RUN_ID

PREPARED = "data/prepared"
LEARNED = ("train", "validation", "judge")
FEW = 4
"""Rows that are quicker searched for one by one than by reading a whole table."""
Versions = Mapping[int, RegisteredVersion]


@dataclass(frozen=True)
class RowUse:
    """What some runs, which prepared the same data, did with a row."""

    went_to: str
    """A split, or near_heldout."""
    runs: tuple[Run, ...]
    """Newest first."""


@dataclass(frozen=True)
class LearnedModel:
    """A registered model, and how many of some rows it learned from."""

    name: str
    version: int
    aliases: tuple[str, ...]
    run: str
    rows: int | None
    """None if the prepared data of its run is not on this machine."""


@dataclass(frozen=True)
class RowHistory:
    """The facts about a row besides its text."""

    row: str
    arrivals: list[Arrival]
    """Batches and corrections that brought it."""
    removals: list[Arrival]
    """What took it away."""
    removed: bool
    """True if it is out now, as far as arrivals are here and can be read."""
    uses: list[RowUse]
    learners: list[LearnedModel]
    """Models that learned from it, and those of which that cannot be told; the newest first."""
    unknown: tuple[Run, ...]
    """Runs whose prepared data is not on this machine."""
    damaged: list[str]
    """What is wrong with batches that cannot be read, and may hold it or take it away too."""
    not_here: list[str]
    """Names of arrivals that are not on this machine, and may hold it or take it away too."""

    @property
    def went_to(self) -> dict[str, str]:
        """Its destinations by run, the oldest run first."""
        places = {run.id: use.went_to for use in self.uses for run in use.runs}
        return dict(sorted(places.items()))

    def require_known(self) -> None:
        """Raise UserError if nothing that can be read here knows the row."""
        if self.arrivals or self.removals or self.uses:
            return
        damage = "".join(f" {problem}" for problem in self.damaged[:1])
        elsewhere = f" {PULL}" if self.not_here else ""
        raise UserError(f"No batch and no run on this machine holds the row {self.row}. `plumbline data "
                        f"diff` and `plumbline data show` print the ids of rows.{damage}{elsewhere}")


def row_history(known: KnownData, versions: Versions, row: str) -> RowHistory:
    """Return what arrivals, runs and models have to do with a row. Raises UserError for what is no row's
    id.
    """
    number, name = row_number(row), row.lower()
    brought, removals, removed, damaged = _arrivals_of(known, number)
    tables = list(_destinations(known.home, known.runs, {name}))
    uses = [RowUse(went_to[name], tuple(runs)) for runs, went_to in tables if went_to]
    unknown = [run for runs, went_to in tables if went_to is None for run in runs]
    return RowHistory(name, brought, removals, removed, uses, _learners(versions, tables), tuple(unknown),
                      [*known.damaged().values(), *damaged], known.not_here())


def where_is(home: Home, versions: Versions, row: str) -> RowHistory:
    """Return the history of a row as this machine's runs know it. Raises UserError for a row that is
    nowhere.
    """
    found = row_history(KnownData(home, runs_here(home)), versions, row)
    found.require_known()
    return found


def row_content(known: KnownData, found: RowHistory) -> tuple[list[dict[str, object]], list[str]]:
    """Return a row in our schema, and what is wrong with damaged data that was passed over.

    Behind the row follow others that judge the same responses; the list is empty if no file here holds the
    row. It is looked for in the data of the runs that used it, then in the batches that brought it, then in
    `now`.
    """
    number = row_number(found.row)
    damaged: list[str] = []
    names = [*(use.runs[0].id for use in found.uses), *(arrival.digest for arrival in found.arrivals), "now"]
    for name in names:
        try:
            data = known.find(name)
            if data.version is None:
                continue
            browser = known.browser(data)
            place = browser.place(number)
            if place is not None:
                return [browser.columns.read(one) for one in (place, *browser.others(place))], damaged
        except UserError as error:
            damaged.append(str(error))
    return [], damaged


def learners(home: Home, versions: Versions, rows: Collection[str]) -> list[LearnedModel]:
    """Return the registered models that learned from some of these rows, or may have; the newest first."""
    runs = runs_here(home)
    makers = {version.run: runs[version.run] for version in versions.values() if version.run in runs}
    return _learners(versions, list(_destinations(home, makers, set(rows))))


def _arrivals_of(known: KnownData, number: int) -> tuple[list[Arrival], list[Arrival], bool, list[str]]:
    """Return what brought the row, what took it away, whether it is out after all of them, and what is
    damaged.
    """
    folders = known.home.preferences
    brought, removals, removed, damaged = [], [], False, []
    for arrival in known.arrivals():
        try:
            rows, gone = _ids(folders, folder_of(folders, arrival))
        except UserError as error:
            damaged.append(str(error))
            continue
        if number in gone:
            removals.append(arrival)
            removed = True
        if number in rows:
            brought.append(arrival)
            removed = removed and arrival.action != "supersede"
    return brought, removals, removed, damaged


Tables = list[tuple[list[Run], dict[str, str] | None]]


def _destinations(home: Home, runs: Mapping[str, Run],
                  rows: Collection[str]) -> Iterator[tuple[list[Run], dict[str, str] | None]]:
    """Yield, by prepared data, the runs that share it and the destinations of the rows that are in it.

    The destinations are None if the table is not on this machine.
    """
    by_data: dict[str, list[Run]] = {}
    for run in runs.values():
        if prepared := _prepared(run):
            by_data.setdefault(prepared, []).append(run)
    for prepared, sharing in by_data.items():
        table = _table(home, prepared, sharing)
        yield sharing, None if table is None else _read_table(table, rows)


def _learners(versions: Versions, tables: Tables) -> list[LearnedModel]:
    counts: dict[str, int | None] = {}
    for runs, went_to in tables:
        learned = None if went_to is None else sum(place in LEARNED for place in went_to.values())
        counts.update(dict.fromkeys((run.id for run in runs), learned))
    found = [LearnedModel(one.name, one.number, one.aliases, one.run, counts.get(one.run))
             for one in versions.values()]
    return [model for model in found if model.rows != 0]


def _prepared(run: Run) -> str | None:
    """Return DVC's digest of the data that a run prepared, its id where no stage has said it, None if there
    is none.
    """
    step = run.steps.get("ingest")
    if step and PREPARED in step.outputs:
        return step.outputs[PREPARED]
    if run.folder and (run.folder / PREPARED / ROWS_FILE).is_file():
        return outputs_of(run.folder, "ingest").get(PREPARED, run.id)
    return None


def _table(home: Home, prepared: str, runs: list[Run]) -> Path | None:
    """Return the table of rows of prepared data, from DVC's cache or a workspace."""
    listing = None if RUN_ID.fullmatch(prepared) else cached_listing(home.cache, prepared)
    if listing and ROWS_FILE in listing and (file := cached_file(home.cache, listing[ROWS_FILE])).is_file():
        return file
    places = (run.folder / PREPARED / ROWS_FILE for run in runs if run.folder is not None)
    return next((file for file in places if file.is_file()), None)


def _read_table(table: Path, rows: Collection[str]) -> dict[str, str]:
    """Return the destinations of some rows by their ids, from lines of id, batch and destination."""
    if not table.stat().st_size:
        return {}
    with table.open("rb") as file:
        if len(rows) > FEW:
            lines = (line.decode("ascii", "replace").strip().split(",") for line in file)
            return {line[0]: line[-1] for line in lines if line[0] in rows}
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            found = {}
            for row in rows:
                at = text.find(f"\n{row},".encode())
                if at >= 0:
                    text.seek(at + 1)
                    found[row] = text.readline().decode("ascii", "replace").strip().rpartition(",")[2]
            return found


@lru_cache(maxsize=1024)
def _ids(folders: Folders, folder: Path) -> tuple[Hashes, Hashes]:
    """Return the ids of the rows that an arrival brings, and of those that it takes away."""
    arrival = read_arrival(folder)
    return arrival_index(folders, arrival).row, taken_away(folders, arrival)
