"""What `plumbline up` says of itself, for other commands, the pages and a second `plumbline up`."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from plumbline.project.service_lock import STATE, is_up, service_folder
from plumbline.whole_file import write_whole

PartStatus = Literal["waiting", "starting", "up", "failing", "stopped"]
"""A part that is `waiting` has no process: it is to be started, for the first time or because it died. One
that died again and again is `failing` instead.
"""


@dataclass
class PartState:
    """One part of the service."""

    name: str
    address: str | None = None
    pid: int | None = None
    status: PartStatus = "waiting"
    since: str = ""
    """When it came into this status: ISO 8601, UTC."""
    restarts: int = 0
    problem: str | None = None
    """What was last wrong with it, in a line."""
    log: str = ""


@dataclass
class ServiceState:
    """A `plumbline up` and its parts."""

    pid: int
    host: str
    started: str
    parts: list[PartState] = field(default_factory=list)

    def save(self, home: Path) -> None:
        """Write the state for other processes, whole or not at all."""
        write_whole(service_folder(home) / STATE, json.dumps(asdict(self), indent=1) + "\n")


def read_state(home: Path) -> ServiceState | None:
    """Return the state of the running `plumbline up`; None if none is running or it has not written one
    yet.
    """
    if not is_up(home):
        return None
    try:
        values = json.loads((service_folder(home) / STATE).read_text(encoding="utf-8"))
        return ServiceState(**{**values, "parts": [PartState(**part) for part in values["parts"]]})
    except (OSError, ValueError, KeyError, TypeError):  # not there yet, or damaged: the next change mends it
        return None


def forget_state(home: Path) -> None:
    """Delete the state of an earlier `plumbline up`."""
    (service_folder(home) / STATE).unlink(missing_ok=True)
