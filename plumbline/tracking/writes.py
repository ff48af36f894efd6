"""Each write to MLflow as a value: it can be done now, or kept in a file and done later.

Every write can be done twice and leaves the same, because a server that fell silent may have done it. Runs
and models are named by ids of ours (`plumbline.id`) until MLflow has given its own.
"""

import json
import re
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from plumbline.tracking.store import OUR_ID, OURS, MlflowStore

PARENT = "mlflow.parentRunId"
OUR_NAME = re.compile(rf'"({OURS}[0-9a-z]+(?:-[0-9]+)?)"')
LARGEST_BATCH = 900
"""MLflow takes at most 1,000 metrics a call."""
RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
Point = tuple[str, float, int, int]
"""Name, value, step, and when in milliseconds."""


def now_ms() -> int:
    """Return the time as MLflow takes it, in milliseconds since 1970."""
    return int(time.time() * 1000)


class Write(BaseModel):
    """One write to a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def refers_to(self) -> list[str]:
        """Return the ids of ours that MLflow must know first: of a parent run, of models, of stages' runs."""
        return OUR_NAME.findall(self.model_dump_json(exclude={"id", "points"}))

    @abstractmethod
    def apply(self, store: MlflowStore, run: str) -> None:
        """Do it; `run` is MLflow's id."""


class CreateRun(Write):
    """Make the run."""

    do: Literal["create"] = "create"
    id: str
    name: str
    tags: Mapping[str, str]
    start: int

    def apply(self, store: MlflowStore, _run: str = "") -> None:
        """Make it, unless MLflow has a run with this id of ours."""
        if store.find(self.id):
            return
        tags = {**self.tags, OUR_ID: self.id}
        if PARENT in tags:
            parent = store.find(tags.pop(PARENT))
            tags |= {PARENT: parent} if parent else {}
        made = store.client.create_run(store.experiment, start_time=self.start, run_name=self.name, tags=tags)
        store.ids[self.id] = made.info.run_id


class LogParams(Write):
    """Log parameters."""

    do: Literal["params"] = "params"
    values: Mapping[str, str]

    def apply(self, store: MlflowStore, run: str) -> None:
        """Log them; MLflow takes the same value again."""
        from mlflow.entities import Param

        store.client.log_batch(run, params=[Param(name, value) for name, value in self.values.items()])


class LogInputs(Write):
    """Name what a stage reads: data sets, as {path: DVC's digest}, and models, as ids."""

    do: Literal["inputs"] = "inputs"
    data: Mapping[str, str]
    models: Sequence[str]

    def apply(self, store: MlflowStore, run: str) -> None:
        """Log the data sets, which MLflow takes once, and those of the models that are not logged yet."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput

        sets = []
        for path, md5 in self.data.items():
            source = json.dumps({"path": path, "md5": md5})
            use = "evaluation" if path.startswith("reports/") else "training"
            dataset = Dataset(name=path, digest=md5, source_type="dvc", source=source)
            sets.append(DatasetInput(dataset, [InputTag("mlflow.data.context", use)]))
        models = [found for model in self.models if (found := store.find(model))]
        logged = {one.model_id for one in store.client.get_run(run).inputs.model_inputs} if models else set()
        new = [LoggedModelInput(model) for model in models if model not in logged]
        if sets or new:
            store.client.log_inputs(run, sets, new)


class LogMetrics(Write):
    """Add points to curves."""

    do: Literal["metrics"] = "metrics"
    points: Sequence[Point]

    def apply(self, store: MlflowStore, run: str) -> None:
        """Log them in batches; MLflow takes the same point once."""
        from mlflow.entities import Metric

        points = [Metric(name, value, when, step) for name, value, step, when in self.points]
        for start in range(0, len(points), LARGEST_BATCH):
            store.client.log_batch(run, metrics=points[start:start + LARGEST_BATCH])


class LogModel(Write):
    """Log a model that the stage made, as a pointer."""

    do: Literal["model"] = "model"
    id: str
    name: str
    tags: Mapping[str, str]

    def apply(self, store: MlflowStore, run: str) -> None:
        """Make the pointer and name it an output of the run, as far as that has not been done."""
        from mlflow.entities import LoggedModelOutput

        model = store.find(self.id)
        if model is None:
            tags = {**self.tags, OUR_ID: self.id}
            made = store.client.create_logged_model(
                store.experiment, name=self.name, source_run_id=run, tags=tags, params=dict(self.tags),
                model_type=self.name)
            model = store.ids[self.id] = str(made.model_id)
        if model not in {one.model_id for one in store.client.get_run(run).outputs.model_outputs}:
            store.client.log_outputs(run, [LoggedModelOutput(model, step=0)])
        store.client.finalize_logged_model(model, "READY")


class SetTags(Write):
    """Set tags; a value may be an id of ours."""

    do: Literal["tags"] = "tags"
    values: Mapping[str, str]

    def apply(self, store: MlflowStore, run: str) -> None:
        """Set them, with MLflow's ids in place of ours."""
        from mlflow.entities import RunTag

        tags = []
        for name, value in self.values.items():
            theirs = store.find(value) if value.startswith(OURS) else None
            tags.append(RunTag(name, theirs or value))
        store.client.log_batch(run, tags=tags)


class LogFile(Write):
    """Keep a file as an artifact below `folder`; a second time replaces it."""

    do: Literal["file"] = "file"
    path: Path
    folder: str | None

    def apply(self, store: MlflowStore, run: str) -> None:
        """Copy it; a second time replaces it."""
        store.client.log_artifact(run, str(self.path), self.folder)


class EndRun(Write):
    """Close the run."""

    do: Literal["end"] = "end"
    status: RunStatus
    when: int
    abandoned: bool = False
    """The run's own process did not come to close it; if it did after all, that holds."""

    def apply(self, store: MlflowStore, run: str) -> None:
        """Close it."""
        if not self.abandoned or store.client.get_run(run).info.status == "RUNNING":
            store.client.set_terminated(run, self.status, self.when)


AnyWrite = Annotated[CreateRun | LogParams | LogInputs | LogMetrics | LogModel | SetTags | LogFile | EndRun,
                     Field(discriminator="do")]
WRITE: TypeAdapter[AnyWrite] = TypeAdapter(AnyWrite)
