"""The flow runs on the Prefect server: those whose process is gone are marked, and one that is missing is started.

A flow run that was killed stays `Running` in Prefect and holds the only slot for good. And an event can be lost between
a batch and its run, when a server is killed: what counts in the end is that data which waits gets its run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from plumbline.lineage.due import due
from plumbline.lineage.events import PREFERENCES_ADDED, call, send
from plumbline.lineage.flows import forget_flows, has_died
from plumbline.lineage.home import Home
from plumbline.preferences.batches import BATCH

FLOW = "retrain"
ACTIVE = ("PENDING", "RUNNING", "CANCELLING")
UNSEEN_SECONDS = 180.0
"""A flow run whose process has not come so far as to say that it runs it is given up after so long."""
PATIENCE_SECONDS = 60.0
"""So long after a batch, beyond the debounce, its run should be on its way."""
MOST_CRASHES = 3


@dataclass(frozen=True)
class FlowRun:
    """What the server says of one."""

    id: str
    state: str
    state_name: str
    since: datetime
    """When it came into its state."""
    expected: datetime
    """When it was, or is, to start."""
    by_the_clock: bool


def flow_runs(states: Sequence[str], limit: int = 50) -> list[FlowRun]:
    """The newest flow runs of the pipeline in these states. Raises OSError when the server does not answer."""
    found = call("flow_runs/filter", {"flows": {"name": {"any_": [FLOW]}}, "limit": limit,
                                      "sort": "EXPECTED_START_TIME_DESC",
                                      "flow_runs": {"state": {"type": {"any_": list(states)}}}})
    assert isinstance(found, list)
    return [FlowRun(run["id"], run["state"]["type"], run["state"]["name"], _time(run["state"]["timestamp"]),
                    _time(run["expected_start_time"] or run["state"]["timestamp"]), run["auto_scheduled"])
            for run in found]


def mark_crashed(home: Home) -> list[str]:
    """Mark flow runs whose process is gone as crashed, which frees their slot; what was marked, in lines."""
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
    """Send the event of new preferences again when data waits and no run is on its way; what was done, in lines.

    A run that failed or that a person cancelled is not repeated for the same data; one that was killed is, three times.
    """
    found = due(home)
    if not (found.enough and found.new_comparisons):
        return []
    newest = max((file.stat().st_mtime for file in home.preferences.arrived.glob(f"*/{BATCH}")), default=0.0)
    arrived = datetime.fromtimestamp(newest, UTC)
    if datetime.now(UTC) - arrived < timedelta(seconds=debounce_seconds + PATIENCE_SECONDS):
        return []
    if any(not (run.state == "SCHEDULED" and run.by_the_clock) for run in flow_runs(("SCHEDULED", *ACTIVE))):
        return []
    since = [run for run in flow_runs(("COMPLETED", "FAILED", "CANCELLED", "CRASHED"))
             if run.expected >= arrived and run.state_name != "Skipped"]
    crashes = sum(run.state == "CRASHED" for run in since)
    if any(run.state != "CRASHED" for run in since) or crashes >= MOST_CRASHES:
        return []
    problem = send(PREFERENCES_ADDED, "plumbline.waiting", {"why": found.why})
    return [] if problem else [f"no run was on its way although {found.why}: asked for one again"]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
