"""From verdicts to batches: verdicts given since the last collection become an immutable batch of preference
data.

Verdicts are collected when a run takes its snapshot, so that no verdict acknowledged before is missing in the
run, and in the background once the last verdict has settled (service.py). A collection may be killed between
any two steps, and several processes may collect at once; still every verdict that counts ends up in exactly
one batch:

1. **Plan**, in one transaction of the store: all verdicts that are in no plan yet are written into a new one,
   with the very lines that they will be in the batch. The table's primary key lets a verdict be in one plan
   only; of two processes that plan at once, one fails and looks again. Killed before: nothing has happened.
2. **Export**: the plan's lines become a batch, named by their content, and an event announces it. Killed
   before, during or after: the next collection finds the plan unfinished and exports the same lines again,
   which makes the same batch or finds it, and announces what was not announced.
3. **Finish**, in one transaction: the plan is marked as done, with the batch's digest. Killed before: see 2.

Verdicts on pairs for judging are evidence about a policy on held-out prompts, and are never collected.

A verdict that was undone before it was planned is never exported. One that was undone later is taken away
again by the next collection: a plan of removals goes through the same three steps, and its batch holds the
ids of the lines. A verdict that the same person replaced by a later one on the same pair counts as undone.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import orjson
from sqlalchemy import Connection, Select, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from plumbline.data.arrive import arrive
from plumbline.feedback.database import is_there, unreachable
from plumbline.feedback.schema import collected, collections, pairs, verdicts
from plumbline.feedback.store import FeedbackStore, now, pair_of, verdict_of
from plumbline.feedback.verdicts import JUDGE, rows_of
from plumbline.preferences.batches.arrivals import NO_ROWS, Arrival, draft
from plumbline.preferences.types import from_json, row_id, to_line
from plumbline.project.home import Home

NAME = "feedback"
UNDONE = "undone or replaced by the annotator"
Action = Literal["add", "remove"]
Step = Callable[[str], None]
MOST_LOOKS = 100


@dataclass(frozen=True)
class Uncollected:
    """Work for the next collection: verdicts to add, verdicts to remove, and unfinished plans."""

    count: int
    oldest: str | None
    """Time (ISO 8601, UTC) of the oldest of them; None if there are none."""
    newest: str | None
    to_add: int
    """Verdicts among them that count and are in no batch yet."""


def collect(home: Home, step: Step = lambda _: None) -> list[Arrival]:
    """Collect the verdicts in the project's store, if it has one; see `collect_from`.

    Raises UserError if the store cannot be used.
    """
    if not is_there(home):
        return []
    store = FeedbackStore.open(home)
    try:
        return collect_from(store, home, step)
    finally:
        store.close()


def collect_from(store: FeedbackStore, home: Home, step: Step = lambda _: None) -> list[Arrival]:
    """Collect the verdicts in `store`, and return the arrivals made or finished.

    `step` is called with the name of each step before the step is taken.
    """
    with unreachable(store.engine):
        for action in ("add", "remove"):
            step(f"plan {action}")
            _plan(store, action)
        return [_export(store, home, plan, step) for plan in _unfinished(store)]


def uncollected(store: FeedbackStore) -> Uncollected:
    """Count the work for the next collection."""
    unfinished = select(collections).where(collections.c.finished.is_(None))
    found = ((_to_add(), verdicts.c.time), (_to_remove(), verdicts.c.undone),
             (unfinished, collections.c.planned))
    counts = [query.with_only_columns(func.count(), func.min(time), func.max(time)).order_by(None)
              for query, time in found]
    with unreachable(store.engine), store.reading.connect() as connection:
        counted = [connection.execute(query).one() for query in counts]
    some = [row for row in counted if row[0]]
    return Uncollected(sum(row[0] for row in some), min((row[1] for row in some), default=None),
                       max((row[2] for row in some), default=None), to_add=counted[0][0])


@dataclass(frozen=True)
class _Plan:
    id: int
    action: Action
    planned: str


def _to_add() -> Select[tuple[object, ...]]:
    """Select the verdicts that count, may be learned from, and are in no plan."""
    planned = exists().where(collected.c.verdict == verdicts.c.id, collected.c.action == "add")
    held_out = exists().where(pairs.c.id == verdicts.c.pair, pairs.c.source == JUDGE)
    return (select(verdicts)
            .where(verdicts.c.undone.is_(None), verdicts.c.choice != "skip", ~planned, ~held_out)
            .order_by(verdicts.c.id))


def _to_remove() -> Select[tuple[object, ...]]:
    """Select the verdicts that were undone after they had been planned, and are in no plan of removals."""
    added = exists().where(collected.c.verdict == verdicts.c.id, collected.c.action == "add")
    removed = exists().where(collected.c.verdict == verdicts.c.id, collected.c.action == "remove")
    return select(verdicts).where(verdicts.c.undone.is_not(None), added, ~removed).order_by(verdicts.c.id)


def _plan(store: FeedbackStore, action: Action) -> None:
    """Write a new plan, if there are verdicts for one.

    Where another process has planned some of them meanwhile, `_unfinished` finds its plan, and what is left
    gets another.
    """
    for look in range(1, MOST_LOOKS + 1):
        try:
            _plan_once(store, action)
            return
        except IntegrityError:
            if look == MOST_LOOKS:  # nobody else can have been quicker so often
                raise


def _plan_once(store: FeedbackStore, action: Action) -> None:
    with store.engine.begin() as connection:
        lines = _lines_to_add(connection) if action == "add" else _lines_to_remove(connection)
        if not lines:
            return
        made = connection.execute(insert(collections).values(action=action, planned=now()))
        assert made.inserted_primary_key is not None
        number = made.inserted_primary_key[0]
        connection.execute(insert(collected), [
            {"verdict": verdict, "action": action, "collection": number, "lines": text}
            for verdict, text in lines.items()])


def _lines_to_add(connection: Connection) -> dict[int, str]:
    """Return the lines that each verdict becomes, by the verdict's number."""
    found = connection.execute(_to_add()).all()
    judged = _to_add().with_only_columns(verdicts.c.pair).order_by(None)
    known = {row.id: pair_of(row) for row in connection.execute(select(pairs).where(pairs.c.id.in_(judged)))}
    # A pair that is not known any more has a verdict that another process planned since the first query.
    return {row.id: "".join(map(to_line, rows_of(known[row.pair], verdict_of(row))))
            for row in found if row.pair in known}


