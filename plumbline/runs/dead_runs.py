"""Runs that died without a word: killed with -9, by the kernel, or with the machine.

Nobody else can say that they ended, so the next run does, and `plumbline up` now and then.
"""

import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path

from plumbline.errors import UserError
from plumbline.project.home import RECORD_FILE, Home
from plumbline.project.run_record import RunRecord, is_gone, raw_record, run_folders
from plumbline.runs.run_files import RECORD
from plumbline.tracking.outbox import close
from plumbline.tracking.writes import File, Tags

KILLED = "Its process was gone without a word: killed, or the machine went down."


def mark_dead(home: Home) -> list[str]:
    """Mark the runs of this machine whose process is gone as killed, in run.json and in MLflow; returns their ids.

    Cheap when there is none, and safe to do from several processes at once.
    """
    marked = []
    for folder in run_folders(home):
        try:
            record = raw_record(folder)
        except UserError:  # a damaged one is for a person to look at: `plumbline runs` names it
            continue
        if record.status == "running" and is_gone(record):
            _mark(home, folder, record)
            marked.append(record.id)
    return marked


def _mark(home: Home, folder: Path, record: RunRecord) -> None:
    record.status, record.message, record.ended = "killed", KILLED, _last_sign(folder)
    record.save(folder)
    for run in _stage_runs(folder):
        close(home, run)
    if record.mlflow_run:
        close(home, record.mlflow_run, Tags(values={"status": "killed"}),
              File(path=folder / RECORD_FILE, folder=RECORD))


def _last_sign(folder: Path) -> str:
    """When a run last wrote something."""
    newest = max(file.stat().st_mtime for file in (folder / RECORD_FILE, *folder.glob("logs/*")))
    return datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds")


def _stage_runs(folder: Path) -> set[str]:
    """The MLflow runs that the run's stages have said they began."""
    said: set[str | None] = set()
    for file in folder.glob("logs/*.progress.jsonl"):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # a line that the kill cut off
                said.add(json.loads(line).get("mlflow_run"))
    return {run for run in said if run}
