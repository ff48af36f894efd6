"""Record a run in MLflow: one parent run a pipeline run, one nested run a stage.

Data sets and models are inputs and outputs of each. Weights are never copied to MLflow; a logged model is a
pointer that carries DVC's digest and path. Recording never stops what is recorded: while the store is away,
writes wait in the run's outbox.
"""

import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from plumbline.project.home import Home
from plumbline.project.locks import file_lock
from plumbline.project.masking import masked
from plumbline.tracking.outbox import Outbox
from plumbline.tracking.store import OURS, MlflowStore, is_away, is_deleted
from plumbline.tracking.writes import (
    LARGEST_BATCH,
    AnyWrite,
    CreateRun,
    EndRun,
    LogFile,
    LogInputs,
    LogMetrics,
    LogModel,
    LogParams,
    Point,
    RunStatus,
    SetTags,
    now_ms,
)

TRIGGER = "plumbline.trigger"
"""A tag that the run of a whole pipeline has, and the run of a stage has not."""
TAG_JOIN = ":"
"""In tags, whose names MLflow limits, in place of the @ in a stage's name."""
LARGEST_ARTIFACT = 5_000_000
RETRY_SECONDS = 30.0
"""How often a recording tries a store that is away; a locked database costs each try 20 s."""


class Recording:
    """The MLflow run of one stage or pipeline run. Curves are buffered, so that recording stays cheap."""

    def __init__(self, home: Home, name: str, tags: Mapping[str, str]) -> None:
        """Begin the run. Raises StoreBroken for a store that a person has to put right; then nothing waits.
        """
        self._store = MlflowStore(home)
        self._ours = OURS + uuid.uuid4().hex
        self._outbox = Outbox(home, self._ours)
        self._models = 0
        self._points: list[Point] = []
        self._try_again = 0.0
        try:
            self._write(CreateRun(id=self._ours, name=name, tags=tags, start=now_ms()))
        except BaseException:
            self._outbox.drop()
            raise

    @property
    def run_id(self) -> str:
        """MLflow's id; while the store is away ours, which stands for it."""
        return self._store.known(self._ours)

    @property
    def outbox(self) -> str:
        """The id of ours: what MLflow does not take waits under it, whoever adds to it."""
        return self._ours

    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters."""
        self._write(LogParams(values={name: masked(str(value)) for name, value in values.items()}))

    def inputs(self, data: Mapping[str, str], models: list[str]) -> None:
        """Log data sets, as {path: DVC's digest}, and models, as ids, that the stage reads."""
        self._write(LogInputs(data=data, models=models))

    def point(self, name: str, value: float, step: int) -> None:
        """Add a point to a curve; written when LARGEST_BATCH of them have come together."""
        self._points.append((name, value, step, now_ms()))
        if len(self._points) >= LARGEST_BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the points that are buffered."""
        points, self._points = self._points, []
        if points:
            self._write(LogMetrics(points=points))

    def model(self, name: str, tags: Mapping[str, str]) -> str:
        """Log a model that the stage made, as a pointer; return MLflow's id, or ours while the store is away.
        """
        self._models += 1
        model = LogModel(id=f"{self._ours}-{self._models}", name=name, tags=tags)
        self._write(model)
        return self._store.known(model.id)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._write(SetTags(values=values))

    def files(self, folder: Path, skip: str = "model") -> None:
        """Keep the files of a folder as artifacts, but those over LARGEST_ARTIFACT bytes and those below
        `skip`.
        """
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            if path.is_file() and relative.parts[0] != skip and path.stat().st_size <= LARGEST_ARTIFACT:
                parent = relative.parent.as_posix()
                self.file(path, None if parent == "." else parent)

    def file(self, path: Path, folder: str | None) -> None:
        """Keep a file as an artifact below `folder`; a second time replaces it."""
        self._write(LogFile(path=path, folder=folder))

    def end(self, status: RunStatus) -> None:
        """Close the run."""
        self.flush()
        self._try_again = 0.0
        self._write(EndRun(status=status, when=now_ms()))
        if not self._outbox.exists:
            self._outbox.lock.unlink(missing_ok=True)

    def _write(self, write: AnyWrite) -> None:
        """Do a write now, or keep it while the store is away."""
        with file_lock(self._outbox.lock):
            waited = self._outbox.exists
            if waited and time.monotonic() < self._try_again:
                self._outbox.add(write)
                return
            try:
                self._outbox.send(self._store, self._restore, write)
            except Exception as error:
                if not is_away(error):
                    raise
                if not waited:
                    said = " ".join(str(error).split())[:200]
                    sys.stderr.write(f"MLflow does not answer ({said}). What is recorded is kept here, and "
                                     "delivered when it does.\n")
            self._try_again = time.monotonic() + RETRY_SECONDS

    def _restore(self, _run: str, error: Exception) -> bool:
        """Bring back a run that somebody has deleted while it is recorded; raise what else MLflow says."""
        if not is_deleted(error):
            raise error
        self._store.restore(self.run_id)
        return True
