"""A run's reports, curves and samples, wherever they are: the run's workspace on this machine, else MLflow's
artifacts.

Nothing here joins what a visitor sent to a path: the names of files are those of the stages. A file is read
only from inside the MLflow run's own folder of artifacts (or the stage's folder), links followed, and only up
to a size. Artifacts of a store elsewhere are downloaded once: what a stage has left does not change.
"""

import json
import logging
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pydantic import ValidationError

from plumbline.alignment.diagnosis import Finding, diagnose
from plumbline.errors import UserError
from plumbline.evaluation.comparing.comparison import JSON, PolicyComparison
from plumbline.evaluation.samples import SAMPLES, Sample, read_samples
from plumbline.history.facts import RECORD
from plumbline.history.history import History, Run
from plumbline.project.dvc_yaml import JOIN, read_stages
from plumbline.project.home import COMPARISON, Home
from plumbline.project.masking import masked
from plumbline.tracking.curves import read_points
from plumbline.tracking.receipts import Receipt
from plumbline.tracking.store import connect

LARGEST = 20_000_000
"""Bytes of a file that a page reads."""
ASK_AGAIN_SECONDS = 60.0
"""After which a store elsewhere is asked again for a file that it did not have, or at all if it kept a page
waiting in vain.
"""
SLOW_SECONDS = 2.0
"""After which a failure was a wait in vain: a page asks for some twenty files."""
MLFLOW_RUN = re.compile(r"[0-9a-f]{32}")
DATA_REPORT = "reports/data"
log = logging.getLogger("plumbline.web")


@dataclass(frozen=True)
class Curve:
    """One measurement over the steps of a stage."""

    name: str
    """Such as `loss`, or `validation/loss`."""
    points: tuple[tuple[float, float], ...]


class Reports:
    """The reports that the runs of one project left."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._artifacts = ArtifactFiles(history.home)

    def file(self, run: Run, stage: str, name: str) -> Path | None:
        """Return the file `name` of a stage's folder in the run, or in the run that made a reused stage; None
        without one.
        """
        step = run.steps.get(stage)
        if step is None:
            return None
        maker = self._history.runs.get(step.made_by or run.id)
        for one in (run, maker):
            if one is not None and one.folder is not None and (folder := _stage_folder(one.folder, stage)):
                found = _inside(one.folder / folder, name)
                if found:
                    return found
        return self._artifacts.file(step.mlflow_run, name) if step.mlflow_run else None

    def text(self, run: Run, stage: str, name: str) -> str | None:
        """Return the text of such a file, or None."""
        file = self.file(run, stage, name)
        return file.read_text(encoding="utf-8", errors="replace") if file else None

    def curves(self, run: Run, stage: str) -> tuple[Curve, ...]:
        """Return the curves that a stage reported step by step."""
        file = self.file(run, stage, "curves.jsonl")
        return _curves(file, file.stat().st_mtime_ns) if file else ()

    def findings(self, run: Run, stage: str) -> list[Finding]:
        """Return what is wrong with a stage's training, by its curves."""
        file = self.file(run, stage, "curves.jsonl")
        if file is None:
            return []
        receipt = self.receipt(run, stage)
        params = json.dumps(receipt.params if receipt else {})
        return list(_findings(file, file.stat().st_mtime_ns, stage, params))

    def samples(self, run: Run, evaluation: str = "preference_eval") -> tuple[Sample, ...]:
        """Return the held-out prompts with the models' answers; none if the run kept none."""
        file = self.file(run, evaluation, f"report/{SAMPLES}")
        return _samples(file, file.stat().st_mtime_ns) if file else ()

    def comparison(self, run: Run) -> PolicyComparison | None:
        """Return the comparison of a run's candidates; None if there is none that can be read."""
        file = self.of_comparison(run, JSON)
        try:
            return PolicyComparison.from_json(file.read_text(encoding="utf-8")) if file else None
        except ValueError:
            return None

    def of_comparison(self, run: Run, name: str) -> Path | None:
        """Return a file of the comparison of a run's candidates, or None."""
        found = _inside(run.folder / COMPARISON, name) if run.folder else None
        return found or self._artifacts.file(run.mlflow_run, f"{RECORD}/{COMPARISON}/{name}")

    def receipt(self, run: Run, stage: str) -> Receipt | None:
        """Return the receipt of a stage from the run that made it; None if there is none that can be read."""
        text = self.text(run, stage, "receipt.json")
        if text is None:
            return None
        try:
            return Receipt.model_validate_json(text)
        except ValidationError:
            return None

    def data_report(self, run: Run) -> Mapping[str, object] | None:
        """Return `report.json`, the report on the data that a run learned from, or None."""
        file = _inside(run.folder / DATA_REPORT, "report.json") if run.folder else None
        file = file or self.file(run, "ingest", "report.json")
        return _json(file, file.stat().st_mtime_ns) if file else None


