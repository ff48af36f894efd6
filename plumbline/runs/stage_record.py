"""Record a stage that runs: an MLflow run, opened before its program starts, and a receipt at the end.

The flow's process, which has MLflow loaded, records for the stages that it runs in child processes; those
import neither MLflow nor Prefect. Under plain `dvc repro` a stage's own process does the same.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from plumbline.config import Params
from plumbline.errors import UserError, after
from plumbline.project.digests import combined, digest, digests
from plumbline.project.dvc_yaml import StageSpec, stage_params, version_of
from plumbline.project.home import RECORD_FILE, Home
from plumbline.project.run_record import DVC_REPRO, RunRecord, read_record
from plumbline.runs.workspace import git_state
from plumbline.tracking.outbox import deliver
from plumbline.tracking.receipts import Output, Receipt, model_of
from plumbline.tracking.recording import Recording
from plumbline.tracking.store import prepare
from plumbline.tracking.writes import PARENT


class StageRecord:
    """The record of one execution of a stage; `complete` ends it, or the end of its recording."""

    def __init__(self, home: Home, root: Path, stages: Mapping[str, StageSpec], name: str,
                 params: Params) -> None:
        """Open the stage's MLflow run, with its parameters and what it reads."""
        stage = stages[name]
        self._root, self._stage = root, stage
        self._started, self._clock = datetime.now(UTC), time.monotonic()
        self._seed = params.seed
        self._used = stage_params(params, stage)
        self.inputs = digests(root, stage.inputs)
        """DVC's digest of each input, by its path."""
        self.code = combined(digests(root, stage.code))
        """Digest of the code that the stage depends on."""
        record = read_record(root) if (root / RECORD_FILE).exists() else None
        self._pipeline_run = record.id if record else None
        self._commit, self._dirty = (record.git_commit, record.git_dirty) if record else git_state(root)
        if record is None:
            prepare(home)  # otherwise the run has done that
        deliver(home)  # what a stage before this one could not
        self.recording = Recording(home, stage.name, self._tags(record))
        try:
            self.recording.params(self._used)
            data = {path: md5 for path, md5 in self.inputs.items() if not path.startswith("models/")}
            models = [model for path in self.inputs if (model := model_of(root, stages, path))]
            self.recording.inputs(data, models)
        except BaseException as error:
            with after(error):
                self.recording.end("FAILED")
            raise

    @property
    def pipeline_run(self) -> str:
        """The id of the run that the stage belongs to, or `dvc repro`."""
        return self._pipeline_run or DVC_REPRO

    def complete(self, host: Mapping[str, str]) -> None:
        """Record what the stage left, write its receipt, and close its MLflow run.

        Raises UserError for an output that dvc.yaml declares and the stage has not left.
        """
        outputs = self._outputs()
        receipt = Receipt(stage=self._stage.name, version=version_of(self._used),
                          mlflow_run=self.recording.run_id, pipeline_run=self._pipeline_run,
                          git_commit=self._commit, git_dirty=self._dirty, inputs=self.inputs,
                          outputs=outputs, code=self.code, params=self._used, seed=self._seed,
                          started=self._started.isoformat(timespec="seconds"),
                          seconds=round(time.monotonic() - self._clock, 2), host=dict(host))
        assert self._stage.receipt is not None
        text = receipt.model_dump_json(indent=1) + "\n"
        (self._root / self._stage.receipt).write_text(text, encoding="utf-8")
        self.recording.tags({f"host.{name}": value for name, value in host.items()})
        self.recording.files(self._root / self._stage.folder)
        for path in self._stage.outs:
            if path.startswith("reports/") and not path.startswith(f"{self._stage.folder}/"):
                self.recording.files(self._root / path)
        self.recording.end("FINISHED")

    def _outputs(self) -> dict[str, Output]:
        outputs = {}
        for path in self._stage.outputs:
            if not (self._root / path).exists():
                raise UserError(f"Stage `{self._stage.name}` ended without leaving {path}, which dvc.yaml "
                                "declares.")
            md5, model = digest(self._root / path), None
            if path.startswith("models/") and path.endswith("/model"):
                name = self._stage.folder.split("/")[-1]
                model = self.recording.model(name, {"dvc.md5": md5, "dvc.path": path})
            outputs[path] = Output(md5=md5, model_id=model)
        self.recording.tags({f"output.{path}": output.md5 for path, output in outputs.items()})
        return outputs

    def _tags(self, record: RunRecord | None) -> dict[str, str]:
        tags = {"plumbline.stage": self._stage.name, "plumbline.pipeline_run": self.pipeline_run}
        if record and record.mlflow_run:
            tags[PARENT] = record.mlflow_run
        if self._commit:
            tags |= {"mlflow.source.git.commit": self._commit, "git.dirty": str(self._dirty).lower()}
        return tags
