"""Show the progress of `plumbline run`, one line a stage: live bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from typing import cast

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from plumbline.progress import describe
from plumbline.project.run_record import Outcome
from plumbline.project.watcher import Report, Watcher

SHOWN_METRICS = 3
PLAIN_PAUSE = 10.0
MARKS = {"ran": "[green]ran[/]", "reused": "[cyan]reused[/]", "failed": "[red]failed[/]"}


class Bars(Watcher):
    """A live bar for each stage."""

    def __init__(self, console: Console) -> None:
        self.live = Progress(
            SpinnerColumn(finished_text=" "), TextColumn("{task.fields[stage]:<16}"), BarColumn(20),
            TextColumn("{task.fields[note]}", markup=True), console=console)
        self._tasks: dict[str, TaskID] = {}

    def started(self, stage: str) -> None:
        """Add the stage's line."""
        if stage not in self._tasks:
            self._tasks[stage] = self.live.add_task("", total=None, stage=stage, note="")

    def progress(self, stage: str, report: Report) -> None:
        """Move the bar."""
        step, total = cast(int, report["step"]), cast(int, report["total"])
        self.live.update(self._tasks[stage], completed=step, total=total, note=_text("", report).strip())

    def done(self, stage: str, outcome: Outcome) -> None:
        """Fill the bar and say what happened."""
        full = 0 if outcome.status == "failed" else 1
        reason = outcome.reason.splitlines()[0] if outcome.reason else ""
        self.live.update(self._tasks[stage], completed=full, total=1,
                         note=f"{MARKS[outcome.status]} {outcome.seconds:.1f} s  [dim]{_escape(reason)}[/]")

    def planned(self, stage: str, needs: str) -> None:
        """Print it above the bars."""
        self.live.console.print(f"[dim]{stage} {_escape(needs)}[/]", highlight=False, soft_wrap=True)

    def noticed(self, stage: str, finding: str) -> None:
        """Print it above the bars."""
        self.live.console.print(f"[yellow]{stage}:[/] {_escape(finding)}", highlight=False, soft_wrap=True)


class Lines(Watcher):
    """Plain lines, for logs: the start, now and then the progress, the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = 0.0

    def started(self, stage: str) -> None:  # noqa: ARG002
        """Say nothing yet: a reused stage needs one line only."""
        self._last = time.monotonic()

    def progress(self, stage: str, report: Report) -> None:
        """Print a report every ten seconds."""
        if time.monotonic() - self._last >= PLAIN_PAUSE:
            self._last = time.monotonic()
            self._print(_text(stage, report))

    def done(self, stage: str, outcome: Outcome) -> None:
        """Print what happened."""
        reason = outcome.reason.splitlines()[0] if outcome.reason else ""
        self._print(f"{stage} {outcome.status} in {outcome.seconds:.1f} s: {reason}")

    def planned(self, stage: str, needs: str) -> None:
        """Print it."""
        self._print(f"{stage} {needs}")

    def noticed(self, stage: str, finding: str) -> None:
        """Print it."""
        self._print(f"{stage}: {finding}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _text(stage: str, report: Report) -> str:
    metrics = cast(Mapping[str, float], report["metrics"])
    shown = dict(list(metrics.items())[:SHOWN_METRICS])
    return describe(stage, str(report["what"]), cast(int, report["step"]), cast(int, report["total"]),
                    cast(float | None, report["eta_s"]), shown)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
