"""What one MLflow run says, in a form that can be kept: a stage that was run, or a whole pipeline run.

Everything comes from the run itself and its artifacts. `record/` holds a pipeline run's run.json, params.yaml
and manifest.json, and receipt.json stands beside a stage's report; a workspace on this machine saves asking a
server for them. Where an old run lacks them, its tags say most of it.
"""

import hashlib
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import unquote, urlsplit

import orjson
from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from plumbline.preferences.batches.manifest import MANIFEST, Batch
from plumbline.project.dvc_yaml import JOIN
from plumbline.project.home import RECORD_FILE, Home
from plumbline.project.masking import masked, masked_value
from plumbline.project.run_record import DVC_REPRO, RUN_ID, Outcome, RunRecord, Status, workspace_of
from plumbline.tracking.receipts import Receipt
from plumbline.tracking.recording import TAG_JOIN
from plumbline.tracking.store import OUR_ID, NoAnswer
from plumbline.tracking.writes import PARENT

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

STAGE, PIPELINE_RUN = "plumbline.stage", "plumbline.pipeline_run"
RECORD = "record"
SNAPSHOT = "data/snapshot"
Kept = TypeVar("Kept", bound=BaseModel)
STATUS: Mapping[str, Status] = {"FINISHED": "finished", "KILLED": "cancelled", "FAILED": "failed"}
ENDED: tuple[Status, ...] = ("finished", "failed", "cancelled", "killed")
UNKNOWN = -1
"""The process, or the seconds, of a run that has no run.json."""


@dataclass(frozen=True)
class StageFacts:
    """One execution of a stage."""

    run_id: str
    ours: str | None
    """The id that stood in for MLflow's in receipts while the store was away."""
    stage: str
    pipeline_run: str | None
    parent: str | None
    """MLflow's id of the pipeline run."""
    status: str
    """MLflow's: RUNNING, FINISHED, FAILED or KILLED."""
    started: int
    """Milliseconds since 1970."""
    ended: int | None
    params: dict[str, str]
    metrics: dict[str, float]
    facts: dict[str, str]
    inputs: dict[str, str]
    outputs: dict[str, str]
    code: str | None
    host: dict[str, str]


@dataclass(frozen=True)
class PipelineFacts:
    """One pipeline run."""

    run_id: str
    started: int
    record: dict[str, object]
    """Its run.json."""
    params: dict[str, str]
    manifest: str | None
    """The name of what its snapshot says of its batches; many runs have the same one."""
    snapshot: str | None
    """What dvc.lock says where no stage tells which data it read."""

    def stage_runs(self) -> list[str]:
        """Return the MLflow runs of the stages that it ran or reused."""
        stages = cast(dict[str, dict[str, str | None]], self.record["stages"])
        return [run_id for stage in stages.values() if (run_id := stage["mlflow_run"])]


@dataclass(frozen=True)
class ManifestFacts:
    """What a snapshot holds."""

    run_id: str
    """Its name, a digest; it stands where others have MLflow's id."""
    batches: list[dict[str, object]]


class RunArtifacts:
    """Small files of MLflow runs: read in place where the store is on this machine, downloaded otherwise."""

    def __init__(self, client: "MlflowClient") -> None:
        self._client = client

    def read(self, run: "MlflowRun", path: str) -> bytes | None:
        """Return the bytes of an artifact, or None if the run has none of that name.

        Raises NoAnswer, or OSError, where the run has it, or may have it, and it cannot be read now: what is
        said of a run that has ended is kept for ever.
        """
        place = urlsplit(run.info.artifact_uri)
        if place.scheme in ("", "file"):
            try:
                return (Path(unquote(place.path)) / path).read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
        with tempfile.TemporaryDirectory() as folder:
            try:
                return Path(self._client.download_artifacts(run.info.run_id, path, folder)).read_bytes()
            except Exception as error:  # of MLflow, or of whichever library reaches its files
                if self._may_have(run, path):
                    said = masked(" ".join(str(error).split()))[:300]
                    raise NoAnswer(f"MLflow has the file {path} of its run {run.info.run_id}, but does not "
                                   f"give it now: {said}") from error
                return None

    def _may_have(self, run: "MlflowRun", path: str) -> bool:
        """Return whether a run has, or may have, an artifact: what MLflow fails to fetch it calls missing."""
        folder = PurePosixPath(path).parent.as_posix()
        try:
            listed = self._client.list_artifacts(run.info.run_id, None if folder == "." else folder)
        except Exception:  # as above: nobody knows
            return True
        return any(one.path == path for one in listed)


