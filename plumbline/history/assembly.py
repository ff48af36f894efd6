"""Puts facts together: a pipeline run with its stages, each with what was measured by the run that really
made it.
"""

import re
from collections.abc import Iterable, Mapping

from plumbline.history.facts import SNAPSHOT, UNKNOWN, PipelineFacts, StageFacts, iso, workspace_facts
from plumbline.history.index import Known
from plumbline.lineage.records import Run, Step, StepStatus
from plumbline.preferences.batches.manifest import Batch
from plumbline.project.dvc_yaml import JOIN
from plumbline.project.home import Home
from plumbline.project.run_record import Outcome, RunRecord, is_gone, run_folders, workspace_of

CANDIDATE_STAGES = ("candidate", "candidate_eval")
SINCE = re.compile(r"nothing changed since (\S+)$")


class Assembly:
    """Makes runs and steps of facts."""

    def __init__(self, home: Home, known: Known, order: Iterable[str]) -> None:
        self._home = home
        self._known = known
        self._batches: dict[str, tuple[Batch, ...]] = {}
        self._order = tuple(order)

    def run(self, facts: PipelineFacts, going: Mapping[str, StageFacts]) -> Run:
        """Return a pipeline run; `going` are its stages that are running now, by name."""
        record = RunRecord.model_validate(facts.record)
        steps = {name: self._step(record, name, outcome) for name, outcome in record.stages.items()}
        if record.status == "running":
            if record.pid != UNKNOWN and is_gone(record):
                record.status = "killed"
            else:
                steps |= self._ahead(record, going)
        folder = self._home.runs / record.id
        return Run(
            id=record.id, created=record.created, ended=record.ended, status=record.status,
            message=record.message, trigger=record.trigger, params_file=record.params_file,
            settings=tuple(record.settings), until=record.until, git_commit=record.git_commit,
            git_dirty=record.git_dirty, host=record.host, mlflow_run=facts.run_id,
            params=facts.params or _union(steps), steps=steps, snapshot=_snapshot(steps) or facts.snapshot,
            batches=self._batches_of(facts.manifest) if facts.manifest else (),
            folder=folder if folder.is_dir() else None, compare=tuple(record.compare))

    def alone(self, facts: StageFacts) -> Step:
        """Return a stage that `dvc repro` ran outside of any pipeline run."""
        known: dict[str, StepStatus] = {"FINISHED": "ran", "RUNNING": "running"}
        seconds = (facts.ended - facts.started) / 1000 if facts.ended else None
        return _of(facts, facts.stage, known.get(facts.status, "failed"), "", seconds, started=True)

    def _batches_of(self, name: str) -> tuple[Batch, ...]:
        if name not in self._batches:
            manifest = self._known.manifests[name]
            self._batches[name] = tuple(Batch(**one) for one in manifest.batches)  # type: ignore[arg-type]
        return self._batches[name]

    def _step(self, record: RunRecord, name: str, outcome: Outcome) -> Step:
        run_id = outcome.mlflow_run or ""
        made = self._known.stages.get(self._known.ours.get(run_id, run_id))
        seconds = None if outcome.seconds == UNKNOWN else outcome.seconds
        if made:
            return _of(made, name, outcome.status, outcome.reason, seconds,
                       started=outcome.status != "reused")
        maker = outcome.made_by
        if since := SINCE.match(outcome.reason):
            maker = maker or since[1]
        elif outcome.mlflow_run is None:
            maker = maker or record.id
        return _bare(name, outcome.status, outcome.reason, seconds, outcome.mlflow_run, maker)

    def _ahead(self, record: RunRecord, going: Mapping[str, StageFacts]) -> dict[str, Step]:
        """Return the stages that a running pipeline has not ended: the one that runs, and those that wait."""
        found: dict[str, Step] = {}
        for name in self._order_of(record):
            if name in record.stages:
                continue
            if name in going:
                found[name] = _of(going[name], name, "running", "", None, started=True)
            else:
                status: StepStatus = "waiting" if found or going else "running"
                found[name] = _bare(name, status, "", None, None, None)
            if name == record.until:
                break
        return found

    def _order_of(self, record: RunRecord) -> tuple[str, ...]:
        """Return the stages of a run; one that compares candidates makes those and promotes nothing."""
        if not record.compare:
            return self._order
        candidates = (f"{stage}{JOIN}{name}" for name in record.compare for stage in CANDIDATE_STAGES)
        return (*(name for name in self._order if name != "promote"), *candidates)


def _of(made: StageFacts, name: str, status: StepStatus, reason: str, seconds: float | None,
        started: bool) -> Step:
    return Step(stage=name, status=status, reason=reason, seconds=seconds,
                started=iso(made.started) if started else None, version=_version(made, name),
                mlflow_run=made.run_id, made_by=made.pipeline_run, params=made.params, metrics=made.metrics,
                facts=made.facts, inputs=made.inputs, outputs=made.outputs, code=made.code, host=made.host)


def _version(made: StageFacts, name: str) -> str | None:
    """Return the version of a stage; a candidate has that of its method's block, or of the evaluation."""
    block = "preference_eval" if name.startswith("candidate_eval@") else name
    others = [value for key, value in made.params.items() if key.endswith(".version")]
    return made.params.get(f"{block}.version") or next(iter(others), None)


def _bare(name: str, status: StepStatus, reason: str, seconds: float | None, mlflow_run: str | None,
          made_by: str | None) -> Step:
    return Step(stage=name, status=status, reason=reason, seconds=seconds, started=None, version=None,
                mlflow_run=mlflow_run, made_by=made_by, params={}, metrics={}, facts={}, inputs={},
                outputs={})


def _union(steps: Mapping[str, Step]) -> dict[str, str]:
    return {name: value for step in steps.values() for name, value in step.params.items()}


def _snapshot(steps: Mapping[str, Step]) -> str | None:
    """Return the digest of data/snapshot that a stage was given; None if no stage has read it."""
    return next((step.inputs[SNAPSHOT] for step in steps.values() if SNAPSHOT in step.inputs), None)


def runs_here(home: Home) -> dict[str, Run]:
    """Return the runs whose workspace is on this machine, newest first, without asking MLflow.

    Their files say everything but parameters, and what stages measured, read and left.
    """
    known, found = Known(), []
    for folder in reversed(run_folders(home)):
        if workspace_of(home, folder.name):
            facts, manifest = workspace_facts(folder)
            found.append(facts)
            if manifest:
                known.add(manifest)
    assembly = Assembly(home, known, ())
    runs = (assembly.run(facts, {}) for facts in found)
    return {run.id: run for run in runs}
