"""Notices of what became of a run: each is a file in the home until everybody who should know has taken it.

A receiver that is away is tried again later, for a day or so, and nothing is lost when this process ends
meanwhile. A notice keeps its id, so a receiver that gets it twice can tell.
"""

import contextlib
import json
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from plumbline.errors import UserError
from plumbline.notify.posting import post
from plumbline.notify.prefect_events import send
from plumbline.notify.webhook_signatures import ID, SIGNATURE, TIMESTAMP, sign
from plumbline.project.home import API_URL, Home
from plumbline.project.locks import try_lock
from plumbline.project.masking import masked_value
from plumbline.whole_file import write_whole

SECRET = "PLUMBLINE_WEBHOOK_SECRET"
PREFECT, WEBHOOK = "prefect", "webhook"
TIMEOUT_SECONDS = 10.0
PAUSES = (5, 30, 120, 600, 1800, 3600)
"""Seconds between attempts; the last one goes on."""
MOST_ATTEMPTS = 30
"""About a day."""


@dataclass(frozen=True)
class Notice:
    """An event, and the receivers that have not taken it yet."""

    id: str
    event: str
    when: str
    """ISO 8601, UTC."""
    resource: str
    payload: Mapping[str, object]
    to: tuple[str, ...]
    url: str | None = None
    attempts: int = 0
    next_attempt: float = 0.0
    """Unix time."""
    problem: str | None = None
    """Why the last attempt failed."""


def notify(home: Home, webhook: str | None, event: str, resource: str, payload: Mapping[str, object]) -> None:
    """Save a notice and try to deliver it at once. Never raises: a run must not fail because of a notice."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    to = tuple(name for name, known in ((PREFECT, os.environ.get(API_URL)), (WEBHOOK, webhook)) if known)
    notice = Notice(str(uuid.uuid4()), event, when, resource, payload, to, webhook)
    if not to:
        return
    with contextlib.suppress(OSError):  # the disk is full, and the run has said so
        _save(home, notice)
        deliver(home, only=notice.id)


def waiting(home: Home) -> list[Notice]:
    """Return the notices that a receiver has not taken, oldest first."""
    found = [notice for file in sorted(_folder(home).glob("*.json")) if (notice := _read(file))]
    return sorted(found, key=lambda notice: notice.when)


def deliver(home: Home, only: str | None = None) -> list[Notice]:
    """Deliver the notices that are due, or only the one with the id `only`. Returns the notices given up.

    Does nothing while another process delivers.
    """
    given_up: list[Notice] = []
    if not any(_folder(home).glob("*.json")):
        return given_up
    with try_lock(home.folder / "notices.lock") as free:
        for notice in waiting(home) if free else ():
            if only not in (None, notice.id) or notice.next_attempt > time.time():
                continue
            left = _attempt(notice)
            if left.to and left.attempts < MOST_ATTEMPTS:
                _save(home, left)
                continue
            _file(home, notice).unlink(missing_ok=True)
            if left.to:
                given_up.append(left)
    return given_up


def _attempt(notice: Notice) -> Notice:
    problems: dict[str, str] = {}
    for receiver in notice.to:
        problem = _to_prefect(notice) if receiver == PREFECT else _to_webhook(notice)
        if problem:
            problems[receiver] = problem
    pause = PAUSES[min(notice.attempts, len(PAUSES) - 1)]
    return replace(notice, to=tuple(problems), attempts=notice.attempts + 1, next_attempt=time.time() + pause,
                   problem="; ".join(problems.values()) or None)


def _to_prefect(notice: Notice) -> str | None:
    return send(notice.event, notice.resource, notice.payload, notice.id)


def _to_webhook(notice: Notice) -> str | None:
    content = {"id": notice.id, "type": notice.event, "timestamp": notice.when, "data": notice.payload}
    body = json.dumps(content, ensure_ascii=False).encode()
    now = str(int(time.time()))
    headers = {"Content-Type": "application/json", "User-Agent": "plumbline", ID: notice.id, TIMESTAMP: now}
    assert notice.url is not None
    try:
        if secret := os.environ.get(SECRET):
            headers[SIGNATURE] = sign(secret, notice.id, now, body)
        post(notice.url, body, headers, TIMEOUT_SECONDS)
    except (OSError, ValueError, UserError) as error:
        shown = masked_value(WEBHOOK, notice.url)
        return f"{shown} did not take it: {str(error).replace(notice.url, shown)}"
    return None


def _save(home: Home, notice: Notice) -> None:
    _folder(home).mkdir(parents=True, exist_ok=True)
    write_whole(_file(home, notice), json.dumps(asdict(notice)) + "\n")


def _read(file: Path) -> Notice | None:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Notice(**{**values, "to": tuple(values["to"])})
    except FileNotFoundError:  # another process has delivered it
        return None
    except (ValueError, KeyError, TypeError):  # damaged, or another version's
        file.rename(file.with_suffix(".broken"))
        return None


def _file(home: Home, notice: Notice) -> Path:
    return _folder(home) / f"{notice.id}.json"


def _folder(home: Home) -> Path:
    return home.folder / "notices"
