"""The flow runs on the Prefect server: those whose process is gone are marked, and one that is missing is
started.

A flow run that was killed stays `Running` in Prefect and holds the only slot for good. And an event can be
lost between a batch and its run, when a server is killed: what counts in the end is that data which waits
gets its run.
"""

import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from plumbline.errors import UserError
from plumbline.notify.prefect_events import call
from plumbline.preferences.batches.batch import BATCH
from plumbline.project.flow_processes import forget_flows, has_died
from plumbline.project.home import API_URL, Home
from plumbline.project.masking import masked
from plumbline.retraining.due import due
from plumbline.runs.not_run import BY_NEW_PREFERENCES
from plumbline.whole_file import write_whole

FLOW, DEPLOYMENT = "retrain", "always-on"
CHECKOUT = "checkout"
"""The file with a checkout's mark, and the beginning of its deployment's tag."""
OF_A_CHECKOUT = re.compile(rf"{CHECKOUT}:(?P<mark>[0-9a-f]+):(?P<root>.*)")
ACTIVE = ("PENDING", "RUNNING", "CANCELLING")
UNSEEN_SECONDS = 180.0
"""A flow run that no process has noted as its own is given up after this time."""
PATIENCE_SECONDS = 60.0
"""Time after a batch, beyond the debounce, within which its run must have been asked for."""
MOST_CRASHES = 3


@dataclass(frozen=True)
class FlowRun:
    """A flow run as Prefect's server describes it."""

    id: str
    state: str
    state_name: str
    since: datetime
    """When it came into its state."""
    expected: datetime
    """When it was, or is, to start."""
    by_the_clock: bool


def checkout_tag(home: Home) -> str:
    """Return the tag of this checkout's deployment; its mark stays the same where the folder is moved."""
    file = home.folder / CHECKOUT
    if not file.exists():
        write_whole(file, secrets.token_hex(8))
    return f"{CHECKOUT}:{file.read_text(encoding='utf-8')}:{home.root}"


def require_own_deployment(home: Home) -> None:
    """Raise UserError if the deployment on the server is another checkout's: two that share one would do each
    other's runs, and mark them as crashed.

    One without a tag, as earlier versions made them, is taken over. Raises OSError if the server does not
    answer.
    """
    mark = checkout_tag(home).split(":")[1]
    for tag in (str(tag) for one in _deployed() for tag in one["tags"]):
        found = OF_A_CHECKOUT.fullmatch(tag)
        if found and found["mark"] != mark:
            raise UserError(f"The Prefect server at {masked(os.environ[API_URL])} has the deployment "
                            f"{FLOW}/{DEPLOYMENT} of another checkout, {found['root']}, and both would take "
                            f"each other's runs. Give this one a server of its own: unset {API_URL}, or set "
                            "it to another address. If the other checkout is used no more: `prefect "
                            f"deployment delete {FLOW}/{DEPLOYMENT}`.")


def _deployed() -> list[dict[str, Any]]:
    """Return the deployment as the server describes it, if it is there. Raises OSError."""
    found = call("deployments/filter", {"flows": {"name": {"any_": [FLOW]}},
                                        "deployments": {"name": {"any_": [DEPLOYMENT]}}})
    assert isinstance(found, list)
    return found


def flow_runs(states: Sequence[str], limit: int = 50) -> list[FlowRun]:
    """Return the newest flow runs of the pipeline in these states.

    Raises OSError if the server does not answer.
    """
    found = call("flow_runs/filter", {"flows": {"name": {"any_": [FLOW]}}, "limit": limit,
                                      "sort": "EXPECTED_START_TIME_DESC",
                                      "flow_runs": {"state": {"type": {"any_": list(states)}}}})
    assert isinstance(found, list)
    return [FlowRun(run["id"], run["state"]["type"], run["state"]["name"], _time(run["state"]["timestamp"]),
                    _time(run["expected_start_time"] or run["state"]["timestamp"]), run["auto_scheduled"])
            for run in found]


def mark_crashed(home: Home) -> list[str]:
    """Mark flow runs whose process has ended as crashed, which frees their slot. Returns a line for each."""
    active, said = flow_runs(ACTIVE), []
    for run in active:
        age = (datetime.now(UTC) - run.since).total_seconds()
        died = has_died(home, run.id)
        if died or (died is None and run.state == "PENDING" and age > UNSEEN_SECONDS):
            message = "Its process is gone. `plumbline up` found it and gave its place to the next run."
            call(f"flow_runs/{run.id}/set_state",
                 {"state": {"type": "CRASHED", "name": "Crashed", "message": message}, "force": True})
            said.append(f"flow run {run.id} was {run.state_name}, but its process is gone: marked as crashed")
    forget_flows(home, {run.id for run in active})
    return said


def start_missing(home: Home, debounce_seconds: float) -> list[str]:
    """Start a run if what arrived makes one due and no run is on its way, as when an event was lost.

    A run that failed or that a person cancelled is not repeated for the same data; one that was killed is,
    three times. Returns a line for each run that was asked for.
    """
    found = due(home)
    batches = list(home.preferences.arrived.glob(f"*/{BATCH}"))
    if not found.enough or not batches:  # without an arrival there was no event
        return []
    # The event of the newest batch has this long to start a run by itself.
    arrived = datetime.fromtimestamp(max(file.stat().st_mtime for file in batches), UTC)
    patience = timedelta(seconds=debounce_seconds + PATIENCE_SECONDS)
    age = datetime.now(UTC) - arrived
    if timedelta() <= age < patience:  # a batch from the future counts as old: the clock went back
        return []
    # A run of the clock is no answer to the batch: it may be days away.
    planned = flow_runs(("SCHEDULED", *ACTIVE))
    if any(run.state != "SCHEDULED" or not run.by_the_clock for run in planned):
        return []
    # Runs since then have seen the data; only those that were killed are repeated.
    arrived = min(arrived, datetime.now(UTC) - patience)
    since = [run for run in flow_runs(("COMPLETED", "FAILED", "CANCELLED", "CRASHED"))
             if run.expected >= arrived and run.state_name != "Skipped"]
    if any(run.state != "CRASHED" for run in since) or len(since) >= MOST_CRASHES:
        return []
    deployed = _deployed()
    parameters = {"request": {"trigger": BY_NEW_PREFERENCES}}
    for one in deployed:
        call(f"deployments/{one['id']}/create_flow_run", {"parameters": parameters})
    return [f"no run was on its way although {found.why}: asked for one" for _ in deployed]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
