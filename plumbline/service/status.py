"""What `plumbline status` says: the parts, the run that is going on, what would start the next one, what
waits.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TypedDict

from plumbline.errors import UserError
from plumbline.project.home import Home
from plumbline.project.run_record import readable_records, run_folders
from plumbline.project.service_lock import key_file
from plumbline.retraining.due import Due, due
from plumbline.runs.not_run import NotRun, not_run
from plumbline.service.state import PartState, ServiceState, read_state

NEWEST_RUNS = 20


class Status(TypedDict):
    """The service, its runs, and what would start the next run."""

    up: bool
    service: ServiceState | None
    prefect_key: str | None
    """The file with the key that Prefect's pages ask for; None where their server is not one of the parts."""
    running: list[str]
    """Ids of the runs that are going on."""
    damaged: list[str]
    """What is wrong with the newest runs whose record cannot be read."""
    due: Due | str
    """Whether a run is due, or why that cannot be told now."""
    not_run: NotRun | None
    """The last run that did not take place."""


def describe(home: Home) -> Status:
    """Return the status of a project from its files, without asking a server."""
    state = read_state(home.folder)
    records, damaged = readable_records(run_folders(home)[-NEWEST_RUNS:])
    running = [record.id for record in records if record.status == "running"]
    has_prefect = state is not None and any(part.name == "prefect" for part in state.parts)
    return {"up": state is not None, "service": state,
            "prefect_key": str(key_file(home.folder)) if has_prefect else None, "running": running,
            "damaged": damaged, "due": _due(home),
            "not_run": next(iter(not_run(home)), None)}


def as_json(found: Status) -> Mapping[str, object]:
    """Return the status as values for JSON."""
    service, now, skipped = found["service"], found["due"], found["not_run"]
    return {**found,
            "service": asdict(service) if service else None,
            "due": now if isinstance(now, str) else asdict(now),
            "not_run": asdict(skipped) if skipped else None}


def lines(found: Status) -> Iterator[str]:
    """Yield the status as lines for a person."""
    if found["service"]:
        service = found["service"]
        yield f"Up since {service.started} as process {service.pid} on {service.host}."
        for part in found["service"].parts:
            yield _part(part)
        if found["prefect_key"]:
            yield f"Prefect's pages ask for a key: it is in {found['prefect_key']}."
    else:
        yield "Not up. `plumbline up` starts everything."
    for run in found["running"]:
        yield f"Running: {run}"
    yield from found["damaged"]
    now = found["due"]
    if isinstance(now, str):
        yield f"Whether a run is due cannot be told: {now}"
    else:
        yield f"A run {'is' if now.enough else 'is not'} due: {now.why}."
        if now.next_scheduled:
            yield f"The clock is next at {now.next_scheduled}."
    if found["not_run"]:
        yield f"Last run that did not take place: {found['not_run']}"


def _due(home: Home) -> Due | str:
    try:
        return due(home)
    except UserError as error:
        return str(error)


def _part(part: PartState) -> str:
    more = f"  restarted {part.restarts} times" if part.restarts else ""
    problem = f"  {part.problem}" if part.problem and part.status != "up" else ""
    return f"  {part.name:<8} {part.status:<9} {part.address or ''}{more}{problem}"
