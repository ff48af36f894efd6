"""The flow runs on the Prefect server: those whose process is gone are marked, and one that is missing is
started.

A flow run that was killed stays `Running` in Prefect and holds the only slot for good. And an event can be
lost between a batch and its run, when a server is killed: what counts in the end is that data which waits
gets its run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from plumbline.notify.prefect_events import call
from plumbline.preferences.batches.batch import BATCH
from plumbline.project.flow_processes import forget_flows, has_died
from plumbline.project.home import Home
from plumbline.retraining.due import due
from plumbline.runs.not_run import BY_NEW_PREFERENCES

FLOW, DEPLOYMENT = "retrain", "always-on"
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
    deployed = call("deployments/filter", {"deployments": {"name": {"any_": [DEPLOYMENT]}}})
    assert isinstance(deployed, list)
    parameters = {"request": {"trigger": BY_NEW_PREFERENCES}}
    for one in deployed:
        call(f"deployments/{one['id']}/create_flow_run", {"parameters": parameters})
    return [f"no run was on its way although {found.why}: asked for one" for _ in deployed]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
