"""The files of a run besides its data and models: its record, parameters, pipeline, dvc.lock and code.

They lie in the run's workspace, and in MLflow under `record/`, from where another machine takes it.
"""

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.errors import UserError
from plumbline.project.dvc_yaml import LOCK, outputs_of
from plumbline.project.home import Home
from plumbline.project.masking import masked
from plumbline.project.run_record import LATEST, RunRecord, find_run, raw_record, read_record
from plumbline.runs.workspace import CODE, IGNORE
from plumbline.tracking.recording import TRIGGER
from plumbline.tracking.store import DELETED, EXPERIMENT, NoAnswer, connect, deleted_experiment, is_away

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RECORD = "record"
"""The folder of a run's MLflow artifacts."""
CODE_ARCHIVE = "code.tar.gz"
"""The code of a run, kept where git cannot give it back: it had changes that were not committed, or no git.
"""
NEWEST = 20


@dataclass(frozen=True)
class Recorded:
    """A run whose files were found."""

    record: RunRecord
    folder: Path
    """Holds run.json, params.yaml, dvc.yaml, dvc.lock, and perhaps code.tar.gz."""
    is_workspace: bool
    """True if the folder is the run's workspace on this machine."""

    @property
    def outputs(self) -> dict[str, str]:
        """The digests of everything that its stages left, by path."""
        return outputs_of(self.folder)


@contextmanager
def recorded(home: Home, name: str, begun: bool = True) -> Iterator[Recorded]:
    """Find the run `latest`, or the one whose id begins with `name`, on this machine or else in MLflow.

    Raises UserError for a run that neither knows, and with `begun` for one that has done no stage.
    """
    folder = _workspace(home, name, begun)
    with tempfile.TemporaryDirectory(prefix="plumbline-") as scratch:
        found, run = (folder, folder.name) if folder else _download(home, name, Path(scratch))
        record = read_record(found) if folder else raw_record(found)
        if record.id != run:
            raise UserError(f"The record that was found for the run {run} is that of {record.id}: it is "
                            "damaged, or somebody has changed it. Nothing was made of it.")
        if begun and not (found / LOCK).exists():
            raise UserError(f"The run {record.id} ended before its first stage was done: there is nothing to "
                            "put back.")
        yield Recorded(record, found, folder is not None)


def pack_code(folder: Path, target: Path) -> None:
    """Write the code of a workspace into an archive."""
    with tarfile.open(target, "w:gz") as archive:
        for name in (*CODE, IGNORE):
            if (folder / name).exists():
                archive.add(folder / name, name, filter=_source_only)


def _source_only(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name else entry


def _workspace(home: Home, name: str, begun: bool) -> Path | None:
    """Return the run's workspace on this machine, if it has all the files that are needed."""
    try:
        folder = find_run(home, name)
    except UserError:
        return None
    needed = ("params.yaml", "dvc.yaml", *([LOCK] if begun else []))
    whole = all((folder / file).exists() for file in needed)
    return folder if whole else None


def _download(home: Home, name: str, target: Path) -> tuple[Path, str]:
    """Download the record of a run from MLflow; return its folder and the run's id."""
    from mlflow.exceptions import MlflowException

    run, client = _find(home, name), connect(home)
    try:
        client.download_artifacts(run.info.run_id, RECORD, str(target))
    except (MlflowException, OSError) as error:
        said = masked(" ".join(str(error).split()))[:300]
        if _may_be_there(client, run):
            raise NoAnswer(f"MLflow at {masked(home.tracking_uri)} has the files `{RECORD}/` of the run "
                           f"{run.info.run_name}, but does not give them now ({said}). Try again when it "
                           "answers.") from error
        raise UserError(f"MLflow at {masked(home.tracking_uri)} knows the run {run.info.run_name}, but not "
                        f"its files `{RECORD}/` ({said}). Restore it on the machine that has its workspace."
                        ) from error
    return target / RECORD, str(run.info.run_name)


def _may_be_there(client: "MlflowClient", run: "Run") -> bool:
    """Return whether MLflow has, or may have, the files of a run: what it fails to fetch it calls missing."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.list_artifacts(run.info.run_id, RECORD))
    except (MlflowException, OSError) as error:
        return is_away(error)


def _find(home: Home, name: str) -> "Run":
    """Find the run in MLflow. Raises UserError unless there is exactly one."""
    from mlflow.exceptions import MlflowException

    client = connect(home)
    beginning = "" if name == LATEST else name.replace("'", "").replace("%", "")
    query = f"tags.`{TRIGGER}` != '' AND attributes.run_name LIKE '{beginning}%'"
    try:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment and experiment.lifecycle_stage == DELETED:
            raise UserError(deleted_experiment(home))
        ids = [experiment.experiment_id] if experiment else []
        runs = list(client.search_runs(ids, query, max_results=NEWEST, order_by=["attributes.start_time "
                                                                                 "DESC"])
                    if ids else [])
    except MlflowException as error:
        said = masked(" ".join(str(error).split()))[:300]
        raise UserError(f"MLflow at {masked(home.tracking_uri)} cannot be read: {said}") from error
    if not runs and name == LATEST:
        raise UserError(f"There are no runs yet: looked in {home.runs} and in MLflow at "
                        f"{masked(home.tracking_uri)}. Start one with `plumbline run`.")
    if not runs:
        raise UserError(f"No run's id begins with `{name}`: looked in {home.runs} and in MLflow at "
                        f"{masked(home.tracking_uri)}. `plumbline runs` lists those of this machine.")
    if len(runs) > 1 and name != LATEST:
        newest = ", ".join(run.info.run_name for run in runs[:5])
        raise UserError(f"`{name}` is the beginning of {len(runs)} runs, the newest {newest}. Give more of "
                        "it.")
    return runs[0]
