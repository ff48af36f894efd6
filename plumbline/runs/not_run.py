"""Runs that did not take place, and why.

A run by the clock or by new preferences ends at once if there is too little to learn. What a person asks for,
from the command line or from Prefect's form, always runs.
"""

import contextlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.notify.notices import notify
from plumbline.notify.prefect_events import RUN_FAILED
from plumbline.project.flow_processes import note_flow
from plumbline.project.home import Home, enter, find_home
from plumbline.project.masking import masked
from plumbline.runs.workspace import Request
from plumbline.tracking.outbox import patiently
from plumbline.whole_file import write_whole

COMMAND_LINE = "command line"
BY_THE_CLOCK = "schedule"
BY_NEW_PREFERENCES = "new preferences"
FILE = "not_run.jsonl"
KEPT = 200


@dataclass(frozen=True)
class NotRun:
    """A run that ended before it began."""

    when: str
    """ISO 8601, UTC."""
    trigger: str
    reason: str
    times: int = 1
    """How often in a row, `when` being the last."""

    def __str__(self) -> str:
        """Return one line for a person."""
        times = f", {self.times} times in a row" if self.times > 1 else ""
        return f"{self.when}{times}, by {self.trigger}: {self.reason}"


def decide(request: Request) -> tuple[Request, str | None]:
    """Return the request, and the reason why it does not run, or None.

    The reason why a run takes place is added to the request's trigger; the other one is written down.
    """
    home = find_home()
    enter(home)
    note_flow(home)
    if request.trigger not in (BY_THE_CLOCK, BY_NEW_PREFERENCES):
        return request, None
    from plumbline.retraining.due import due  # imports numpy, and `plumbline runs` does not need it

    try:
        found = patiently(home, lambda: due(home))
    except UserError as error:
        could_not_start(home, request, error)
        raise
    if found.enough:
        return request.model_copy(update={"trigger": f"{request.trigger}: {found.why}"}), None
    _note(home, NotRun(datetime.now(UTC).isoformat(timespec="seconds"), request.trigger, found.why))
    return request, found.why


def could_not_start(home: Home, request: Request, error: UserError) -> None:
    """Write down and announce that a run failed before it had a folder of its own, unless a person sees the
    message.
    """
    if request.trigger == COMMAND_LINE:
        return
    message = masked(str(error))
    _note(home, NotRun(datetime.now(UTC).isoformat(timespec="seconds"), request.trigger, message))
    with contextlib.suppress(UserError):  # the parameters themselves may be what is wrong
        webhook = load_params(home.root).retrain.webhook
        payload = {"run": None, "status": "failed", "message": message, "trigger": request.trigger}
        notify(home, webhook, RUN_FAILED, "plumbline.run", payload)


def not_run(home: Home) -> list[NotRun]:
    """Return the latest runs that did not take place, newest first; a damaged line is left out."""
    try:
        lines = (home.folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in reversed(lines):
        with contextlib.suppress(ValueError, TypeError):
            found.append(NotRun(**json.loads(line)))
    return found


def _note(home: Home, new: NotRun) -> None:
    known = not_run(home)
    if known and (known[0].trigger, known[0].reason) == (new.trigger, new.reason):
        new = replace(new, times=known.pop(0).times + 1)
    text = "".join(json.dumps(asdict(one)) + "\n" for one in reversed([new, *known[:KEPT - 1]]))
    write_whole(home.folder / FILE, text)
