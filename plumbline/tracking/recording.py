"""MLflow: one parent run a pipeline run, one nested run a stage, data sets and models as inputs and outputs of each.

Only `MlflowClient` is used: importing the whole of mlflow pulls in what a stage does not need. Weights are never copied
to MLflow; a logged model is a pointer that carries DVC's digest and path. Recording never stops what is recorded: while
the store is away, writes are kept and delivered later (`plumbline.tracking.outbox`).
"""

import os
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.project.home import Home
from plumbline.project.locks import file_lock
from plumbline.project.masking import masked
from plumbline.tracking.outbox import Journal, close
from plumbline.tracking.store import SQLITE, is_away, is_there, quiet_client, store_in_words
from plumbline.tracking.writes import (
    DELETED,
    EXPERIMENT,
    LARGEST_BATCH,
    OURS,
    PARENT,
    AnyWrite,
    Create,
    End,
    File,
    Inputs,
    Metrics,
    Model,
    NotYet,
    Params,
    Point,
    RunStatus,
    Store,
    Tags,
    is_deleted,
    now_ms,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["EXPERIMENT", "PARENT", "TRIGGER", "Recording", "RunStatus", "connect", "deleted_experiment",
           "end_abandoned", "experiment", "prepare"]

TRIGGER = "plumbline.trigger"
"""A tag that the run of a whole pipeline has, and the run of a stage has not."""
LARGEST_ARTIFACT = 5_000_000
RETRY_SECONDS = 30.0
"""How often a recording tries a store that is away; a locked database costs each try 20 s."""
COMES_BACK_SECONDS = 75.0


def connect(home: Home) -> "MlflowClient":
    """A client of the project's MLflow store, which is made where there is none. Raises StoreBroken."""
    from mlflow import MlflowClient

    quiet_client()
    home.folder.mkdir(parents=True, exist_ok=True)
    file = Path(home.tracking_uri.removeprefix(SQLITE))
    if home.tracking_uri.startswith(SQLITE) and not is_there(file):
        _create(file)
    with store_in_words(home.tracking_uri):
        return MlflowClient(tracking_uri=home.tracking_uri, registry_uri=home.tracking_uri)


def _create(file: Path) -> None:
    """Make MLflow's tables elsewhere and put them in place: two processes at once, or a kill, would break them."""
    from mlflow import MlflowClient

    file.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(file.with_name(f"{file.name}.lock")):
        if is_there(file):
            return
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        MlflowClient(tracking_uri=f"{SQLITE}{draft}", registry_uri=f"{SQLITE}{draft}")
        draft.replace(file)


def prepare(home: Home) -> None:
    """Make the store where there is none yet; one that has vanished gets a while to come back first."""
    file = Path(home.tracking_uri.removeprefix(SQLITE))
    if home.tracking_uri.startswith(SQLITE) and not is_there(file) and home.artifacts.exists():
        sys.stderr.write(f"MLflow's store {file} is gone, although runs were recorded. Waiting {COMES_BACK_SECONDS:g} "
                         "seconds for it to come back; then a new one begins, without champion and history.\n")
        deadline = time.monotonic() + COMES_BACK_SECONDS
        while not is_there(file) and time.monotonic() < deadline:
            time.sleep(0.5)
    try:
        experiment(connect(home), home)
    except Exception as error:
        if not is_away(error):
            raise


def experiment(client: "MlflowClient", home: Home) -> str:
    """The id of the project's experiment, made when it is missing, and restored when somebody has deleted it.

    What has been learned names its runs, and the next run could not be recorded.
    """
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
    if found.lifecycle_stage == DELETED:
        client.restore_experiment(found.experiment_id)
        sys.stderr.write(f"The experiment `{EXPERIMENT}` had been deleted in MLflow at {home.tracking_uri}. It was "
                         "restored with its runs, because runs are recorded there. `mlflow gc` deletes for good.\n")
    return str(found.experiment_id)


def deleted_experiment(home: Home) -> str:
    """What to say where the experiment is in MLflow's trash."""
    return (f"The experiment `{EXPERIMENT}` was deleted in MLflow at {home.tracking_uri}, and with it the records of "
            "all runs. The next run restores it; before that, `mlflow experiments restore` does.")


def end_abandoned(home: Home, run_id: str) -> None:
    """Close the run of a stage whose process was killed before it could."""
    close(home, run_id)


class Recording:
    """The MLflow run of one stage. Curves are buffered, so that recording stays cheap."""

    def __init__(self, home: Home, name: str, tags: Mapping[str, str]) -> None:
        self._store = Store(home)
        self._ours = OURS + uuid.uuid4().hex
        self._models = 0
        self._points: list[Point] = []
        self._journal = Journal(home, self._ours)
        self._try_again = 0.0
        self._create = Create(id=self._ours, name=name, tags=tags, start=now_ms())
        self.run_id = self._ours
        """MLflow's id; while the store is away ours, which stands for it."""
        self._write(self._create)

    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters."""
        self._write(Params(values={name: masked(str(value)) for name, value in values.items()}))

    def inputs(self, data: Mapping[str, str], models: list[str]) -> None:
        """Log data sets, as {path: DVC's digest}, and models, as ids, that the stage reads."""
        self._write(Inputs(data=data, models=models))

    def point(self, name: str, value: float, step: int) -> None:
        """Add a point to a curve; written when enough of them have come together."""
        self._points.append((name, value, step, now_ms()))
        if len(self._points) >= LARGEST_BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the points that are waiting."""
        points, self._points = self._points, []
        if points:
            self._write(Metrics(points=points))

    def model(self, name: str, tags: Mapping[str, str]) -> str:
        """Log a model that the stage made, as a pointer; returns MLflow's id, or ours while the store is away."""
        self._models += 1
        made = Model(id=f"{self._ours}-{self._models}", name=name, tags=tags)
        return self._write(made) or made.id

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._write(Tags(values=values))

    def files(self, folder: Path, skip: str = "model") -> None:
        """Keep the small files of a folder as artifacts."""
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            if path.is_file() and relative.parts[0] != skip and path.stat().st_size <= LARGEST_ARTIFACT:
                parent = relative.parent.as_posix()
                self.file(path, None if parent == "." else parent)

    def file(self, path: Path, folder: str | None) -> None:
        """Keep a file as an artifact below `folder`; a second time replaces it."""
        self._write(File(path=path, folder=folder))

    def end(self, status: RunStatus) -> None:
        """Close the run."""
        self.flush()
        self._try_again = 0.0
        self._write(End(status=status, when=now_ms()))
        if not self._journal.exists:
            self._journal.lock.unlink(missing_ok=True)

    def _write(self, write: AnyWrite) -> str | None:
        """Do it now, or keep it for later; returns the id of what it made, if MLflow has given one."""
        with file_lock(self._journal.lock):
            if not self._journal.exists:
                try:
                    return self._apply(write)
                except Exception as error:
                    if not (isinstance(error, NotYet) or is_away(error)):
                        raise
                    sys.stderr.write(f"MLflow does not answer ({' '.join(str(error).split())[:200]}). What is recorded "
                                     "is kept here, and delivered when it does.\n")
                    self._journal.add(self.run_id, write)
                    self._try_again = time.monotonic() + RETRY_SECONDS
            else:
                self._journal.add(self.run_id, write)
                self._deliver()
        return None

    def _apply(self, write: AnyWrite) -> str | None:
        if isinstance(write, Create):
            self.run_id = write.apply(self._store, again=False)
            return self.run_id
        # What waited was delivered by another process meanwhile, or never reached a store that is a new one now.
        self.run_id = self._store.run(self.run_id) or self._create.apply(self._store, again=True)
        try:
            return write.apply(self._store, self.run_id)
        except Exception as error:
            if not is_deleted(error):
                raise
            self._store.restore(self.run_id)
            return write.apply(self._store, self.run_id)

    def _deliver(self) -> None:
        if time.monotonic() < self._try_again:
            return
        self._try_again = time.monotonic() + RETRY_SECONDS
        try:
            self._journal.deliver(self._store)
            self.run_id = self._store.run(self.run_id) or self.run_id
        except Exception as error:
            if not (isinstance(error, NotYet) or is_away(error)):
                raise
