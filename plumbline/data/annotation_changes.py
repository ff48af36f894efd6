"""What becomes of what Argilla and Label Studio send: an annotation's newest word is what the next snapshot
holds.

What is new is added. What says something else takes the place of what the annotation said before; what was
skipped, discarded or deleted takes that away. Both are arrivals with a reason, so the history shows them. A
delivery that comes again, by a retry or by somebody who recorded it, changes nothing, and neither does one
that is older than what is known.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from plumbline.data.annotation_hooks import QUESTIONS, Delivery, read
from plumbline.data.annotations import (
    ANNOTATIONS,
    WHOLE_TASK,
    Annotations,
    Entry,
    as_lines,
    known_annotations,
    note,
)
from plumbline.data.changes import alike, revise
from plumbline.data.intake import NothingUsable, rows_digest, take_in_read
from plumbline.errors import UserError
from plumbline.preferences.batches.arrivals import NO_ROWS, arrivals, removed_rows
from plumbline.preferences.batches.index import Hashes, index_of_rows
from plumbline.preferences.reading.formats import Reading
from plumbline.preferences.reading.read import import_records
from plumbline.preferences.reading.results import Quarantined, Unread
from plumbline.preferences.types import Row, row_id, to_line
from plumbline.project.home import Home
from plumbline.project.locks import file_lock

NO_JUDGEMENT = "This event holds no judgement."


@dataclass
class _Outcome:
    """The rows and annotations of a delivery that are to be kept."""

    entries: list[Entry] = field(default_factory=list)
    items: list[Row | Quarantined] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    """The ids of the rows that stood for the annotations until now."""
    judged: list[Row] = field(default_factory=list)
    """What takes the place of the same judgements, or takes them back, wherever they came from."""
    gone: Hashes = field(default_factory=lambda: NO_ROWS)
    """The rows that go for these reasons."""
    unread: str | None = None
    """Why they were not looked for everywhere."""
    said: list[str] = field(default_factory=list)
    """For whoever sent it."""
    reasons: list[str] = field(default_factory=list)
    """For the history."""
    problem: NothingUsable | None = None

    @property
    def rows(self) -> list[Row]:
        return [item for item in self.items if not isinstance(item, Quarantined)]


@dataclass(frozen=True)
class _Read:
    """The rows of a tool's record, those taken back apart."""

    items: list[Row | Quarantined]
    taken_back: list[Row]
    problem: NothingUsable | None
    """Why nothing of it stands, though nothing was taken back."""


def accept(home: Home, tool: str, body: bytes) -> dict[str, object]:
    """Apply a checked request. Returns the answer to it. Raises UserError if nothing in it can be used."""
    delivery = read(tool, body)
    if not delivery.told:
        return {"event": delivery.event, "batch": None, "detail": NO_JUDGEMENT}
    with file_lock(home.folder / "hooks.lock"):  # what is known decides, so one after the other
        batch, detail = _accept(home, tool, delivery, hashlib.sha256(body).hexdigest())
    return {"event": delivery.event, "batch": batch, "detail": detail}


def _accept(home: Home, tool: str, delivery: Delivery, digest: str) -> tuple[str | None, str]:
    known = known_annotations(home)
    if digest in known.deliveries:
        return known.deliveries[digest], "It had come before."
    outcome, noted = _Outcome(), _text(datetime.now(UTC))
    for told in delivery.told:
        when = noted if told.when is None else _text(told.when)
        entry = Entry(tool, told.project, told.task, told.annotation, when, noted, (), digest)
        if told.record is None:
            _delete(outcome, entry, known)
        else:
            _say(outcome, entry, _read(tool, told.record, told.stands), delivery.changes, known)
    if outcome.before or outcome.judged:
        _look_for_gone(home, outcome, known)
    return _keep(home, tool, outcome, known)


def _look_for_gone(home: Home, outcome: _Outcome, known: Annotations) -> None:
    """Look through all data once for the rows that go: reading it takes most of a delivery's time.

    What cannot be read now, such as a source on a hub that is away, is left out: a tool may never send again.
    """
    gone, outcome.unread = alike(home, _numbers(outcome.before), index_of_rows(outcome.judged))
    new = [entry for entry in outcome.entries if not known.later(entry)]
    stay = known.standing(entry.key for entry in new) | {row for entry in new for row in entry.rows}
    try:
        out = removed_rows(home.preferences, arrivals(home.preferences))
    except UserError:  # one is damaged; a row may be taken away twice
        out = NO_ROWS
    outcome.gone = np.setdiff1d(gone, np.concatenate([_numbers(stay), out]))
    if outcome.unread:
        outcome.said.append(f"Not all data could be looked through for the same judgement: {outcome.unread}")


