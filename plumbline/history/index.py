"""The facts about runs that have ended, kept in the home: they never change, so they are read from MLflow
once.

A SQLite file, `history.db`. It is derived and can be deleted at any time; another version of the program, or
another MLflow store, begins it anew.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from plumbline.history.facts import ManifestFacts, PipelineFacts, StageFacts

FILE = "history.db"
VERSION = 6
"""Raise it when what is kept changes."""
TABLES = """
DROP TABLE IF EXISTS facts;
DROP TABLE IF EXISTS notes;
CREATE TABLE facts (run_id TEXT PRIMARY KEY, kind TEXT NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE notes (name TEXT PRIMARY KEY, body BLOB NOT NULL);
"""
COMPLETE, REGISTRY, SOURCE = "complete", "registry", "source"
WAIT_SECONDS = 10.0
LOCKED = "database is locked"
log = logging.getLogger("plumbline")
Facts = StageFacts | PipelineFacts | ManifestFacts | str
"""A bare id is a run of somebody else's."""
KINDS: dict[str, type[StageFacts] | type[PipelineFacts] | type[ManifestFacts]] = {
    "stage": StageFacts, "pipeline": PipelineFacts, "manifest": ManifestFacts}
FOREIGN = "foreign"


@dataclass
class Known:
    """All that the index holds."""

    stages: dict[str, StageFacts] = field(default_factory=dict)
    pipelines: dict[str, PipelineFacts] = field(default_factory=dict)
    ours: dict[str, str] = field(default_factory=dict)
    """MLflow's ids by the ids of ours that stood in for them."""
    manifests: dict[str, ManifestFacts] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)
    """Runs that somebody else logged in the same experiment."""
    registry: dict[str, list[dict[str, object]]] | None = None
    complete: bool = False
    """True if all that had ended was read; otherwise there may be gaps."""

    def add(self, facts: Facts) -> None:
        """Add the facts of one run or snapshot."""
        if isinstance(facts, str):
            self.foreign.add(facts)
        elif isinstance(facts, StageFacts):
            self.stages[facts.run_id] = facts
            if facts.ours:
                self.ours[facts.ours] = facts.run_id
        elif isinstance(facts, PipelineFacts):
            self.pipelines[facts.run_id] = facts
        else:
            self.manifests[facts.run_id] = facts

    def remove(self, run_id: str) -> None:
        """Remove the facts of a run that was deleted."""
        self.stages.pop(run_id, None)
        self.pipelines.pop(run_id, None)
        self.foreign.discard(run_id)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self.stages or run_id in self.pipelines or run_id in self.foreign

    def __len__(self) -> int:
        return len(self.stages) + len(self.pipelines) + len(self.foreign)


class HistoryIndex:
    """The file. Each call opens it, so that several servers may use it side by side.

    A damaged one is begun anew. One that cannot be used at all is done without: the history is then read from
    MLflow each time a server starts.
    """

    def __init__(self, home_folder: Path, source: str) -> None:
        self.path = home_folder / FILE
        self._source = source
        self._problem = ""

    def load(self) -> Known:
        """Return all facts; none if there is no file yet, or one that is damaged or of another version."""
        if not self.path.exists():
            return Known()
        try:
            return self._load()
        except (sqlite3.Error, OSError, TypeError, KeyError, ValueError):  # what is derived is made again
            self._clear()
            return Known()

    def _load(self) -> Known:
        known = Known()
        with self._open() as file:
            for kind, body in file.execute("SELECT kind, body FROM facts"):
                known.add(_facts(kind, body))
            notes = dict(file.execute("SELECT name, body FROM notes"))
        known.complete = bool(orjson.loads(notes.get(COMPLETE, b"false")))
        known.registry = orjson.loads(notes[REGISTRY]) if REGISTRY in notes else None
        return known

    def keep(self, facts: Iterable[Facts]) -> None:
        """Add the facts of runs that have ended."""
        rows = [_row(one) for one in facts]
        if rows:
            self._write("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", rows)

    def note(self, name: str, value: object) -> None:
        """Store one more value, as JSON, by its name."""
        self._write("INSERT OR REPLACE INTO notes VALUES (?, ?)", [(name, orjson.dumps(value))])

    def forget(self, run_ids: Iterable[str]) -> None:
        """Delete the facts of runs that were deleted."""
        self._write("DELETE FROM facts WHERE run_id = ?", [(run_id,) for run_id in run_ids])

    def _write(self, command: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Change the file. After a failure nothing more is written, because a gap would never be noticed."""
        if self._problem:
            return
        try:
            with self._open() as file:
                file.executemany(command, rows)
        except (sqlite3.Error, OSError) as error:
            self._problem = str(error)
            log.warning("%s, which remembers the recorded runs, cannot be used (%s). They are read from "
                        "MLflow again when this program starts again.", self.path, error)
            if LOCKED not in str(error):  # then another program keeps it
                self._clear()

    def _clear(self) -> None:
        """Delete the file if possible."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction. Raises sqlite3.Error, or OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=WAIT_SECONDS)) as file, file:
            self._begin(file)
            yield file

    def _begin(self, file: sqlite3.Connection) -> None:
        """Make new, empty tables if the file is another version's or another store's."""
        if file.execute("PRAGMA user_version").fetchone() == (VERSION,):
            found = file.execute("SELECT body FROM notes WHERE name = ?", (SOURCE,)).fetchone()
            if found and orjson.loads(found[0]) == self._source:
                return
        file.executescript(TABLES)
        file.execute("INSERT INTO notes VALUES (?, ?)", (SOURCE, orjson.dumps(self._source)))
        file.execute(f"PRAGMA user_version = {VERSION}")
        file.commit()


def _row(facts: Facts) -> tuple[str, str, bytes]:
    if isinstance(facts, str):
        return facts, FOREIGN, orjson.dumps(facts)
    kind = next(kind for kind, of in KINDS.items() if isinstance(facts, of))
    return facts.run_id, kind, orjson.dumps(facts)


def _facts(kind: str, body: bytes) -> Facts:
    values = orjson.loads(body)
    return str(values) if kind == FOREIGN else KINDS[kind](**values)
