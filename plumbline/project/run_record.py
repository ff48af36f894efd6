"""`run.json`: the request of one run of the pipeline, and the outcomes of its stages."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from plumbline.errors import UserError
from plumbline.project.home import RECORD_FILE, Home
from plumbline.project.masking import masked, masked_setting
from plumbline.project.processes import ProcessId
from plumbline.whole_file import write_whole

RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
"""When it was made, and a few digits at random. A record may come from a store that others write to, and an
id becomes a folder: so nothing else is taken for one.
"""
DVC_REPRO = "dvc repro"
"""In place of a run's id where `plumbline run` did not start the stage."""
LATEST = "latest"
"""The name of the newest run."""
Status = Literal["running", "finished", "failed", "cancelled", "killed"]


class Outcome(BaseModel):
    """The outcome of one stage in one run."""

    model_config = ConfigDict(frozen=True)

    status: Literal["ran", "reused", "failed"]
    seconds: float
    reason: Annotated[str, AfterValidator(masked)]
    """Why it ran, or since when it was reused."""
    mlflow_run: str | None = None
    """The MLflow run that really made the result."""
    made_by: str | None = None
    """The pipeline run that really made the result; None for plain `dvc repro`."""


class RunRecord(BaseModel):
    """One pipeline run."""

    id: Annotated[str, Field(pattern=f"^{RUN_ID.pattern}$")]
    created: str
    ended: str | None = None
    trigger: str = "command line"
    params_file: str | None = None
    settings: list[Annotated[str, AfterValidator(masked_setting)]] = []
    until: str | None = None
    force: list[str] = []
    compare: list[str] = []
    """The candidates that were set beside PPO; empty for an ordinary run."""
    project: str
    """The checkout that the run was started from."""
    git_commit: str | None = None
    git_dirty: bool | None = None
    """True if the checkout had changes that were not committed."""
    mlflow_run: str | None = None
    outbox: str | None = None
    """The id of ours that its MLflow run has, under which waits what MLflow has not taken yet; None in
    records of earlier versions.
    """
    pid: int
    pid_began: int | None = None
    """When that process began, in ticks since the machine did: numbers of processes are given again."""
    host: str
    retry_of: str | None = None
    """The run that this one goes on from, with its parameters, code and snapshot."""
    pinned: str | None = None
    """Why `plumbline gc` must keep it."""
    status: Status = "running"
    message: str | None = None
    """Why a run did not finish."""
    stages: dict[str, Outcome] = {}

    def save(self, workspace: Path) -> None:
        """Write the record, whole or not at all: other processes read it at any time."""
        write_whole(workspace / RECORD_FILE, self.model_dump_json(indent=1) + "\n")


def read_record(workspace: Path) -> RunRecord:
    """Return the record of a workspace; a run whose process is gone counts as killed."""
    record = raw_record(workspace)
    if record.status == "running" and is_gone(record):
        record.status = "killed"
    return record


def raw_record(workspace: Path) -> RunRecord:
    """Return the record of a workspace as it was written.

    Raises FileNotFoundError if there is none, and UserError for a damaged one.
    """
    file = workspace / RECORD_FILE
    try:
        return RunRecord.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError):
        raise UserError(f"{file} is damaged, or of another version of Plumbline. Delete the folder "
                        f"{workspace}: `plumbline restore {workspace.name}` brings a recorded run "
                        "back.") from None


def readable_records(folders: Iterable[Path]) -> tuple[list[RunRecord], list[str]]:
    """Return the records of workspaces, as `read_record`, and a message for each that cannot be read."""
    found, damaged = [], []
    for folder in folders:
        try:
            found.append(read_record(folder))
        except UserError as error:
            damaged.append(str(error))
        except FileNotFoundError:  # deleted at this moment
            continue
    return found, damaged


def workspace_of(home: Home, run: str) -> Path | None:
    """Return the workspace of a run if it is on this machine; None for a text that is no id of a run."""
    folder = home.runs / run
    return folder if RUN_ID.fullmatch(run) and folder.is_dir() else None


def is_gone(record: RunRecord) -> bool:
    """Return True if the process of a run was on this machine and has ended."""
    return bool(ProcessId(record.pid, record.pid_began, record.host).has_ended())


def run_folders(home: Home) -> list[Path]:
    """Return the workspaces of all runs, oldest first: their names begin with the time.

    A folder of another name is being restored or deleted, or is a copy that a person keeps.
    """
    found = (file.parent for file in home.runs.glob(f"*/{RECORD_FILE}"))
    return sorted(folder for folder in found if RUN_ID.fullmatch(folder.name))


def earlier_runs(home: Home, before: str) -> Iterator[Path]:
    """Yield the workspaces of the runs that started before the run `before`, newest first."""
    return (folder for folder in reversed(run_folders(home)) if folder.name < before)


def runs_called(name: str, newest_first: Sequence[str]) -> list[str]:
    """Return the ids that a name means: the first for `latest`, otherwise all that begin with the name."""
    if name == LATEST:
        return list(newest_first[:1])
    return [run for run in newest_first if name and run.startswith(name)]


def find_run(home: Home, name: str) -> Path:
    """Return the workspace of the run `latest`, or of the one run whose id begins with `name`. Raises
    UserError.
    """
    ids = [folder.name for folder in reversed(run_folders(home))]
    if not ids:
        raise UserError(f"There are no runs in {home.runs} yet. Start one with `plumbline run`.")
    found = runs_called(name, ids)
    if not found:
        raise UserError(f"No run's id begins with `{name}`; the newest is {ids[0]}. See `plumbline runs`.")
    if len(found) > 1:
        newest = ", ".join(reversed(found[:5]))
        raise UserError(f"`{name}` is the beginning of {len(found)} runs, the newest {newest}. Give more of "
                        "it.")
    return home.runs / found[0]
