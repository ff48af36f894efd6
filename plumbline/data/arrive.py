"""The one door through which preference data arrives, whoever brings it: `arrive` publishes a draft and
announces it.

It waits for no lock, so that requests may call it. DVC learns of the batch later (dvc_tracking.py), and a
server of events that does not answer is told later: `announce_missed`, which the pages and `plumbline up`
call now and then.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from plumbline.data.dvc_tracking import sweep
from plumbline.notify.prefect_events import PREFERENCES_ADDED, send
from plumbline.preferences.batches.arrivals import (
    NAME_DIGITS,
    NO_ROWS,
    Action,
    Arrival,
    Draft,
    publish,
    readable_arrivals,
)
from plumbline.preferences.batches.batch import BATCH
from plumbline.preferences.batches.index import Hashes
from plumbline.project.home import API_URL, Home


@dataclass(frozen=True)
class Published:
    """An arrival, and how it came about."""

    arrival: Arrival
    already_there: bool
    """The same content had arrived before, so nothing changed."""
    not_announced: str | None
    """Why no event was sent; it is tried again later."""


def arrive(home: Home, drafted: Draft, action: Action, when: str, content: str, removed: Hashes = NO_ROWS,
           reason: str = "", beside: Mapping[str, str] | None = None) -> Published:
    """Make a draft an arrival, and announce it once.

    `when` is ISO 8601 in UTC, `content` the digest of what was read, `removed` the ids of the rows that it
    takes away, and `beside` texts to keep in its folder, by their files' names.
    """
    drafted.keep(beside or {})
    arrival = publish(home.preferences, drafted, action, when, content, removed, reason)
    sweep(home.preferences.arrived)
    return Published(arrival, arrival.added != when, announce_once(home, arrival))


def announce_once(home: Home, arrival: Arrival) -> str | None:
    """Send the event of an arrival, unless a server has it already. Returns why it was not sent, or None."""
    return None if _is_marked(home, arrival) else _announce(home, arrival)


def announce_missed(home: Home) -> str | None:
    """Send one event for all arrivals that no server has been told of. Returns why it was not sent, or None.

    A process can be killed, or the server be away, between an arrival and its event.
    """
    if not os.environ.get(API_URL):
        return f"{API_URL} is not set"
    # The names of the files tell most times that nothing was missed, without reading an arrival.
    names = {file.parent.name for file in home.preferences.arrived.glob(f"*/{BATCH}")}
    if not names - {mark.name for mark in (home.folder / "announced").glob("*")}:
        return None
    missed = [arrival for arrival in readable_arrivals(home.preferences)[0] if not _is_marked(home, arrival)]
    if not missed:
        return None
    problem = _announce(home, missed[-1])
    if problem is None:
        for arrival in missed:
            _mark(home, arrival)
    return problem


def _announce(home: Home, arrival: Arrival) -> str | None:
    payload = {"batch": arrival.digest, "action": arrival.action, "rows": arrival.batch.rows,
               "removes": arrival.removes}
    problem = send(PREFERENCES_ADDED, f"plumbline.batch.{arrival.digest[:16]}", payload)
    if problem is None:
        _mark(home, arrival)
    return problem


def _mark(home: Home, arrival: Arrival) -> None:
    """Note that a server has been told of an arrival: an empty file."""
    marks = home.folder / "announced"
    marks.mkdir(parents=True, exist_ok=True)
    (marks / arrival.digest[:NAME_DIGITS]).touch()


def _is_marked(home: Home, arrival: Arrival) -> bool:
    return (home.folder / "announced" / arrival.digest[:NAME_DIGITS]).exists()
