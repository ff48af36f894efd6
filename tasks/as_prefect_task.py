"""The Prefect side of a stage: name, version, retries, time limit, logs and progress."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast
from uuid import UUID

import httpx
from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger

from plumbline.config import Params
from plumbline.errors import UserError, after
from plumbline.notify.prefect_events import unreachable
from plumbline.project.digests import digests
from plumbline.project.dvc_yaml import JOIN, StageSpec, stage_params, version_of
from plumbline.project.home import API_URL
from plumbline.project.run_record import Outcome
from plumbline.project.watcher import Watcher, watcher
from plumbline.runs import dvc_stage
from plumbline.runs.outcome import describe
from plumbline.runs.retry import OtherVersionParams, take_outputs
from plumbline.runs.stage_process import Child, StageFailed
from plumbline.runs.stage_program import run_in_this_process, run_unrecorded
from plumbline.runs.stage_record import StageRecord
from plumbline.runs.workspace import Workspace
from plumbline.tracking.curves import findings
from plumbline.tracking.outbox import close

if TYPE_CHECKING:
    from tasks.stage import Stage

RETRY_SECONDS = 5
RECORDED_HERE = ("plumbline/runs/stage_record.py", "plumbline/lineage/stage_record.py")
"""Code of a run that leaves its recording to the flow has one of these files."""
ARTIFACT_SECONDS = 2.0
HERE = Path(__file__).parents[1]
"""Where the code of this process comes from."""


def run_as_task(stage: "Stage", workspace: Workspace) -> None:
    """Run one stage of a run, as a task of the flow that is running.

    Nothing happens for a stage that the run's dvc.yaml does not have: its code is of a version without it.
    """
    if stage.name not in workspace.stages:
        return
    spec = workspace.stages[stage.name]
    version = version_of(stage_params(workspace.params, spec)) if spec.receipt else None

    def reproduce_stage() -> None:
        _reproduce(stage, workspace)

    run = task(
        name=stage.name,
        version=version,
        retries=stage.retries,
        retry_delay_seconds=RETRY_SECONDS,
        retry_condition_fn=_worth_retrying,
        timeout_seconds=stage.timeout_minutes * 60,
        cache_policy=NO_CACHE,
        persist_result=False,
    )(reproduce_stage)
    try:
        run()
    except TimeoutError as error:
        file = f"tasks/{stage.name.partition(JOIN)[0]}.py"
        raise StageFailed(f"Stage `{stage.name}` was stopped after {stage.timeout_minutes:g} minutes, its "
                          f"limit in {file}; its log is {workspace.folder / 'logs' / stage.name}.log. Make "
                          "the stage shorter, or raise the limit there, then `plumbline retry "
                          f"{workspace.record.id}`: with the code of before it goes on from its checkpoint, "
                          "where a new run would begin it anew.", killed=False) from error


def _worth_retrying(_task: object, _run: TaskRun, state: State[None]) -> bool:
    # The same program on the same inputs would raise the same exception again; what was killed may get
    # through.
    problem = state.result(raise_on_failure=False)
    return isinstance(problem, StageFailed) and problem.killed


def _reproduce(stage: "Stage", workspace: Workspace) -> None:
    log, started = get_run_logger(), time.monotonic()
    watching = watcher.get()
    watching.started(stage.name)
    child = Child(workspace.home, workspace.folder, workspace.stages[stage.name],
                  on_progress=_follow(stage.name, watching), on_line=log.info)
    try:
        why = _do(stage, workspace, child)
    except BaseException as error:
        outcome = Outcome(status="failed", seconds=round(time.monotonic() - started, 2),
                          reason=str(error) or f"stopped: {type(error).__name__}",
                          mlflow_run=child.mlflow_run)
        watching.done(stage.name, outcome)
        with after(error):
            workspace.done(stage.name, outcome)
            if child.mlflow_run and not child.record:
                close(workspace.home, child.mlflow_run)
        raise
    outcome = describe(workspace, stage.name, why, time.monotonic() - started)
    workspace.done(stage.name, outcome)
    watching.done(stage.name, outcome)
    log.info("%s %s in %.1f s: %s", stage.name, outcome.status, outcome.seconds, outcome.reason)
    for finding in findings(workspace.folder).get(stage.name, ()) if outcome.status == "ran" else ():
        log.warning("%s: %s", stage.name, finding)
        watching.noticed(stage.name, str(finding))


def _do(stage: "Stage", workspace: Workspace, child: Child) -> str | None:
    """Do the stage, or restore it; return the reason if something other than DVC decided that it must run."""
    folder, name, why = workspace.folder, stage.name, None
    if stage.resolver:
        if not (stage.kept_by_retry and workspace.record.retry_of and take_outputs(workspace, name)):
            run_unrecorded(folder, workspace.home, workspace.stages[name], _params_here(workspace),
                           stage.program)
        elif stage.check_kept:
            stage.check_kept(workspace)
    else:
        if name in workspace.record.force:
            why = "forced"
        elif dvc_stage.restore(folder, name):
            if not stage.still_done or stage.still_done(workspace):
                return None
            why = "what it had done outside of its files no longer holds"
        dvc_stage.clear(folder, name)
        _run(stage, workspace, child)
    dvc_stage.commit(folder, name)
    child.drop_scratch()
    return why


def _run(stage: "Stage", workspace: Workspace, child: Child) -> None:
    """Run the stage and record it: in a child process, which may be of a time when stages recorded
    themselves, or in this one.
    """
    if not any((workspace.folder / file).exists() for file in RECORDED_HERE):
        child.run()  # a retry of a run whose code still records by itself
        return
    record = StageRecord(workspace.home, workspace.folder, workspace.stages, child.stage.name,
                         workspace.params)
    child.record = record
    try:
        if stage.in_flow and code_is_here(workspace, child.stage):
            child.open_files()
            child.mlflow_run = record.recording.run_id
            run_in_this_process(record, workspace.folder, workspace.home, child.stage,
                                _params_here(workspace), stage.program)
        else:
            child.run()
            record.complete(child.host)
    except BaseException as error:
        broke = isinstance(error, Exception) and not (isinstance(error, StageFailed) and error.killed)
        with after(error):
            record.recording.end("FAILED" if broke else "KILLED")
        raise


def code_is_here(workspace: Workspace, stage: StageSpec) -> bool:
    """Return whether this process has the code that the workspace has for a stage.

    A retry brings that of the run before, and records it: a rule of promotion that has changed since must not
    decide in its place.
    """
    if not workspace.record.retry_of:
        return True
    try:
        return digests(HERE, stage.code) == digests(workspace.folder, stage.code)
    except (OSError, UserError):  # a file that one of them does not have
        return False


def _params_here(workspace: Workspace) -> Params:
    """Return the parameters for a stage that runs in this process, whose code is of this version."""
    params = workspace.params
    return params.completed(workspace.home.root) if isinstance(params, OtherVersionParams) else params


def _follow(stage: str, watching: Watcher) -> Callable[[Mapping[str, object]], None]:
    """Pass each report on to the watcher, and now and then to a progress artifact of Prefect."""
    artifact: UUID | None = None
    last = 0.0

    def follow(report: Mapping[str, object]) -> None:
        nonlocal artifact, last
        watching.progress(stage, report)
        step, total = cast(int, report["step"]), cast(int, report["total"])
        if time.monotonic() - last < ARTIFACT_SECONDS and step < total:
            return
        last, percent = time.monotonic(), 100.0 * step / max(total, 1)
        # A server that is away costs the progress, not the stage: Prefect's client would try for minutes.
        if (url := os.environ.get(API_URL)) and unreachable(url):
            return
        with contextlib.suppress(httpx.HTTPError):
            if artifact is None:
                # Prefect's keys hold lower-case letters, digits and dashes only.
                key = stage.replace("_", "-").replace(JOIN, "-")
                artifact = cast(UUID, create_progress_artifact(percent, key=key, description=stage))
            else:
                update_progress_artifact(artifact, percent)

    return follow
