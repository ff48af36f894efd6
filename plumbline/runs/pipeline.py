"""One pass through the pipeline: its workspace, its MLflow parent run, and how it ended."""

import difflib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from plumbline.config import METHODS, Params, load_params
from plumbline.errors import UserError, after
from plumbline.evaluation.judging.names import SECOND, kind_of_judge
from plumbline.preferences.batches.manifest import read_manifest
from plumbline.project.dvc_yaml import JOIN, LOCK, read_stages
from plumbline.project.home import COMPARISON, RECORD_FILE, Home, enter, find_home
from plumbline.project.locks import gc_waits
from plumbline.project.masking import masked
from plumbline.project.run_record import Outcome, Status
from plumbline.runs.announce import run_ended
from plumbline.runs.cancel import mark_dead
from plumbline.runs.not_run import could_not_start
from plumbline.runs.preflight import preflight, require_base_unchanged
from plumbline.runs.retry import OtherVersionParams, params_of, take_code
from plumbline.runs.run_files import CODE_ARCHIVE, RECORD, pack_code
from plumbline.runs.workspace import Request, Workspace, copy_checkout, create_workspace
from plumbline.tracking.outbox import deliver
from plumbline.tracking.receipts import read_receipt
from plumbline.tracking.recording import TAG_JOIN, TRIGGER, Recording
from plumbline.tracking.store import prepare
from plumbline.tracking.writes import RunStatus

MLFLOW_STATUS: dict[Status, RunStatus] = {"finished": "FINISHED", "cancelled": "KILLED", "failed": "FAILED"}
LONGEST_TAG = 1000
GATE = "reports/reward/gate.json"
FOR_THE_JUDGE = "data/prepared/preferences/judge.jsonl"
ASKED_FOR = (RECORD_FILE, "params.yaml", "dvc.yaml")
CHANGING = (RECORD_FILE, LOCK)
MANIFEST = "data/snapshot/manifest.json"


@contextmanager
def pipeline_run(request: Request) -> Iterator[Workspace]:
    """Open a run; whatever ends it is written into its record and into MLflow. Raises UserError before it
    begins.
    """
    home = find_home()
    enter(home)
    try:
        params = resolve(home, request)
        if not isinstance(params, OtherVersionParams):  # otherwise the version that made the run has looked
            preflight(home, params)
            require_base_unchanged(home, params, request)
        prepare(home)
        deliver(home)
        mark_dead(home)
        workspace, parent = _begin(home, params, request)
    except UserError as error:
        could_not_start(home, request, error)
        raise
    workspace = replace(workspace, after_stage=partial(_record, workspace, parent))
    try:
        yield workspace
    except BaseException as error:
        cancelled = not isinstance(error, Exception)
        with after(error):
            message = str(error) or type(error).__name__
            _end(workspace, parent, "cancelled" if cancelled else "failed", message)
        run_ended(workspace, error)
        raise
    _end(workspace, parent, "finished", None)
    run_ended(workspace, None)


def resolve(home: Home, request: Request) -> Params:
    """Return the parameters of a request. Raises UserError for a wrong parameter, stage or candidate."""
    if request.retry_of:
        params = params_of(home, request.retry_of, own_code=not request.new_code)
    else:
        file = home.root / request.params_file if request.params_file else None
        params = load_params(home.root, file, request.settings)
        params = params.model_copy(update={"compare": _blocks(params, request.compare)})
    known = list(read_stages(home.root, params.model_dump()))
    wanted = [("--until", request.until)] if request.until else []
    for option, name in [*wanted, *(("--force", name) for name in request.force)]:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise UserError(f"{option} {name}: there is no such stage.{hint} The stages are "
                            f"{', '.join(known)}.")
    return params


def _blocks(params: Params, names: list[str]) -> dict[str, str]:
    """Return the block of each candidate. Raises UserError for a name that is none."""
    for name in names:
        if name not in params.candidates:
            raise UserError(f"There is no candidate `{name}`; `candidates` of params.yaml has "
                            f"{', '.join(params.candidates) or 'none'}. Add one to the file, or with "
                            f"--set candidates.{name}='{{method: ppo, kl_coef: 0.02}}'.")
    return {name: METHODS[params.candidates[name]["method"]][0] for name in names}


def open_workspace(home: Home, params: Params, request: Request) -> Workspace:
    """Make the workspace of a run, with the code of the checkout or of the run that is retried."""
    if request.retry_of and not request.new_code:
        return create_workspace(home, params, request, partial(take_code, home, request.retry_of))
    return create_workspace(home, params, request, partial(copy_checkout, home.root))


