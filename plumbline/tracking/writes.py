"""Each write to MLflow as a value, so that it can be done now, or kept in a file and done later.

Every write can be done twice and leaves the same: nobody knows whether a server that fell silent had done it. Runs and
models have an id of ours (`plumbline.id`), because MLflow gives its own only when it answers; until then ours stands
in.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from plumbline.project.home import Home
from plumbline.tracking.store import require_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "plumbline"
PARENT = "mlflow.parentRunId"
OUR_ID = "plumbline.id"
"""The tag with the id of ours."""
OURS = "local-"
"""Begins such an id."""
DELETED = "deleted"
"""In MLflow: it is in the trash, and can be restored."""
LARGEST_BATCH = 900
"""MLflow takes at most 1,000 metrics a call."""
RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
Point = tuple[str, float, int, int]
"""Name, value, step, and when in milliseconds."""


def now_ms() -> int:
    """The time as MLflow takes it."""
    return int(time.time() * 1000)


def is_deleted(error: BaseException) -> bool:
    """Whether MLflow refuses a write because the run, or the experiment, was deleted."""
    return "must be in the 'active' state. Current state is deleted" in str(error)


class NotYet(Exception):
    """An id of ours stands for something that itself still waits to be delivered."""


class Store:
    """A project's MLflow store, opened when it is first needed."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._client: MlflowClient | None = None
        self._experiment: str | None = None
        self._known: dict[str, str] = {}

    @property
    def client(self) -> "MlflowClient":
        """MLflow's client. Raises StoreGone where a SQLite store has vanished."""
        from plumbline.tracking.recording import connect

        require_store(self.home)
        if self._client is None:
            self._client = connect(self.home)
        return self._client

    @property
    def experiment(self) -> str:
        """The id of the project's experiment."""
        from plumbline.tracking.recording import experiment

        if self._experiment is None:
            self._experiment = experiment(self.client, self.home)
        return self._experiment

    def restore(self, run: str) -> None:
        """Bring a run back that somebody has deleted in MLflow, and the experiment if that is why."""
        from plumbline.tracking.recording import experiment

        experiment(self.client, self.home)
        if self.client.get_run(run).info.lifecycle_stage == DELETED:
            self.client.restore_run(run)
            sys.stderr.write(f"The run {run} had been deleted in MLflow while it was being recorded. It was restored: "
                             "delete it when it has ended.\n")

    @property
    def learned(self) -> int:
        """Of how many ids of ours the store's own are known."""
        return len(self._known)

    def learn(self, ours: str, theirs: str) -> None:
        """Remember what MLflow calls what we call otherwise."""
        self._known[ours] = theirs

    def run(self, run: str) -> str | None:
        """MLflow's id of a run; None for an id of ours that MLflow does not know."""
        if not run.startswith(OURS):
            return run
        if run not in self._known:
            found = self.client.search_runs([self.experiment], f"tags.`{OUR_ID}` = '{run}'", max_results=1)
            if found:
                self._known[run] = found[0].info.run_id
        return self._known.get(run)

    def model(self, model: str) -> str | None:
        """MLflow's id of a model; None for an id of ours that MLflow does not know."""
        if not model.startswith(OURS):
            return model
        if model not in self._known:
            found = self.client.search_logged_models([self.experiment], f"tags.`{OUR_ID}` = '{model}'", max_results=1)
            if found:
                self._known[model] = found[0].model_id
        return self._known.get(model)

    def resolved(self, name: str, model: bool = False) -> str | None:
        """As `run` and `model`; None where nothing will ever be known. Raises NotYet while it still waits."""
        found = self.model(name) if model else self.run(name)
        if found is None and (self.home.waiting / name.removeprefix(OURS).split("-")[0]).exists():
            raise NotYet(f"{name} waits to be delivered to MLflow")
        return found


class Write(BaseModel):
    """One write to a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Create(Write):
    """Make the run."""

    do: Literal["create"] = "create"
    id: str
    name: str
    tags: Mapping[str, str]
    start: int

    def apply(self, store: Store, again: bool) -> str:
        """Make it, unless that was done `again`; returns MLflow's id."""
        found = store.run(self.id) if again else None
        if found:
            return found
        tags = {**self.tags, OUR_ID: self.id}
        if PARENT in tags:
            parent = store.resolved(tags.pop(PARENT))
            tags |= {PARENT: parent} if parent else {}
        made: Run = store.client.create_run(store.experiment, start_time=self.start, run_name=self.name, tags=tags)
        store.learn(self.id, made.info.run_id)
        return str(made.info.run_id)