def _lines_to_remove(connection: Connection) -> dict[int, str]:
    """Return the lines that each undone verdict was exported as, by the verdict's number."""
    undone = _to_remove().with_only_columns(verdicts.c.id).order_by(None)
    query = select(collected.c.verdict, collected.c.lines).where(
        collected.c.action == "add", collected.c.verdict.in_(undone)).order_by(collected.c.verdict)
    return {row.verdict: row.lines for row in connection.execute(query)}


def _unfinished(store: FeedbackStore) -> Sequence[_Plan]:
    query = select(collections).where(collections.c.finished.is_(None)).order_by(collections.c.id)
    with store.reading.connect() as connection:
        return [_Plan(row.id, row.action, row.planned) for row in connection.execute(query)]


def _export(store: FeedbackStore, home: Home, plan: _Plan, step: Step) -> Arrival:
    """Take steps 2 to 4 for one plan."""
    query = select(collected.c.lines).where(collected.c.collection == plan.id).order_by(collected.c.verdict)
    with store.reading.connect() as connection:
        lines = "".join(row.lines for row in connection.execute(query)).encode()
    content = hashlib.sha256(lines).hexdigest()
    removed, rows = NO_ROWS, []
    if plan.action == "add":
        rows = [from_json(orjson.loads(line)) for line in lines.splitlines()]
    else:
        removed = np.array([int(row_id(line), 16) for line in lines.splitlines()], np.uint64)
    step(f"export {plan.action}")
    with draft(home.preferences, NAME, rows) as drafted:
        step(f"publish {plan.action}")
        reason = UNDONE if plan.action == "remove" else ""
        arrival = arrive(home, drafted, plan.action, plan.planned, content, removed, reason).arrival
    step(f"finish {plan.action}")
    with store.engine.begin() as connection:
        connection.execute(update(collections).where(collections.c.id == plan.id)
                           .values(batch=arrival.digest, finished=now()))
    step(f"end {plan.action}")
    return arrival
