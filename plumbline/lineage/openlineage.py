"""The stages as OpenLineage run events, for catalogues that collect lineage
(https://openlineage.io/spec/2-0-2).

A stage that ran is a run of the job named like it, with a START and a COMPLETE or FAIL event. Its inputs and
outputs are the paths of dvc.yaml as datasets, whose version is DVC's digest; ingest reads the batches of its
snapshot too. A stage that was reused ran no more, so it has no event: the version of its outputs leads to the
run that made them.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, Field

from plumbline import __version__
from plumbline.lineage.records import Run, Step
from plumbline.tracking.store import OURS

SPEC = "https://openlineage.io/spec"
RUN_EVENT = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
RUN_FACET = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunFacet"
PRODUCER = f"urn:plumbline:{__version__}"
PIPELINE = "retrain"

Facet = dict[str, object]
Facets = dict[str, Facet]


class Job(BaseModel):
    """What runs again and again: a stage of the pipeline."""

    namespace: str = Field(examples=["plumbline://my-project"])
    name: str = Field(examples=["retrain.sft"])
    facets: Facets = Field(description="`jobType`")


class JobRun(BaseModel):
    """One execution of a job: its MLflow run."""

    runId: str = Field(description="MLflow's run id, written as a UUID")
    facets: Facets = Field(description="`parent`, `processing_engine`, `executionParameters`, "
                                       "`errorMessage`, and `plumbline_metrics` with what was measured")


class Dataset(BaseModel):
    """Data, a model or a report."""

    namespace: str
    name: str = Field(examples=["models/sft/model"])
    facets: Facets = Field(description="`version`: DVC's digest of the content")


class RunEvent(BaseModel):
    """A change of the state of one execution."""

    eventType: Literal["START", "COMPLETE", "FAIL"]
    eventTime: str = Field(description="ISO 8601")
    run: JobRun
    job: Job
    inputs: list[Dataset]
    outputs: list[Dataset]
    producer: str
    schemaURL: str


def run_events(runs: Iterable[Run], project: str) -> Iterator[RunEvent]:
    """Yield the events of the stages that these runs ran, in the runs' order."""
    for run in runs:
        for step in run.steps.values():
            if step.status in ("ran", "failed", "running") and step.mlflow_run and step.started:
                yield from _events(run, step, f"plumbline://{project}")


def _events(run: Run, step: Step, namespace: str) -> Iterator[RunEvent]:
    assert step.mlflow_run and step.started
    job = Job(namespace=namespace, name=f"{PIPELINE}.{step.stage}", facets={"jobType": _facet(
        "facets/2-0-4/JobTypeJobFacet.json", processingType="BATCH", integration="PLUMBLINE",
        jobType="TASK")})
    inputs = _datasets(namespace, step.inputs)
    if step.stage == "ingest":
        inputs += [_dataset(namespace, f"data/batches/{batch.source}", batch.digest) for batch in run.batches]
    facets: Facets = {
        "parent": _facet("facets/1-2-0/ParentRunFacet.json", run={"runId": _uuid(run.mlflow_run)},
                         job={"namespace": namespace, "name": PIPELINE}),
        "processing_engine": _facet("facets/1-1-1/ProcessingEngineRunFacet.json", name="Plumbline",
                                    version=__version__),
        "executionParameters": _facet(
            "facets/1-0-0/ExecutionParametersRunFacet.json",
            parameters=[{"key": key, "value": value} for key, value in step.params.items()])}

    def event(kind: Literal["START", "COMPLETE", "FAIL"], when: str, outputs: list[Dataset],
              more: Facets) -> RunEvent:
        return RunEvent(eventType=kind, eventTime=when, inputs=inputs, outputs=outputs, producer=PRODUCER,
                        job=job, run=JobRun(runId=_uuid(step.mlflow_run or ""), facets=facets | more),
                        schemaURL=RUN_EVENT)

    yield event("START", step.started, [], {})
    ended = (datetime.fromisoformat(step.started) + timedelta(seconds=step.seconds or 0)).isoformat()
    measured: Facet = {"_producer": PRODUCER, "_schemaURL": RUN_FACET, "metrics": dict(step.metrics)}
    if step.status == "ran":
        yield event("COMPLETE", ended, _datasets(namespace, step.outputs), {"plumbline_metrics": measured})
    elif step.status == "failed":
        yield event("FAIL", ended, [], {"errorMessage": _facet(
            "facets/1-0-1/ErrorMessageRunFacet.json", message=step.reason,
            programmingLanguage="python")})


def _datasets(namespace: str, digests: Mapping[str, str]) -> list[Dataset]:
    return [_dataset(namespace, path, md5) for path, md5 in digests.items()]


def _dataset(namespace: str, name: str, version: str) -> Dataset:
    return Dataset(namespace=namespace, name=name, facets={"version": _facet(
        "facets/1-0-1/DatasetVersionDatasetFacet.json", datasetVersion=version)})


def _facet(file: str, /, **values: object) -> Facet:
    name = file.rsplit("/", 1)[-1].removesuffix(".json")
    return {"_producer": PRODUCER, "_schemaURL": f"{SPEC}/{file}#/$defs/{name}", **values}


def _uuid(mlflow_run: str) -> str:
    # An id of ours stands in as long as the store is away.
    return str(UUID(hex=mlflow_run.removeprefix(OURS)))
