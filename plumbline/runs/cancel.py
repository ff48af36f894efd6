"""`plumbline cancel RUN`: end a run of this machine as Ctrl-C would, and leave nothing of it behind."""

import os
import signal
import socket
import time
from pathlib import Path

from plumbline.errors import UserError
from plumbline.notify.prefect_events import API_URL, call
from plumbline.project.flow_processes import flow_of
from plumbline.project.home import Home
from plumbline.project.run_record import RunRecord, Status, find_run, is_gone, raw_record
from plumbline.runs.dead_runs import mark_dead

ASKED_SECONDS = 30.0
"""Prefect's runner looks for cancelled runs every ten seconds."""
GRACE_SECONDS = 60.0


def cancel(home: Home, name: str) -> tuple[str, Status]:
    """End a run; returns its id and how it ended.

    A flow run of a Prefect server is cancelled there, so that the server knows. One whose server does not do it in time
    gets a signal; one that does not end on that is killed. Raises UserError for a run that is not going on, or that
    belongs to another machine.
    """
    folder = find_run(home, name)
    record = raw_record(folder)
    if record.status != "running":
        raise UserError(f"The run {record.id} is not going on: it is {record.status}.")
    if record.host != socket.gethostname():
        raise UserError(f"The run {record.id} belongs to {record.host}, and this is {socket.gethostname()}: cancel it "
                        "there, or on the page of its Prefect server.")
    if is_gone(record):
        mark_dead(home)
        return record.id, "killed"
    if _prefect_cancels(home, record) and _ended(folder, ASKED_SECONDS):
        return record.id, raw_record(folder).status
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not is_gone(record):
            os.kill(record.pid, number)
        if _ended(folder, GRACE_SECONDS):
            break
    mark_dead(home)
    return record.id, raw_record(folder).status


def _prefect_cancels(home: Home, record: RunRecord) -> bool:
    """Ask the Prefect server, if there is one that knows the run."""
    flow = flow_of(home, record.pid)
    if flow is None or API_URL not in os.environ:
        return False
    try:
        answer = call(f"flow_runs/{flow}/set_state", {"state": {"type": "CANCELLING"}})
    except OSError:
        return False
    return isinstance(answer, dict) and answer.get("status") == "ACCEPT"


def _ended(folder: Path, seconds: float) -> bool:
    """Whether the run's process ends in time. Its children end with it: they watch it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        record = raw_record(folder)
        if is_gone(record):
            return True
        time.sleep(0.2)
    return False