def _delete(outcome: _Outcome, entry: Entry, known: Annotations) -> None:
    """Note that an annotation, or a task with all of its annotations, was deleted."""
    is_task = entry.annotation == WHOLE_TASK
    name = f"task {entry.task}" if is_task else f"annotation {entry.annotation}"
    if is_task:
        found = known.of_task(entry.tool, entry.project, entry.task)
    else:
        found = [known.newest[entry.key]] if entry.key in known.newest else []
    for one in found:
        last = max(entry.when, one.when)  # there is nothing after a deletion, whatever the clocks say
        outcome.entries.append(replace(one, when=last, noted=entry.noted, rows=(), delivery=entry.delivery,
                                       batch=None))
        outcome.before += one.rows
    if is_task or not found:
        outcome.entries.append(entry)
    outcome.reasons.append(f"{name} was deleted")
    if found and not any(one.rows for one in found):
        outcome.said.append(f"No row stands for {name} any more.")
    if not found:
        outcome.said.append(f"Nothing of {name} had arrived here. If it came in an export, export the rest "
                            "again and let it take the place of that batch: `plumbline data supersede FILE "
                            "--batch DIGEST`.")


def _say(outcome: _Outcome, entry: Entry, found: _Read, changes: bool, known: Annotations) -> None:
    """Note the newest state of an annotation."""
    outcome.entries.append(entry)
    # Deliveries may come late: a newer one has been applied already.
    if known.later(entry):
        outcome.said.append(f"Something newer is known of annotation {entry.annotation}, or of its task, so "
                            "this changes nothing.")
        return
    rows = [item for item in found.items if not isinstance(item, Quarantined)]
    before = known.newest.get(entry.key)
    outcome.entries[-1] = replace(entry, rows=tuple(_ids(rows)))
    if before and rows and set(before.rows) == set(_ids(rows)):
        outcome.said.append(f"Annotation {entry.annotation} says what it said before.")
        return
    if rows or found.problem:
        outcome.items += found.items
    outcome.problem = outcome.problem or found.problem
    # The rows of the annotation's earlier state go, and those of the same judgement from other batches.
    if before:
        outcome.before += before.rows
    if before or changes or found.taken_back:
        outcome.judged += [*rows, *found.taken_back]
    became = "was taken back"
    if rows:
        became = "changed"
    elif found.problem:
        became = f"cannot be used any more: {found.problem}"
    outcome.reasons.append(f"annotation {entry.annotation} {became}")


def _keep(home: Home, tool: str, outcome: _Outcome, known: Annotations) -> tuple[str | None, str]:
    """Publish the outcome as an arrival, or note the delivery. Returns the arrival's digest and the answer.

    Raises NothingUsable.
    """
    rows, beside = outcome.rows, {ANNOTATIONS: as_lines(outcome.entries)}
    if rows and not len(outcome.gone) and not known.are_back(_ids(rows)):
        taken = take_in_read(home, outcome.items, f"{tool}.jsonl", rows_digest(rows), beside)
        if taken.already_there:  # for another annotation: its folder stays as it is
            note(home, [replace(entry, batch=taken.arrival.digest) for entry in outcome.entries])
        return taken.arrival.digest, " ".join(outcome.said)
    if rows or len(outcome.gone):
        reason = f"{'; '.join(outcome.reasons)[:300]}, in {tool}"
        noted = f"{reason}; not looked through: {outcome.unread:.300}" if outcome.unread else reason
        arrival = revise(home, f"{tool}.jsonl", outcome.items, outcome.gone, noted, beside)
        if arrival.removes:
            rows_leave = f"{arrival.removes} rows leave" if arrival.removes > 1 else "1 row leaves"
            outcome.said.append(f"{rows_leave} the next snapshot: {reason}.")
        return arrival.digest, " ".join(outcome.said)
    if outcome.problem:
        # An older word that comes later must not win. Sent again, it is read again: what was wrong with it
        # may be how it is read.
        note(home, [replace(entry, delivery="") for entry in outcome.entries])
        raise outcome.problem
    note(home, outcome.entries)
    return None, " ".join(outcome.said) or NO_JUDGEMENT


def _read(tool: str, record: Mapping[str, object], stands: bool) -> _Read:
    name, how = f"{tool}.jsonl", Reading(tool, question=os.environ.get(QUESTIONS[tool]) or None)
    items: list[Row | Quarantined] = []
    taken_back: list[Row] = []
    problem = None
    try:
        for item in import_records([(1, record)], name, tool, how):
            if isinstance(item, Unread):
                taken_back += item.taken_back
            else:
                items.append(item)
    except UserError as error:
        advice = f" For webhooks {QUESTIONS[tool]} names it." if "--question" in str(error) else ""
        problem = NothingUsable(f"{error}{advice}", [item for item in items if isinstance(item, Quarantined)])
    return _Read(items, taken_back, problem if stands and not taken_back else None)


def _ids(rows: list[Row]) -> list[str]:
    return [row_id(to_line(row).encode()) for row in rows]


def _numbers(rows: Iterable[str]) -> Hashes:
    return np.array([int(row, 16) for row in rows], np.uint64)


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
