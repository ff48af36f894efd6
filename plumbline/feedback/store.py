"""The feedback store: pairs that wait for people, and their verdicts.

A verdict is acknowledged when it is on the disk. Many at a time share one transaction (group commit): a thread takes
all that wait, writes them, and then tells each of them. A verdict's key makes sending it again harmless; another
verdict under the same key is refused.
"""

import queue
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, Insert, Row, Table, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from plumbline.errors import UserError
from plumbline.feedback.database import open_database, unreachable
from plumbline.feedback.schema import pairs, verdicts
from plumbline.feedback.verdicts import Answer, Pair, Verdict
from plumbline.preferences.types import Message, prompt_json
from plumbline.project.home import Home

GATHER_SECONDS = 0.01
"""So long a verdict waits for others: a commit costs the same for one as for many."""
MOST_AT_ONCE = 1000
REMEMBERED_PAIRS = 4096


class Store:
    """An open store; safe to use from many threads."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.reading = engine.execution_options(isolation_level="AUTOCOMMIT")
        """For questions: no transaction, so nobody waits."""
        self._pairs: dict[str, Pair] = {}
        self._waiting: queue.SimpleQueue[tuple[Verdict, Future[None]] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="feedback writer", daemon=True)
        self._writer.start()

    @classmethod
    def open(cls, home: Home) -> "Store":
        """The project's store, made if there is none. Raises UserError where it cannot be used."""
        return cls(open_database(home))

    def close(self) -> None:
        """Write what waits, and let go of the database."""
        self._waiting.put(None)
        self._writer.join()
        self.engine.dispose()

    def add_pairs(self, made: Iterable[Pair]) -> int:
        """Offer pairs to people; those that are known stay as they are. Returns how many are new."""
        values = [{"id": pair.id, "prompt": prompt_json(pair.prompt), "size": len(pair.answers), "made": now(),
                   "answers": [asdict(answer) for answer in pair.answers], "reason": pair.reason, "kind": pair.kind,
                   "source": pair.source} for pair in made]
        with unreachable(self.engine), self.engine.begin() as connection:
            offer = unless_there(connection, pairs).returning(pairs.c.id)
            return sum(connection.execute(offer, value).one_or_none() is not None for value in values)

    def pair(self, name: str) -> Pair | None:
        """The pair with this id."""
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
        """Keep a verdict; done when it is on the disk. Raises UserError for what is no verdict on that pair.

        The future raises UserError where the key has another verdict, or one that was undone.
        """
        pair = self.pair(verdict.pair)
        if pair is None:
            raise UserError(f"There is no pair {verdict.pair!r:.40} to judge. Load the page again for another one.")
        problem = verdict.problem(len(pair.answers))
        if problem:
            raise UserError(f"This is no verdict: {problem}.")
        written: Future[None] = Future()
        self._waiting.put((verdict, written))
        return written

    def undo(self, key: str, session: str) -> Verdict | None:
        """Take back a verdict of this session; the verdict, or None if the session has none of that key."""
        mine = (verdicts.c.key == key) & (verdicts.c.session == session)
        with unreachable(self.engine), self.engine.begin() as connection:
            connection.execute(update(verdicts).where(mine, verdicts.c.undone.is_(None)).values(undone=now()))
            row = connection.execute(select(verdicts).where(mine)).one_or_none()
        return verdict_of(row) if row else None

    def last(self, session: str) -> Verdict | None:
        """The newest verdict of a session that still counts."""
        query = (select(verdicts).where(verdicts.c.session == session, verdicts.c.undone.is_(None))
                 .order_by(verdicts.c.id.desc()).limit(1))
        with unreachable(self.engine), self.reading.connect() as connection:
            row = connection.execute(query).one_or_none()
        return verdict_of(row) if row else None

    def count(self) -> int:
        """Verdicts that count."""
        with unreachable(self.engine), self.reading.connect() as connection:
            query = select(func.count()).select_from(verdicts).where(verdicts.c.undone.is_(None))
            return int(connection.execute(query).scalar_one())

    def _write(self) -> None:
        going_on = True
        while going_on:
            group = [self._waiting.get()]
            time.sleep(GATHER_SECONDS)
            while len(group) < MOST_AT_ONCE and not self._waiting.empty():
                group.append(self._waiting.get())
            going_on = None not in group
            # A cancelled one has nobody left who could be told, and from here on none can be cancelled.
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
            for one in group:  # one that the database refuses must not take the others with it
                self._commit([one])
        except SQLAlchemyError as error:
            for _, written in group:
                written.set_exception(_as_user_error(self.engine, error))
        else:
            for verdict, written in group:
                row = there.get(verdict.key)
                problem = _in_the_way(row, verdict) if row else None
                if problem:
                    written.set_exception(problem)
                else:
                    written.set_result(None)


def now() -> str:
    """The time, as the store keeps it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def unless_there(connection: Connection, table: Table) -> Insert:
    """An insert that leaves rows alone which are there already."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


def pair_of(row: "Row[tuple[object, ...]]") -> Pair:
    """The pair in a row of the table."""
    prompt = tuple(Message(turn["role"], turn["content"]) for turn in row.prompt)
    return Pair(prompt, tuple(Answer(**answer) for answer in row.answers), row.reason, row.kind, row.source)


def verdict_of(row: "Row[tuple[object, ...]]") -> Verdict:
    """The verdict in a row of the table."""
    return Verdict(row.key, row.pair, row.choice, row.annotator, row.session, tuple(row.shown), row.time,
                   tuple(row.ranks) if row.ranks else None, row.strength, row.comment)


def _insert(connection: Connection, said: Sequence[Verdict]) -> "dict[str, Row[tuple[object, ...]]]":
    """Insert verdicts; by key, the rows of keys that were there already or came twice. Asks only if there are such."""
    offer = unless_there(connection, verdicts).returning(verdicts.c.key)
    made = set(connection.execute(offer, [_values(verdict) for verdict in said]).scalars())
    if len(made) == len(said):
        return {}
    times = Counter(verdict.key for verdict in said)
    doubtful = [key for key, count in times.items() if count > 1 or key not in made]
    return {row.key: row for row in connection.execute(select(verdicts).where(verdicts.c.key.in_(doubtful)))}


def _in_the_way(row: "Row[tuple[object, ...]]", verdict: Verdict) -> UserError | None:
    """Why a verdict does not count beside the one in the row, which has its key; None where both say the same."""
    kept = verdict_of(row)
    if row.undone is not None:
        return UserError("This page was answered already, and that verdict was undone. A page takes one verdict: load "
                         "the page again to give another.")
    if replace(kept, session=verdict.session, time=verdict.time, comment=verdict.comment) != verdict:
        return UserError(f"This page was answered already, with {kept.choice!r}. A page takes one verdict: undo that "
                         "one, or load the page again.")
    return None


def _values(verdict: Verdict) -> dict[str, object]:
    return {**asdict(verdict), "shown": list(verdict.shown), "ranks": list(verdict.ranks) if verdict.ranks else None}


def _as_user_error(engine: Engine, error: SQLAlchemyError) -> UserError:
    try:
        with unreachable(engine):
            raise error
    except UserError as problem:
        return problem