def is_pipeline_run(run: "MlflowRun") -> bool:
    """True if the MLflow run is a pipeline run's own: it has a valid id and names no stage."""
    return STAGE not in run.data.tags and bool(RUN_ID.fullmatch(run.data.tags.get(PIPELINE_RUN, "")))


def is_stage(run: "MlflowRun") -> bool:
    """True if the MLflow run is a stage's."""
    return STAGE in run.data.tags


def stage_facts(run: "MlflowRun", artifacts: RunArtifacts) -> StageFacts:
    """Return the facts of a stage's MLflow run. Its receipt names the models that it read; a failed stage has
    no receipt.

    A metric may have the name of a curve, of which MLflow gives the last point; metrics.json has what was
    measured.
    """
    tags, finished = run.data.tags, run.info.status == "FINISHED"
    receipt = _parsed(Receipt, artifacts.read(run, "receipt.json")) if finished else None
    measured = _numbers(artifacts.read(run, "metrics.json")) if finished else {}
    data = {one.dataset.name: one.dataset.digest for one in run.inputs.dataset_inputs} if run.inputs else {}
    left = _beginning(tags, "output.")
    if receipt:
        left = {path: one.md5 for path, one in receipt.outputs.items()}
    pipeline_run = tags.get(PIPELINE_RUN, DVC_REPRO)
    return StageFacts(
        run_id=run.info.run_id, ours=tags.get(OUR_ID), stage=tags[STAGE],
        pipeline_run=None if pipeline_run == DVC_REPRO else pipeline_run,
        parent=tags.get(PARENT), status=run.info.status, started=run.info.start_time, ended=run.info.end_time,
        params={name: masked(value) for name, value in run.data.params.items()},
        metrics={name: value for name, value in run.data.metrics.items() if math.isfinite(value)} | measured,
        facts=_beginning(tags, "result."), inputs=receipt.inputs if receipt else data,
        outputs=left,
        code=receipt.code if receipt else None, host=receipt.host if receipt else {})


def pipeline_facts(run: "MlflowRun", home: Home,
                   artifacts: RunArtifacts) -> tuple[PipelineFacts, ManifestFacts | None]:
    """Return the facts of a pipeline run's MLflow run, read from its workspace where that is on this
    machine.
    """
    folder = workspace_of(home, run.data.tags[PIPELINE_RUN])

    def file(name: str, place: str) -> bytes | None:
        found = read_bytes(folder / place) if folder else None
        return found or artifacts.read(run, f"{RECORD}/{name}")

    record = _parsed(RunRecord, file(RECORD_FILE, RECORD_FILE))
    if record is None or record.id != run.data.tags[PIPELINE_RUN]:
        record = _from_tags(run)
    if run.info.status in STATUS:  # it may have ended where nobody could write run.json any more
        if record.status == "running":
            record.status = _ended(run)
        if run.info.end_time is not None:  # whoever sets only the status in MLflow leaves it out
            record.ended = record.ended or iso(run.info.end_time)
    lock = file("dvc.lock", "dvc.lock") if list(record.stages) == ["snapshot"] else None
    manifest = _manifest(file(MANIFEST, f"{SNAPSHOT}/{MANIFEST}"))
    return PipelineFacts(run.info.run_id, run.info.start_time, record.model_dump(),
                         _flat_params(file("params.yaml", "params.yaml")),
                         manifest.run_id if manifest else None, _locked_snapshot(lock)), manifest


