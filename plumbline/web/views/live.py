"""What is going on in a run right now, from the files in its workspace: progress, and the end of a log.

Only the workspace's own `logs/` is read, and only under names of its stages.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from plumbline.history.history import Run

LAST_LINES = 200
LARGEST_TAIL = 256_000
"""Bytes that are read from the end of a log."""
LARGEST_REPORT = 8_000
UNPRINTABLE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class StageProgress:
    """How far the running stage of a run is."""

    stage: str
    what: str
    """The part of the stage; empty where it has one."""
    step: int
    total: int
    seconds_left: float | None
    metrics: dict[str, float]


def stage_progress(run: Run) -> StageProgress | None:
    """Return the newest report of the stage that is running, or None."""
    stage = next((step.stage for step in run.steps.values() if step.status == "running"), None)
    file = log_file(run, f"{stage}.progress.jsonl") if stage else None
    if file is None or stage is None:
        return None
    for line in reversed(_tail(file, LARGEST_REPORT)):
        try:
            report = json.loads(line)
        except json.JSONDecodeError:  # it is being written, or began before the piece that was read
            continue
        if isinstance(report, dict) and "total" in report:
            return StageProgress(stage, str(report["what"]), int(report["step"]), int(report["total"]),
                                 report["eta_s"],
                            dict(report["metrics"]))
    return None


def logs_of(run: Run) -> list[str]:
    """Return the stages whose log is on this machine."""
    return [stage for stage in run.steps if log_file(run, f"{stage}.log")]


def log_tail(run: Run, stage: str) -> list[str]:
    """Return the last lines of a stage's log, without codes for a terminal; none if there is no log."""
    file = log_file(run, f"{stage}.log") if stage in run.steps else None
    return [UNPRINTABLE.sub("", line) for line in _tail(file, LARGEST_TAIL)][-LAST_LINES:] if file else []


def log_file(run: Run, name: str) -> Path | None:
    """Return a file of the run's logs; None if it is missing or leads out of the workspace."""
    if run.folder is None or Path(name).name != name:
        return None
    file = run.folder / "logs" / name
    inside = file.resolve().is_relative_to(run.folder.resolve())
    return file if inside and file.is_file() else None


def _tail(file: Path, most: int) -> list[str]:
    """Return the lines in the last `most` bytes of a file."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - most))
            text = stream.read(most).decode("utf-8", "replace")
    except OSError:  # gone meanwhile
        return []
    lines = text.replace("\r\n", "\n").split("\n")
    whole = lines if size <= most else lines[1:]
    return whole[:-1] if whole and not whole[-1] else whole
