"""What became of a stage: ran or reused, and why."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from plumbline.project.digests import listing
from plumbline.project.dvc_yaml import read_stage
from plumbline.project.run_record import Outcome, earlier_runs
from plumbline.runs.dvc_stage import LockEntry, lock_entry
from plumbline.runs.reasons import NOT_CACHED, why
from plumbline.runs.workspace import Workspace
from plumbline.tracking.receipts import read_receipt

COMPARED_RUNS = 20


def describe(workspace: Workspace, stage: str, why_run: str | None, seconds: float) -> Outcome:
    """The outcome of a stage that has just been done in a workspace; `why_run` where not DVC decided that it runs."""
    seconds = round(seconds, 2)
    now = lock_entry(workspace.folder, stage)
    assert now is not None, f"dvc.lock has no entry for {stage} although it has just been done"
    receipt = read_receipt(workspace.folder, read_stage(workspace.folder, stage))
    if receipt is None:
        return _resolved(workspace, stage, now, seconds)
    made = {"mlflow_run": receipt.mlflow_run, "made_by": receipt.pipeline_run}
    if receipt.pipeline_run != workspace.record.id:
        since = receipt.pipeline_run or "`dvc repro`"
        return Outcome(status="reused", seconds=seconds, reason=f"nothing changed since {since}", **made)
    if why_run:
        return Outcome(status="ran", seconds=seconds, reason=why_run, **made)
    folder, before = _last_time(workspace, stage) or (None, None)
    reason = why(now, before, lambda path: changed_files(workspace, folder, path) if folder else [])
    return Outcome(status="ran", seconds=seconds, reason=reason, **made)


def changed_files(workspace: Workspace, earlier: Path, path: str) -> list[str]:
    """The files in which the folder `path` differs between two workspaces; empty when it is no folder."""
    new, old = (listing(folder / path) if (folder / path).is_dir() else {} for folder in (workspace.folder, earlier))
    return sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))


def _last_time(workspace: Workspace, stage: str) -> tuple[Path, LockEntry] | None:
    """The newest earlier run that has done the stage."""
    return next(_times(workspace, stage), None)


def _times(workspace: Workspace, stage: str) -> Iterator[tuple[Path, LockEntry]]:
    for folder in earlier_runs(workspace.home, workspace.record.id):
        entry = lock_entry(folder, stage)
        if entry:
            yield folder, entry


def _resolved(workspace: Workspace, stage: str, now: LockEntry, seconds: float) -> Outcome:
    """A stage that only fixes the outside world always runs; what counts is whether the world was like this before."""
    earlier = _last_time(workspace, stage)
    for folder, before in itertools.islice(_times(workspace, stage), COMPARED_RUNS):
        if now.get("outs") == before.get("outs"):
            return Outcome(status="reused", seconds=seconds, reason=f"nothing changed since {folder.name}",
                           made_by=folder.name)
    reason = why(now, earlier[1], lambda _path: []) if earlier else "first run"
    return Outcome(status="ran", seconds=seconds, reason="other data or models than before"
                   if reason == NOT_CACHED else reason)