def _begin(home: Home, params: Params, request: Request) -> tuple[Workspace, Recording]:
    """Make the workspace and the MLflow run; after an error there is no workspace: the run has not begun."""
    with gc_waits(home.folder):  # gc must know of the run, or be done
        workspace = open_workspace(home, params, request)
    try:
        parent = Recording(home, workspace.record.id, _tags(workspace))
        workspace.record.mlflow_run, workspace.record.outbox = parent.run_id, parent.outbox
        workspace.record.save(workspace.folder)
        _upload(workspace, parent, *ASKED_FOR)
        if workspace.record.git_dirty is not False:
            _upload_code(workspace, parent)
    except BaseException:
        shutil.rmtree(workspace.folder, ignore_errors=True)
        raise
    return workspace, parent


def check_judges(workspace: Workspace) -> None:
    """Stop before anything is trained if no preference was kept for the second reward model, and it is to
    judge. Raises UserError.
    """
    kept, params = workspace.folder / FOR_THE_JUDGE, workspace.params
    if workspace.complete or isinstance(params, OtherVersionParams):
        return
    if not kept.exists() or kept.stat().st_size:
        return
    simulated = read_manifest(workspace.folder / "data/prepared").simulated
    for name in params.preference_eval.judges:
        if kind_of_judge(name, simulated) == SECOND:
            raise UserError(f"preference_eval.judges names `{name}`, a second reward model, but no "
                            "preference is kept to train it on. Add preferences on more prompts, raise "
                            "ingest.judge_fraction, or name another judge: a function of yours, an endpoint, "
                            "a language model.")


def check_gate(workspace: Workspace) -> None:
    """Stop before PPO if the reward model is not good enough. Raises GateFailed with the reasons."""
    if workspace.complete:
        return
    from plumbline.evaluation.gate import require_passed

    require_passed(workspace.folder / GATE)


def write_comparison(workspace: Workspace) -> None:
    """Set the candidates of a run beside its PPO: table, picture and their numbers in the run's folder."""
    from plumbline.evaluation.comparing.comparison import PPO, Evaluated, compare
    from plumbline.evaluation.comparing.report import write_comparison_report

    reports = workspace.folder / "reports"
    policies = [Evaluated.read(reports / "preference", PPO, PPO, _seconds(workspace, "ppo"))]
    for name in workspace.params.compare:
        method = workspace.params.candidates[name]["method"]
        seconds = _seconds(workspace, f"candidate{JOIN}{name}")
        policies.append(Evaluated.read(reports / "candidates" / name, name, method, seconds))
    write_comparison_report(workspace.folder / COMPARISON, compare(policies))


def _seconds(workspace: Workspace, stage: str) -> float | None:
    receipt = read_receipt(workspace.folder, workspace.stages[stage])
    return receipt.seconds if receipt else None


def _record(workspace: Workspace, parent: Recording, stage: str, outcome: Outcome) -> None:
    """Record the outcome of a stage in MLflow as soon as it is known."""
    name = f"stage.{stage.replace(JOIN, TAG_JOIN)}"
    tags = {name: outcome.status, f"{name}.reason": outcome.reason[:LONGEST_TAG],
            f"{name}.seconds": str(outcome.seconds)}
    if outcome.mlflow_run:
        tags[f"{name}.run"] = outcome.mlflow_run
    parent.tags(tags)
    _upload(workspace, parent, *CHANGING, *([MANIFEST] if stage == "snapshot" else []))


def _end(workspace: Workspace, parent: Recording, status: Status, message: str | None) -> None:
    record = workspace.record
    record.status, record.message = status, message and masked(message)
    record.ended = datetime.now(UTC).isoformat(timespec="seconds")
    record.save(workspace.folder)
    parent.tags({"status": status})
    for file in sorted((workspace.folder / COMPARISON).glob("*")):
        parent.file(file, f"{RECORD}/{COMPARISON}")
    _upload(workspace, parent, RECORD_FILE)
    parent.end(MLFLOW_STATUS[status])
    deliver(workspace.home)


def _upload(workspace: Workspace, parent: Recording, *files: str) -> None:
    for file in files:
        if (workspace.folder / file).exists():
            parent.file(workspace.folder / file, RECORD)


def _upload_code(workspace: Workspace, parent: Recording) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        pack_code(workspace.folder, Path(scratch) / CODE_ARCHIVE)
        parent.file(Path(scratch) / CODE_ARCHIVE, RECORD)


def _tags(workspace: Workspace) -> dict[str, str]:
    record = workspace.record
    tags = {"plumbline.pipeline_run": record.id, TRIGGER: record.trigger}
    if record.retry_of:
        tags["plumbline.retry_of"] = record.retry_of
    if record.git_commit:
        tags |= {"mlflow.source.git.commit": record.git_commit, "git.dirty": str(record.git_dirty).lower()}
    return tags
