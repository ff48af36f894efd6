"""Run one stage as a child process, and leave nothing behind whatever happens.

The child leads a process group of its own, so that cancelling the flow, Ctrl-C or a timeout ends the whole
group: the shell and the program that it starts. What it prints goes to a log file; its progress file is
followed while it runs.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from plumbline.compute.rank import FLOW_PID
from plumbline.compute.settings import compute_of, path_of_stages
from plumbline.compute.start import STAGE_GRACE_SECONDS
from plumbline.errors import NO_SPACE, DiskFull, GateFailed, UserError
from plumbline.progress import PROGRESS_FILE
from plumbline.project.dvc_yaml import StageSpec
from plumbline.project.home import Home
from plumbline.project.processes import end_group
from plumbline.runs.stage_program import GIVEN
from plumbline.runs.stage_record import StageRecord
from plumbline.runs.stage_run import drop_scratch

GRACE_SECONDS = 5.0
LOOK_SECONDS = 0.1
LAST_LINES = 15

OnProgress = Callable[[Mapping[str, object]], None]
OnLine = Callable[[str], None]


class StageFailed(Exception):
    """A stage's program broke; the message has the last lines of its log."""

    def __init__(self, message: str, killed: bool) -> None:
        super().__init__(message)
        self.killed = killed
        """It ended without a word: killed, or out of memory. What raised an exception would raise it again.
        """


@dataclass
class Child:
    """A stage's command, as dvc.yaml has it, in a workspace."""

    home: Home
    folder: Path
    stage: StageSpec
    on_progress: OnProgress
    on_line: OnLine
    record: StageRecord | None = None
    """Where what the stage measures is recorded; None where the stage's own process does that."""
    mlflow_run: str | None = None
    host: dict[str, str] = field(default_factory=dict)
    scratch: Path | None = None
    """The folder with the resume checkpoints of a stage that has been done, until it is dropped."""
    error: UserError | None = None
    crashed: bool = False

    def run(self) -> None:
        """Run to the end. Raises UserError for what the user can put right, StageFailed for the rest."""
        self.open_files()
        here = compute_of(self.home.root, self.stage.name).here
        grace = GRACE_SECONDS if here else STAGE_GRACE_SECONDS
        with (self.log.open("a", encoding="utf-8") as out,
              self.log.open(encoding="utf-8", errors="replace") as lines,
              self.progress_file.open(encoding="utf-8") as progress):
            lines.seek(0, os.SEEK_END)
            command = f"set -e\n{self.stage.command}"
            process = subprocess.Popen(
                command, shell=True, cwd=self.folder, env=self._environment(), stdout=out,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
            try:
                while process.poll() is None:
                    self._follow(lines, progress)
                    time.sleep(LOOK_SECONDS)
            finally:
                end_group(process, grace)  # of one that was killed, too, what it had started is left
            self._follow(lines, progress)
        if process.returncode:
            raise self._problem(process.returncode)

    def drop_scratch(self) -> None:
        """Delete the resume checkpoints, once what the stage left is in the cache."""
        if self.scratch:
            drop_scratch(self.scratch)

    def open_files(self) -> None:
        """Make the files of the stage's run: its log, its reports, and what the flow gives to it."""
        self.log.parent.mkdir(exist_ok=True)
        self.log.touch()
        self.progress_file.write_text("", encoding="utf-8")
        if self.record:
            self._give(self.record)

    @property
    def log(self) -> Path:
        """The file with all that the stage printed."""
        return self.folder / "logs" / f"{self.stage.name}.log"

    @property
    def progress_file(self) -> Path:
        """The stage's reports, one JSON object a line."""
        return self.folder / "logs" / f"{self.stage.name}.progress.jsonl"

    @property
    def given_file(self) -> Path:
        """The digests and the run's id, for the stage's process."""
        return self.folder / "logs" / f"{self.stage.name}.given.json"

    def _environment(self) -> dict[str, str]:
        given = {GIVEN: str(self.given_file)} if self.record else {}
        return {**os.environ, **self.home.environment(), "PATH": path_of_stages(),
                "PYTHONPATH": str(self.folder), "PYTHONUNBUFFERED": "1",
                PROGRESS_FILE: str(self.progress_file), FLOW_PID: str(os.getpid()), **given}

    def _give(self, record: StageRecord) -> None:
        given = {"inputs": record.inputs, "code": record.code, "pipeline_run": record.pipeline_run}
        self.given_file.write_text(json.dumps(given), encoding="utf-8")
        # Whoever finds this run dead must know which of MLflow's runs to close.
        line = {"mlflow_run": record.recording.run_id, "outbox": record.recording.outbox}
        self.progress_file.write_text(json.dumps(line) + "\n", encoding="utf-8")

    def _follow(self, lines: TextIO, progress: TextIO) -> None:
        for line in _complete_lines(lines):
            self.on_line(line)
        for line in _complete_lines(progress):
            report = _parsed(line)
            if "error" in report:
                if not self.crashed:  # of several ranks, the first that failed has failed the stage
                    self.error = self.error or _as_error(report)
            elif "crashed" in report:
                self.crashed = True
            elif "mlflow_run" in report:
                self.mlflow_run = report["mlflow_run"]
            elif "host" in report:
                self.host = report["host"]
                self.scratch = Path(report["scratch"]) if report.get("scratch") else None
            elif self.record and "point" in report:
                self.record.recording.point(*report["point"])
            elif self.record and "tags" in report:
                self.record.recording.tags(report["tags"])
            elif report:
                self.on_progress(report)

    def _problem(self, code: int) -> Exception:
        if self.error:
            return self.error
        last = "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
        if any(text in last for text in NO_SPACE):
            return DiskFull(f"a file of stage `{self.stage.name}`")
        return StageFailed(f"Stage `{self.stage.name}` failed with exit status {code}. Its whole log is "
                           f"{self.log}; it ends with:\n{last}", killed=not self.crashed)


def _parsed(line: str) -> Mapping[str, Any]:
    """Return a line of the progress file; nothing for one that ranks on two machines wrote into at once."""
    try:
        report: Mapping[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return report


def _as_error(report: Mapping[str, Any]) -> UserError:
    kind = GateFailed if report["exit_code"] == GateFailed.exit_code else UserError
    return kind(report["error"])


def _complete_lines(stream: TextIO) -> list[str]:
    """Read the lines that are complete; the beginning of an unfinished one is read again later."""
    lines: list[str] = []
    while True:
        place = stream.tell()
        line = stream.readline()
        if not line.endswith("\n"):
            stream.seek(place)
            return lines
        lines.append(line.rstrip("\n"))