def workspace_facts(folder: Path) -> tuple[PipelineFacts, ManifestFacts | None]:
    """Return what a run's workspace says without MLflow; its parameters are left out, because YAML takes
    long.
    """
    record = _parsed(RunRecord, read_bytes(folder / RECORD_FILE))
    # Where it is damaged, what the run learned from can be read all the same.
    if record is None or record.id != folder.name:
        record = RunRecord(id=folder.name, created="", project="", pid=UNKNOWN, host="", status="failed")
    manifest = _manifest(read_bytes(folder / SNAPSHOT / MANIFEST))
    name = manifest.run_id if manifest else None
    return PipelineFacts(record.mlflow_run or "", 0, record.model_dump(), {}, name, None), manifest


def iso(milliseconds: int) -> str:
    """Return MLflow's time, milliseconds since 1970, as ISO 8601, UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def read_bytes(path: Path) -> bytes | None:
    """Return the bytes of a file, or None if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def _beginning(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in tags.items() if name.startswith(prefix)}


def _parsed(kind: type[Kept], text: bytes | None) -> Kept | None:
    try:
        return kind.model_validate_json(text) if text else None
    except ValidationError:
        return None


def _numbers(text: bytes | None) -> dict[str, float]:
    try:
        values = orjson.loads(text) if text else {}
        return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
    except (orjson.JSONDecodeError, AttributeError):
        return {}


def _ended(run: "MlflowRun") -> Status:
    """Return how a run ended: as our tag has it, because MLflow has one word for cancelled and killed."""
    told = run.data.tags.get("status")
    return next((status for status in ENDED if status == told), STATUS[run.info.status])


def _from_tags(run: "MlflowRun") -> RunRecord:
    """Return the record of an old run, of which MLflow's tags are all that was kept; as one that goes on."""
    tags = run.data.tags
    dirty = tags.get("git.dirty")
    return RunRecord(id=tags[PIPELINE_RUN], created=iso(run.info.start_time),
                     trigger=tags.get("plumbline.trigger", ""), project="",
                     git_commit=tags.get("mlflow.source.git.commit"),
                     git_dirty=dirty == "true" if dirty else None, mlflow_run=run.info.run_id, pid=UNKNOWN,
                     host="", stages=dict(_outcomes(_beginning(tags, "stage."))))


def _outcomes(tags: Mapping[str, str]) -> list[tuple[str, Outcome]]:
    """Parse tags such as {"sft": "reused", "sft.reason": "...", "sft.run": "...", "sft.seconds": "0.2"}."""
    names = [name for name in tags if "." not in name]
    return [(name.replace(TAG_JOIN, JOIN), Outcome.model_validate({
        "status": tags[name], "seconds": float(tags.get(f"{name}.seconds", UNKNOWN)),
        "reason": tags.get(f"{name}.reason", ""), "mlflow_run": tags.get(f"{name}.run")})) for name in names]


def _flat_params(text: bytes | None) -> dict[str, str]:
    try:
        values = YAML(typ="safe").load(text.decode()) if text else None
    except (YAMLError, ValueError):  # such as a date that there is not
        values = None
    return shown_params(values) if isinstance(values, dict) else {}


def shown_params(values: Mapping[str, object]) -> dict[str, str]:
    """Flatten parameters for display: of a secret enough to recognise it."""
    return {name: masked_value(name, value) for name, value in flat(values).items()}


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Flatten {"sft": {"epochs": 2}} to {"sft.epochs": "2"}."""
    found: dict[str, str] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return found


def _locked_snapshot(text: bytes | None) -> str | None:
    try:
        outs = YAML(typ="safe").load(text.decode())["stages"]["snapshot"]["outs"] if text else []
        return next((out["md5"] for out in outs), None)
    except (YAMLError, ValueError, KeyError, TypeError):
        return None


def _manifest(text: bytes | None) -> ManifestFacts | None:
    try:
        batches = list(orjson.loads(text)["batches"]) if text else None
        for one in batches or ():
            Batch.of(one)
    except (ValueError, KeyError, TypeError):  # damaged, or of another version of this program
        return None
    return ManifestFacts(hashlib.sha256(text).hexdigest(), batches) if text and batches is not None else None