class Params(Write):
    """Log parameters."""

    do: Literal["params"] = "params"
    values: Mapping[str, str]

    def apply(self, store: Store, run: str) -> None:
        """Log them."""
        from mlflow.entities import Param

        store.client.log_batch(run, params=[Param(name, value) for name, value in self.values.items()])


class Inputs(Write):
    """Name what a stage reads: data sets, as {path: DVC's digest}, and models, as ids."""

    do: Literal["inputs"] = "inputs"
    data: Mapping[str, str]
    models: Sequence[str]

    def apply(self, store: Store, run: str) -> None:
        """Log what is not logged yet."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput

        models = [found for model in self.models if (found := store.resolved(model, model=True))]
        there = {one.model_id for one in store.client.get_run(run).inputs.model_inputs} if models else set()
        sets = [
            DatasetInput(
                Dataset(name=path, digest=md5, source_type="dvc", source=json.dumps({"path": path, "md5": md5})),
                [InputTag("mlflow.data.context", "evaluation" if path.startswith("reports/") else "training")])
            for path, md5 in self.data.items()
        ]
        new = [LoggedModelInput(model) for model in models if model not in there]
        if sets or new:
            store.client.log_inputs(run, sets, new)


class Metrics(Write):
    """Add points to curves."""

    do: Literal["metrics"] = "metrics"
    points: Sequence[Point]

    def apply(self, store: Store, run: str) -> None:
        """Add them; MLflow takes the same point once."""
        from mlflow.entities import Metric

        points = [Metric(name, value, when, step) for name, value, step, when in self.points]
        for start in range(0, len(points), LARGEST_BATCH):
            store.client.log_batch(run, metrics=points[start:start + LARGEST_BATCH])


class Model(Write):
    """Log a model that the stage made, as a pointer."""

    do: Literal["model"] = "model"
    id: str
    name: str
    tags: Mapping[str, str]

    def apply(self, store: Store, run: str) -> str:
        """Log it, unless that was done; returns MLflow's id."""
        from mlflow.entities import LoggedModelOutput

        model = store.model(self.id)
        if model is None:
            made = store.client.create_logged_model(store.experiment, name=self.name, source_run_id=run,
                                                    tags={**self.tags, OUR_ID: self.id}, params=dict(self.tags),
                                                    model_type=self.name)
            model = str(made.model_id)
        if model not in {one.model_id for one in store.client.get_run(run).outputs.model_outputs}:
            store.client.log_outputs(run, [LoggedModelOutput(model, step=0)])
        store.client.finalize_logged_model(model, "READY")
        return model


class Tags(Write):
    """Set tags; a value may be an id of ours."""

    do: Literal["tags"] = "tags"
    values: Mapping[str, str]

    def apply(self, store: Store, run: str) -> None:
        """Set them."""
        from mlflow.entities import RunTag

        values = {name: (store.resolved(value) or value) if value.startswith(OURS) else value
                  for name, value in self.values.items()}
        store.client.log_batch(run, tags=[RunTag(name, value) for name, value in values.items()])


class File(Write):
    """Keep a file as an artifact."""

    do: Literal["file"] = "file"
    path: Path
    folder: str | None

    def apply(self, store: Store, run: str) -> None:
        """Copy it; a second time replaces it."""
        store.client.log_artifact(run, str(self.path), self.folder)


class End(Write):
    """Close the run."""

    do: Literal["end"] = "end"
    status: RunStatus
    when: int
    abandoned: bool = False
    """Its own process did not come to close it; if it did after all, that holds."""

    def apply(self, store: Store, run: str) -> None:
        """Close it."""
        if not self.abandoned or store.client.get_run(run).info.status == "RUNNING":
            store.client.set_terminated(run, self.status, self.when)


AnyWrite = Annotated[Create | Params | Inputs | Metrics | Model | Tags | File | End, Field(discriminator="do")]
WRITE: TypeAdapter[AnyWrite] = TypeAdapter(AnyWrite)
