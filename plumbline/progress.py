"""Progress reports of a stage.

A stage runs in a child process. It writes each report as one JSON line into the file that
`PLUMBLINE_PROGRESS` names; the flow follows that file and updates the progress bar, Prefect's log and its
progress artifact. If the variable is not set (plain `dvc repro`), the report is printed for a person.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

PROGRESS_FILE = "PLUMBLINE_PROGRESS"


class Progress:
    """Reports the steps of one stage, at most `per_second` times a second, and always the last one."""

    def __init__(self, stage: str, per_second: float = 4.0) -> None:
        self.stage = stage
        self._pause = 1.0 / per_second
        self._first: dict[str, tuple[float, int]] = {}
        self._last = 0.0
        file = os.environ.get(PROGRESS_FILE)
        self._file = Path(file) if file else None

    def __call__(
        self, step: int, total: int, metrics: Mapping[str, float] | None = None, what: str = ""
    ) -> None:
        """Report that `step` of `total` is done, in the part called `what`, with these metrics."""
        now = time.monotonic()
        began, first = self._first.setdefault(what, (now, step))
        if step < total and now - self._last < self._pause:
            return
        self._last = now
        eta = (now - began) / (step - first) * (total - step) if step > first else None
        shown = {name: float(value) for name, value in (metrics or {}).items()}
        if self._file:
            line = {"stage": self.stage, "what": what, "step": step, "total": total, "eta_s": eta,
                    "metrics": shown}
            with self._file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
        else:
            sys.stdout.write(describe(self.stage, what, step, total, eta, shown) + "\n")
            sys.stdout.flush()


def tell(line: Mapping[str, object]) -> None:
    """Write a line for the flow, if there is one: an error, a measurement, whatever is no report."""
    file = os.environ.get(PROGRESS_FILE)
    if file:
        with Path(file).open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")


def describe(
    stage: str, what: str, step: int, total: int, eta_s: float | None, metrics: Mapping[str, float]
) -> str:
    """Return a report as a line for a person: `ppo 12/60  reward 0.41  kl 2.3  (0:48 left)`."""
    parts = [f"{stage} {what}".strip() + f" {step}/{total}"]
    parts += [f"{name} {value:.3g}" for name, value in metrics.items()]
    if eta_s is not None and step < total:
        parts.append(f"({int(eta_s) // 60}:{int(eta_s) % 60:02d} left)")
    return "  ".join(parts)
