"""End runs that should not go on, and close the records of those that died.

`plumbline cancel RUN` ends a run of this machine as Ctrl-C would. A run that was killed with -9, by the
kernel or with the machine could not write down its own end; the next run does it, and `plumbline up` now and
then.
"""

import contextlib
import json
import os
import signal
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

from plumbline.errors import UserError
from plumbline.notify.prefect_events import call
from plumbline.project.flow_processes import flow_of
from plumbline.project.home import API_URL, RECORD_FILE, Home
from plumbline.project.run_record import RunRecord, Status, find_run, is_gone, raw_record, run_folders
from plumbline.runs.run_files import RECORD, recorded
from plumbline.tracking.outbox import close
from plumbline.tracking.store import MlflowStore, asking_mlflow
from plumbline.tracking.writes import PARENT, LogFile, SetTags

ASKED_SECONDS = 30.0
"""Prefect's runner looks for cancelled runs every ten seconds."""
GRACE_SECONDS = 60.0
UNKNOWN = "RESOURCE_DOES_NOT_EXIST"
"""What MLflow says of a run that it does not know."""
KILLED = "Its process was gone without a word: killed, or the machine went down."


def cancel(home: Home, name: str, gone: bool = False) -> tuple[str, Status]:
    """End a run; return its id and how it ended.

    With `gone`, a run of another machine is marked as killed, be it in `runs/` or known to MLflow alone: only
    a person knows that a container, a pod or a machine of that name will not come back.

    A flow run of a Prefect server is cancelled there, so that the server knows. If the server does not end it
    in time, the process gets a signal; if that is not enough, it is killed. Raises UserError for a run that
    is not going on, or that belongs to another machine.
    """
    if gone and not _is_here(home, name):
        with recorded(home, name, begun=False) as found:
            _close_gone(home, found.folder, found.record)
            return found.record.id, "killed"
    folder = find_run(home, name)
    record = raw_record(folder)
    _require_going_on(record)
    if record.host != socket.gethostname():
        if gone:
            _close_gone(home, folder, record)
            return record.id, "killed"
        raise UserError(f"The run {record.id} belongs to {record.host}, and this is {socket.gethostname()}: "
                        "cancel it there, or on the page of its Prefect server. If that machine or container "
                        f"is gone for good, `plumbline cancel {record.id} --gone` closes the run.")
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


def mark_dead(home: Home) -> list[str]:
    """Mark the runs of this machine whose process is gone as killed, in run.json and in MLflow; return their
    ids.

    Cheap when there is none, and safe to do from several processes at once.
    """
    marked = []
    for folder in run_folders(home):
        with contextlib.suppress(FileNotFoundError):  # gc deletes it at this moment
            try:
                record = raw_record(folder)
            except UserError:  # a damaged one is for a person to look at: `plumbline runs` names it
                continue
            if record.status == "running" and is_gone(record):
                _mark(home, folder, record)
                marked.append(record.id)
    return marked


def _is_here(home: Home, name: str) -> bool:
    try:
        find_run(home, name)
    except UserError:
        return False
    return True


def _require_going_on(record: RunRecord) -> None:
    if record.status != "running":
        raise UserError(f"The run {record.id} is not going on: it is {record.status}.")


def _close_gone(home: Home, folder: Path, record: RunRecord) -> None:
    """Mark a run of another machine as killed. Raises UserError if it has ended, or MLflow does not say."""
    _require_going_on(record)
    with asking_mlflow(home, ", so nobody knows whether the run has ended. Nothing was changed."):
        status, stages = _known_to_mlflow(home, record)
    if status not in (None, "RUNNING"):
        raise UserError(f"The run {record.id} has ended on {record.host}: MLflow says {status}. If it is in "
                        f"{home.runs}, delete it there; `plumbline restore {record.id}` brings it back as it "
                        "ended.")
    _mark(home, folder, record)
    for stage in stages:  # those that it had begun, where its logs are not here
        close(home, stage)


def _known_to_mlflow(home: Home, record: RunRecord) -> tuple[str | None, list[str]]:
    """Return the status that MLflow has of a run, None for one that it does not know, and the runs of its
    stages that have not ended.
    """
    from mlflow.exceptions import MlflowException

    store = MlflowStore(home)
    run = store.find(record.outbox or record.mlflow_run) if record.mlflow_run else None
    if run is None:
        return None, []
    try:
        status = store.client.get_run(run).info.status
    except MlflowException as error:
        if error.error_code != UNKNOWN:
            raise
        return None, []
    stages = store.client.search_runs([store.experiment], f"tags.`{PARENT}` = '{run}' AND status = 'RUNNING'")
    return status, [stage.info.run_id for stage in stages]


def _prefect_cancels(home: Home, record: RunRecord) -> bool:
    """Ask the Prefect server of the run to cancel it; True if there is one, and it accepts."""
    flow = flow_of(home, record.pid)
    if flow is None or not os.environ.get(API_URL):
        return False
    try:
        answer = call(f"flow_runs/{flow}/set_state", {"state": {"type": "CANCELLING"}})
    except OSError:
        return False
    return isinstance(answer, dict) and answer.get("status") == "ACCEPT"


def _ended(folder: Path, seconds: float) -> bool:
    """Wait for the end of a run's process, and so of its children, which watch it; True if it comes in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if is_gone(raw_record(folder)):
            return True
        time.sleep(0.2)
    return False


def _mark(home: Home, folder: Path, record: RunRecord) -> None:
    """Record a run as killed, in its folder and in MLflow."""
    record.status, record.message, record.ended = "killed", KILLED, _last_sign(folder)
    record.save(folder)
    for outbox in _stage_outboxes(folder):
        close(home, outbox)
    if record.mlflow_run:
        close(home, record.outbox or record.mlflow_run, SetTags(values={"status": "killed"}),
              LogFile(path=folder / RECORD_FILE, folder=RECORD))


def _last_sign(folder: Path) -> str:
    """Return when a run last wrote to its record or its logs, ISO 8601 in UTC."""
    newest = max(file.stat().st_mtime for file in (folder / RECORD_FILE, *folder.glob("logs/*")))
    return datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds")


def _stage_outboxes(folder: Path) -> set[str]:
    """Return the outboxes of the MLflow runs that the run's stages have begun; as older code leaves them,
    MLflow's ids of these.
    """
    found: set[str] = set()
    for file in folder.glob("logs/*.progress.jsonl"):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # a line that the kill cut off
                report = json.loads(line)
                if outbox := report.get("outbox") or report.get("mlflow_run"):
                    found.add(outbox)
    return found
