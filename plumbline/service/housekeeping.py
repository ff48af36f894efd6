"""What is looked after while the service is up, beside the deployments: in a thread of the worker.

Watched files, notices that a receiver did not take, runs whose process is gone, data that waits without a
run, and changes of params.yaml. Each duty may fail for a while, when a server is being started again; it is
said once.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plumbline.config import Params, load_params
from plumbline.data.arrive import announce_missed
from plumbline.errors import UserError
from plumbline.notify.notices import deliver, notify
from plumbline.notify.prefect_events import RUN_FAILED
from plumbline.project.flow_processes import any_died
from plumbline.project.home import Home
from plumbline.runs.announce import champion_changed
from plumbline.runs.cancel import mark_dead
from plumbline.service.flow_runs import mark_crashed, start_missing
from plumbline.service.watch_folder import Watch
from plumbline.tracking.outbox import deliver as deliver_records

LOOK_SECONDS = 1.0
ALIVE = "keeper"
"""A file in the home that is touched each time round: deploy/compose.yaml sees by it that the worker is
well.
"""
log = logging.getLogger("plumbline.service")


@dataclass
class Duty:
    """A task that is repeated every few seconds."""

    name: str
    every: float
    do: Callable[[], Sequence[str] | None]
    """Returns what is worth a line in the log."""
    due: float = 0.0
    problem: str = ""


class Housekeeping(threading.Thread):
    """Thread that performs the duties until the process ends."""

    def __init__(self, home: Home, params: Params, apply: Callable[[Params], None]) -> None:
        super().__init__(name="housekeeping", daemon=True)
        self._home, self._apply = home, apply
        self._written = _written(home)
        self._duties = self._plan(params)

    def run(self) -> None:
        """Perform the duties that are due, for ever."""
        while True:
            with contextlib.suppress(OSError):  # the disk is full
                (self._home.folder / ALIVE).touch()
            for duty in self._duties:
                if time.monotonic() >= duty.due:
                    perform(duty)
            time.sleep(min(LOOK_SECONDS, *(duty.every for duty in self._duties)))

    def _plan(self, params: Params) -> list[Duty]:
        home, chosen, model = self._home, params.retrain, params.promote.model_name
        duties = [
            Duty("runs whose process is gone", 10, lambda: mark_crashed(home) if any_died(home) else None),
            Duty("runs that never began", 120, lambda: mark_crashed(home)),
            Duty("runs that were killed", 15, lambda: _mark_dead(home, chosen.webhook)),
            Duty("records that MLflow missed", 30, lambda: _deliver_records(home)),
            Duty("events that were missed", 30, lambda: _missed(home)),
            Duty("data that waits", 30, lambda: start_missing(home, chosen.debounce_seconds)),
            Duty("notices", 5, lambda: _deliver(home)),
            Duty("the champion", 30, lambda: champion_changed(home, model, chosen.webhook)),
            Duty("params.yaml", 5, self._follow_params),
        ]
        if chosen.watched:
            watch = Watch(home, chosen.watched, chosen.settle_seconds)
            duties.append(Duty("watched files", min(5.0, max(chosen.settle_seconds / 2, 0.2)), watch.look))
        return duties

    def _follow_params(self) -> list[str]:
        """Apply changes of params.yaml; a faulty file raises UserError and changes nothing."""
        written = _written(self._home)
        if written == self._written:
            return []
        params = load_params(self._home.root)
        self._apply(params)
        self._duties, self._written = self._plan(params), written
        return ["params.yaml was changed: its block `retrain` holds from now on"]


def perform(duty: Duty) -> None:
    """Perform a duty. A problem is logged when it begins and when it changes, not each time."""
    problem = ""
    try:
        for line in duty.do() or ():
            log.warning("%s", line)
    except (UserError, OSError) as error:
        problem = str(error)
        if problem != duty.problem:
            log.warning("%s: %s", duty.name, problem)
    except Exception as error:
        problem = repr(error)
        if problem != duty.problem:
            log.exception("%s", duty.name)
    duty.problem = problem
    duty.due = time.monotonic() + duty.every


def _missed(home: Home) -> list[str]:
    if problem := announce_missed(home):
        raise UserError(problem)
    return []


def _deliver_records(home: Home) -> list[str]:
    deliver_records(home)
    return []


def _mark_dead(home: Home, webhook: str | None) -> list[str]:
    said = []
    for run in mark_dead(home):
        message = "The run's process is gone: it was killed, or the machine went down."
        payload = {"run": run, "status": "killed", "message": message}
        notify(home, webhook, RUN_FAILED, f"plumbline.run.{run}", payload)
        said.append(f"run {run} was killed")
    return said


def _deliver(home: Home) -> list[str]:
    return [f"gave up telling {', '.join(lost.to)} of {lost.event} ({lost.id}): {lost.problem}"
            for lost in deliver(home)]


def _written(home: Home) -> int:
    try:
        return (home.root / "params.yaml").stat().st_mtime_ns
    except FileNotFoundError:  # an editor is writing it
        return 0
