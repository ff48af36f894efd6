"""The feedback store: pairs offered to people, and their verdicts.

A verdict is acknowledged when it is on the disk. Verdicts share transactions (group commit): a thread takes
all that have been submitted, commits them together, and then resolves each verdict's future. Sending a
verdict again under its key is harmless; another verdict under the same key is refused.

The last word counts: a verdict takes back what the same person said of the same pair before, and a person has
one verdict on a pair that counts, even if the page was open twice. A skip is no word on the answers and takes
nothing back.
"""

import queue
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, Insert, Row, Table, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from plumbline.errors import UserError
from plumbline.feedback.database import open_database, unreachable
from plumbline.feedback.schema import pairs, verdicts
from plumbline.feedback.verdicts import OfferedAnswer, OfferedPair, Verdict
from plumbline.preferences.types import prompt_from_json, prompt_json
from plumbline.project.home import Home

GATHER_SECONDS = 0.01
"""Seconds that a verdict waits for others: a commit costs the same for one as for many."""
MOST_AT_ONCE = 1000
REMEMBERED_PAIRS = 4096


class FeedbackStore:
    """An open store; safe to use from many threads."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.reading = engine.execution_options(isolation_level="AUTOCOMMIT")
        """For queries: without a transaction, so that they hold no lock."""
        self._pairs: dict[str, OfferedPair] = {}
        self._submitted: queue.SimpleQueue[tuple[Verdict, Future[None]] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="feedback writer", daemon=True)
        self._writer.start()

    @classmethod
    def open(cls, home: Home) -> "FeedbackStore":
        """Open the project's store; make it if there is none. Raises UserError if it cannot be used."""
        return cls(open_database(home))

    def close(self) -> None:
        """Write the verdicts submitted so far, and close the database."""
        self._submitted.put(None)
        self._writer.join()
        self.engine.dispose()

    def add_pairs(self, made: Iterable[OfferedPair]) -> int:
        """Add pairs to the store; known ones stay as they are. Returns the number of new ones."""
        values = [_pair_values(pair) for pair in made]
        with unreachable(self.engine), self.engine.begin() as connection:
            offer = unless_there(connection, pairs).returning(pairs.c.id)
            return sum(connection.execute(offer, value).one_or_none() is not None for value in values)

    def pair(self, name: str) -> OfferedPair | None:
        """Return the pair with this id, or None."""
        found = self._pairs.get(name)
        if found is None:
            with unreachable(self.engine), self.reading.connect() as connection:
                row = connection.execute(select(pairs).where(pairs.c.id == name)).one_or_none()
            if row is None:
                return None
            if len(self._pairs) >= REMEMBERED_PAIRS:
                self._pairs.clear()
            found = self._pairs[name] = pair_of(row)
        return found

    def submit(self, verdict: Verdict) -> "Future[None]":
        """Write a verdict. Returns a future that is done when the verdict is on the disk.

        Raises UserError if it is no valid verdict on its pair. The future raises UserError if its key belongs
        to another verdict, or to one that was taken back.
        """
        pair = self.pair(verdict.pair)
        if pair is None:
            raise UserError(f"There is no pair {verdict.pair!r:.40} to judge. Load the page again for "
                            "another one.")
        problem = verdict.problem(len(pair.answers))
        if problem:
            raise UserError(f"This is no verdict: {problem}.")
        written: Future[None] = Future()
        self._submitted.put((verdict, written))
        return written

    def undo(self, key: str, session: str) -> Verdict | None:
        """Take back a verdict of this session. Returns the verdict, or None if there is none of that key."""
        mine = (verdicts.c.key == key) & (verdicts.c.session == session)
        with unreachable(self.engine), self.engine.begin() as connection:
            connection.execute(update(verdicts).where(mine, verdicts.c.undone.is_(None)).values(undone=now()))
            row = connection.execute(select(verdicts).where(mine)).one_or_none()
        return verdict_of(row) if row else None

    def last(self, session: str) -> Verdict | None:
        """Return the session's newest verdict that was not undone, or None."""
        query = (select(verdicts).where(verdicts.c.session == session, verdicts.c.undone.is_(None))
                 .order_by(verdicts.c.id.desc()).limit(1))
        with unreachable(self.engine), self.reading.connect() as connection:
            row = connection.execute(query).one_or_none()
        return verdict_of(row) if row else None

    def _write(self) -> None:
        """Commit groups of submitted verdicts until the store is closed."""
        going_on = True
        while going_on:
            group = [self._submitted.get()]
            time.sleep(GATHER_SECONDS)
            while len(group) < MOST_AT_ONCE and not self._submitted.empty():
                group.append(self._submitted.get())
            going_on = None not in group
            # Leave out cancelled futures, whose callers have gone; from here on none can be cancelled.
            self._commit([one for one in group if one is not None and one[1].set_running_or_notify_cancel()])

    def _commit(self, group: "Sequence[tuple[Verdict, Future[None]]]") -> None:
        if not group:
            return
        try:
            with self.engine.begin() as connection:
                there = _insert(connection, [verdict for verdict, _ in group])
        except (DataError, IntegrityError) as error:
            if len(group) == 1:
                group[0][1].set_exception(error)
                return
            for one in group:  # a verdict that the database refuses must not take the others with it
                self._commit([one])
        except SQLAlchemyError as error:
            for _, written in group:
                written.set_exception(_as_user_error(self.engine, error))
        else:
            for verdict, written in group:
                row = there.get(verdict.key)
                problem = _conflict(row, verdict) if row else None
                if problem:
                    written.set_exception(problem)
                else:
                    written.set_result(None)


