"""MLflow: one parent run a pipeline run, one nested run a stage, data sets and models as inputs and outputs of each.

Only `MlflowClient` is used: importing the whole of mlflow pulls in what a stage does not need. Weights are never copied
to MLflow; a logged model is a pointer that carries DVC's digest and path.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from plumbline.lineage.home import Home

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "plumbline"
PARENT = "mlflow.parentRunId"
RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
LARGEST_ARTIFACT = 5_000_000
LARGEST_BATCH = 900
"""MLflow takes at most 1,000 metrics a call."""


def connect(home: Home) -> "MlflowClient":
    """A client of the project's MLflow store."""
    from mlflow import MlflowClient

    home.folder.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=home.tracking_uri, registry_uri=home.tracking_uri)


def experiment(client: "MlflowClient", home: Home) -> str:
    """The id of the project's experiment, made when it is missing."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            # A store on this machine gets an absolute place for its files; a server knows its own.
            local = home.artifacts.as_uri() if home.tracking_uri.startswith("sqlite") else None
            return str(client.create_experiment(EXPERIMENT, artifact_location=local))
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
    return str(found.experiment_id)


def end_abandoned(home: Home, run_id: str) -> None:
    """Close the run of a stage whose process was killed before it could."""
    client = connect(home)
    if client.get_run(run_id).info.status == "RUNNING":
        client.set_terminated(run_id, "KILLED")


class Recording:
    """The MLflow run of one stage. Curves are buffered, so that recording stays cheap."""

    def __init__(self, client: "MlflowClient", experiment_id: str, name: str, tags: Mapping[str, str]) -> None:
        self._client = client
        self._experiment = experiment_id
        self.run_id: str = client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id
        self._points: list[tuple[str, float, int, int]] = []

    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters."""
        from mlflow.entities import Param

        self._client.log_batch(self.run_id, params=[Param(name, str(value)) for name, value in values.items()])

    def inputs(self, data: Mapping[str, str], models: list[str]) -> None:
        """Log data sets, as {path: DVC's digest}, and models, as ids, that the stage reads."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput

        sets = [
            DatasetInput(
                Dataset(name=path, digest=md5, source_type="dvc", source=json.dumps({"path": path, "md5": md5})),
                [InputTag("mlflow.data.context", "evaluation" if path.startswith("reports/") else "training")])
            for path, md5 in data.items()
        ]
        if sets or models:
            self._client.log_inputs(self.run_id, sets, [LoggedModelInput(model) for model in models])

    def point(self, name: str, value: float, step: int) -> None:
        """Add a point to a curve; written when enough of them have come together."""
        self._points.append((name, value, step, int(time.time() * 1000)))
        if len(self._points) >= LARGEST_BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the points that are waiting."""
        from mlflow.entities import Metric

        waiting, self._points = self._points, []
        points = [Metric(name, value, when, step) for name, value, step, when in waiting]
        for start in range(0, len(points), LARGEST_BATCH):
            self._client.log_batch(self.run_id, metrics=points[start:start + LARGEST_BATCH])

    def model(self, name: str, tags: Mapping[str, str]) -> str:
        """Log a model that the stage made, as a pointer; returns MLflow's id."""
        from mlflow.entities import LoggedModelOutput

        model = self._client.create_logged_model(self._experiment, name=name, source_run_id=self.run_id,
                                                 tags=dict(tags), params=dict(tags), model_type=name)
        self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])
        self._client.finalize_logged_model(model.model_id, "READY")
        return str(model.model_id)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in values.items()])

    def files(self, folder: Path, skip: str = "model") -> None:
        """Keep the small files of a folder as artifacts."""
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            if path.is_file() and relative.parts[0] != skip and path.stat().st_size <= LARGEST_ARTIFACT:
                parent = relative.parent.as_posix()
                self._client.log_artifact(self.run_id, str(path), None if parent == "." else parent)

    def end(self, status: RunStatus) -> None:
        """Close the run."""
        self.flush()
        self._client.set_terminated(self.run_id, status)