class ArtifactFiles:
    """The files of MLflow runs, one run at a time."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._cache = home.folder / "pages" / "artifacts"
        self._lock = threading.Lock()
        self._missing: dict[tuple[str, str], float] = {}
        self._silent: float | None = None
        """When the store last kept somebody waiting in vain."""

    def file(self, run: str, name: str) -> Path | None:
        """Return a file of an MLflow run, or None if it has none of that name, or one that is too large to
        show.
        """
        if not MLFLOW_RUN.fullmatch(run):
            return None
        for folder in (self._home.artifacts / run / "artifacts", self._cache / run):
            if found := _inside(folder, name):
                return found
        if (self._home.artifacts / run).is_dir() or self._in_vain(run, name):
            return None
        with self._lock:
            found = _inside(self._cache / run, name)
            if found or self._in_vain(run, name):  # somebody asked meanwhile
                return found
            found = self._elsewhere(run, name)
            if found is None:
                self._missing[run, name] = time.monotonic()
            return found

    def _in_vain(self, run: str, name: str) -> bool:
        """True if the store has lately not had this file, or not answered at all."""
        asked = [when for when in (self._missing.get((run, name)), self._silent) if when is not None]
        return bool(asked) and time.monotonic() - max(asked) < ASK_AGAIN_SECONDS

    def _elsewhere(self, run: str, name: str) -> Path | None:
        """Download the file from MLflow's store, or find it in the store's folder; None if it cannot be
        had.
        """
        began = time.monotonic()
        try:
            client = connect(self._home)
            uri = urlsplit(client.get_run(run).info.artifact_uri)
            if uri.scheme in ("file", ""):
                folder = Path(url2pathname(uri.path)).resolve()
                ours = folder.is_relative_to(self._home.artifacts.resolve())
                return _inside(folder, name) if ours else None
            parent = PurePosixPath(name).parent.as_posix()
            listed = client.list_artifacts(run, None if parent == "." else parent)
            size = next((one.file_size for one in listed if one.path == name and not one.is_dir), None)
            if size is None or size > LARGEST:
                return None
            return self._download(client.download_artifacts, run, name)
        except Exception as error:  # a store that does not answer, or answers nonsense
            log.warning("MLflow's file %s of run %s could not be read: %s", name, run, masked(str(error)))
            if time.monotonic() - began >= SLOW_SECONDS:
                self._silent = time.monotonic()
            return None

    def _download(self, download: Callable[[str, str, str], str], run: str, name: str) -> Path | None:
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._cache, prefix=".new-") as draft:
            made = Path(download(run, name, draft))
            target = self._cache / run / name
            target.parent.mkdir(parents=True, exist_ok=True)
            made.replace(target)
        return _inside(self._cache / run, name)


def _inside(folder: Path, name: str) -> Path | None:
    """Return the file if it lies in the folder after following links, and has at most LARGEST bytes."""
    base = folder.resolve()
    file = (base / name).resolve()
    if not file.is_relative_to(base) or not file.is_file() or file.stat().st_size > LARGEST:
        return None
    return file


def _stage_folder(workspace: Path, stage: str) -> str | None:
    try:
        return _declared_folder(workspace, stage)
    except (OSError, UserError):  # such as of a workspace that is being deleted, and may be restored
        return None


@lru_cache(maxsize=64)
def _declared_folder(workspace: Path, stage: str) -> str | None:
    candidate = stage.partition(JOIN)[2]
    # A candidate's folder has its name, whatever its parameters are.
    declared = read_stages(workspace, {"compare": {candidate: ""} if candidate else {}}).get(stage)
    return declared.folder if declared else None


@lru_cache(maxsize=64)
def _curves(file: Path, _changed: int) -> tuple[Curve, ...]:
    found: dict[str, list[tuple[float, float]]] = {}
    for point in read_points(file):
        step, what = point.pop("step", None), point.pop("what", "")
        for name, value in point.items():
            if isinstance(step, int | float) and isinstance(value, int | float):
                found.setdefault(f"{what}/{name}" if what else name, []).append((float(step), float(value)))
    return tuple(Curve(name, tuple(points)) for name, points in found.items())


@lru_cache(maxsize=64)
def _findings(file: Path, _changed: int, stage: str, params: str) -> tuple[Finding, ...]:
    return tuple(diagnose(read_points(file), stage, json.loads(params)))


@lru_cache(maxsize=16)
def _samples(file: Path, _changed: int) -> tuple[Sample, ...]:
    with file.open(encoding="utf-8") as lines:
        return tuple(read_samples(lines))


@lru_cache(maxsize=16)
def _json(file: Path, _changed: int) -> Mapping[str, object] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
