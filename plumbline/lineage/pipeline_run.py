"""One pass through the pipeline: its workspace, its MLflow parent run, and how it ended."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from plumbline.errors import after
from plumbline.lineage import tracking
from plumbline.lineage.home import enter, find_home
from plumbline.lineage.records import Status
from plumbline.lineage.workspace import Request, Workspace, create_workspace, resolve
from plumbline.preflight import preflight

MLFLOW_STATUS: dict[Status, tracking.RunStatus] = {"finished": "FINISHED", "cancelled": "KILLED", "failed": "FAILED"}
LONGEST_TAG = 1000
GATE = "reports/reward/gate.json"


@contextmanager
def pipeline_run(request: Request) -> Iterator[Workspace]:
    """Open a run; whatever ends it is written into its record and into MLflow."""
    home = find_home()
    enter(home)
    params = resolve(home, request)
    preflight(home, params)
    workspace = create_workspace(home, params, request)
    client = tracking.connect(home)
    parent = tracking.Recording(client, tracking.experiment(client, home), workspace.record.id, _tags(workspace))
    workspace.record.mlflow_run = parent.run_id
    workspace.record.save(workspace.folder)
    try:
        yield workspace
    except BaseException as error:
        cancelled = not isinstance(error, Exception)
        with after(error):
            _end(workspace, parent, "cancelled" if cancelled else "failed", str(error) or type(error).__name__)
        raise
    _end(workspace, parent, "finished", None)


def check_gate(workspace: Workspace) -> None:
    """Stop before PPO when the reward model is not good enough. Raises GateFailed with the reasons."""
    if workspace.complete:
        return
    from plumbline.evaluation.gate import require_passed

    require_passed(workspace.folder / GATE)


def _end(workspace: Workspace, parent: tracking.Recording, status: Status, message: str | None) -> None:
    record = workspace.record
    record.status, record.message = status, message
    record.ended = datetime.now(UTC).isoformat(timespec="seconds")
    record.save(workspace.folder)
    tags: dict[str, str] = {"status": status}
    for name, outcome in record.stages.items():
        tags |= {f"stage.{name}": outcome.status, f"stage.{name}.reason": outcome.reason[:LONGEST_TAG]}
        if outcome.mlflow_run:
            tags[f"stage.{name}.run"] = outcome.mlflow_run
    parent.tags(tags)
    parent.end(MLFLOW_STATUS[status])


def _tags(workspace: Workspace) -> dict[str, str]:
    record = workspace.record
    tags = {"plumbline.pipeline_run": record.id, "plumbline.trigger": record.trigger}
    if record.git_commit:
        tags |= {"mlflow.source.git.commit": record.git_commit, "git.dirty": str(record.git_dirty).lower()}
    return tags