def now() -> str:
    """Return the present time as the store keeps it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def unless_there(connection: Connection, table: Table) -> Insert:
    """Return an INSERT that leaves existing rows as they are."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


def pair_of(row: "Row[tuple[object, ...]]") -> OfferedPair:
    """Return the pair in a row of the table."""
    answers = tuple(OfferedAnswer(**answer) for answer in row.answers)
    return OfferedPair(prompt_from_json(row.prompt), answers, row.reason, row.kind, row.source)


def verdict_of(row: "Row[tuple[object, ...]]") -> Verdict:
    """Return the verdict in a row of the table."""
    return Verdict(row.key, row.pair, row.choice, row.annotator, row.session, tuple(row.shown), row.time,
                   tuple(row.ranks) if row.ranks else None, row.strength, row.comment)


def _insert(connection: Connection, said: Sequence[Verdict]) -> "dict[str, Row[tuple[object, ...]]]":
    """Insert verdicts, and take back what they replace.

    Returns, by key, the rows of keys that were in the table already or come twice, as they were before
    anything was taken back.
    """
    # Two servers must not write verdicts on one pair at once, or neither would take back the other's. SQLite
    # has one writer anyway. All servers lock in the order of the ids, so that none waits in a circle.
    asked = {verdict.pair for verdict in said}
    connection.execute(select(pairs.c.id).where(pairs.c.id.in_(asked)).order_by(pairs.c.id)
                       .with_for_update(key_share=True)).all()
    offer = unless_there(connection, verdicts).returning(verdicts.c.key)
    made = set(connection.execute(offer, [_values(verdict) for verdict in said]).scalars())
    times = Counter(verdict.key for verdict in said)
    doubtful = [key for key, count in times.items() if count > 1 or key not in made]
    there = {}
    if doubtful:
        query = select(verdicts).where(verdicts.c.key.in_(doubtful))
        there = {row.key: row for row in connection.execute(query)}
    # Of a key that comes twice, the first one was inserted.
    first = {verdict.key: verdict for verdict in reversed(said)}
    _take_back_replaced(connection, [first[key] for key in times if key in made])
    return there


def _take_back_replaced(connection: Connection, written: Sequence[Verdict]) -> None:
    """Take back all verdicts but the last one of each person on each pair in `written`."""
    last = {(verdict.pair, verdict.annotator): verdict.key for verdict in written if verdict.choice != "skip"}
    if not last:
        return
    columns = (verdicts.c.id, verdicts.c.key, verdicts.c.pair, verdicts.c.annotator)
    judged = {pair for pair, _ in last}
    query = select(*columns).where(verdicts.c.pair.in_(judged), verdicts.c.undone.is_(None))
    replaced = [row.id for row in connection.execute(query)
                if last.get((row.pair, row.annotator), row.key) != row.key]
    if replaced:
        connection.execute(update(verdicts).where(verdicts.c.id.in_(replaced)).values(undone=now()))


def _conflict(row: "Row[tuple[object, ...]]", verdict: Verdict) -> UserError | None:
    """Return the error for a verdict whose key is taken by another one, or None if both are the same."""
    kept = verdict_of(row)
    if row.undone is not None:
        return UserError("This page was answered already, and that verdict was undone or replaced by a later "
                         "one. A page takes one verdict: load the page again to give another.")
    if replace(kept, session=verdict.session, time=verdict.time, comment=verdict.comment) != verdict:
        return UserError(f"This page was answered already, with {kept.choice!r}. A page takes one verdict: "
                         "undo that one, or load the page again.")
    return None


def _pair_values(pair: OfferedPair) -> dict[str, object]:
    return {**asdict(pair), "id": pair.id, "prompt": prompt_json(pair.prompt), "size": len(pair.answers),
            "made": now()}


def _values(verdict: Verdict) -> dict[str, object]:
    ranks = list(verdict.ranks) if verdict.ranks else None
    return {**asdict(verdict), "shown": list(verdict.shown), "ranks": ranks}


def _as_user_error(engine: Engine, error: SQLAlchemyError) -> UserError:
    try:
        with unreachable(engine):
            raise error
    except UserError as problem:
        return problem
