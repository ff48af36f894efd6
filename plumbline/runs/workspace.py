"""A run's workspace: a folder of its own with the pipeline, the resolved parameters and a copy of the code.

Runs can go side by side, and editing the checkout cannot change a run that has started. The workspace is a
DVC repository without git whose cache all runs share, so that a stage which any run has done before is
restored, not repeated.
"""

import secrets
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from os import getpid
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from ruamel.yaml import YAML

from plumbline.config import Params
from plumbline.errors import UserError
from plumbline.project.dvc_yaml import StageSpec, read_stages
from plumbline.project.home import Home
from plumbline.project.masking import masked_value
from plumbline.project.processes import local_process
from plumbline.project.run_record import Outcome, RunRecord

CODE = ("plumbline", "tasks", "flows")
IGNORE = ".dvcignore"
"""Says what is no code; digests depend on it."""


class Request(BaseModel):
    """What a run is asked to do; Prefect shows it as a form."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    params_file: str | None = None
    """File laid over params.yaml; a relative path starts at the project's root."""
    settings: list[str] = []
    """Single parameters, such as `ppo.kl_coef=0.1`."""
    until: str | None = None
    """Last stage to run; all of them when empty."""
    force: list[str] = []
    """Stages to run even if nothing changed."""
    trigger: str = "command line"
    """What started the run."""
    retry_of: str | None = None
    """A run to go on from, with its parameters, code and snapshot; see `plumbline retry`."""
    new_code: bool = False
    """A retry takes the checkout's code and not that of the run."""
    compare: list[str] = []
    """Candidates to set beside PPO, as `plumbline compare` does; empty for an ordinary run."""


GitState = tuple[str | None, bool | None]
"""The commit of some code, and whether it has uncommitted changes; None where there is no git."""


@dataclass(frozen=True)
class Workspace:
    """One run: its folder, its parameters, and the record that it keeps up to date."""

    home: Home
    folder: Path
    params: Params
    record: RunRecord
    stages: Mapping[str, StageSpec]
    """The stages of its dvc.yaml, in the order of the file."""
    after_stage: Callable[[str, Outcome], None] = lambda _stage, _outcome: None
    """Called for each stage that has ended, after the record has been saved."""

    def done(self, stage: str, outcome: Outcome) -> None:
        """Save the outcome of a stage in the record."""
        self.record.stages[stage] = outcome
        self.record.save(self.folder)
        self.after_stage(stage, outcome)

    @property
    def complete(self) -> bool:
        """True if the last stage that was asked for has been done."""
        return self.record.until in self.record.stages


def create_workspace(home: Home, params: Params, request: Request,
                     put_code: Callable[[Path], GitState]) -> Workspace:
    """Make the workspace of a new run, whole or not at all; `put_code` lays down its code and dvc.yaml."""
    created = datetime.now(UTC)
    name = f"{created:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    folder = home.runs / name
    (folder / "logs").mkdir(parents=True)
    try:
        return _fill(home, folder, params, request, put_code(folder), created)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _fill(home: Home, folder: Path, params: Params, request: Request, code: GitState,
          created: datetime) -> Workspace:
    with (folder / "params.yaml").open("w", encoding="utf-8") as out:
        YAML().dump(_without_secrets(params), out)
    init_dvc(folder, home)
    commit, dirty = code
    process = local_process(getpid())
    record = RunRecord(id=folder.name, created=created.isoformat(timespec="seconds"), trigger=request.trigger,
                       params_file=request.params_file, settings=request.settings, until=request.until,
                       force=request.force, compare=request.compare, retry_of=request.retry_of,
                       project=str(home.root),
                       git_commit=commit, git_dirty=dirty, pid=process.pid, pid_began=process.began,
                       host=process.host)
    record.save(folder)
    return Workspace(home, folder, params, record, read_stages(folder))


def _without_secrets(params: Params) -> dict[str, object]:
    """Return the parameters as kept with the run and in MLflow; no stage reads what is masked."""
    kept = params.model_dump()
    if params.retrain.webhook:
        kept["retrain"]["webhook"] = masked_value("webhook", params.retrain.webhook)
    return kept


def copy_checkout(root: Path, folder: Path) -> GitState:
    """Copy the code and dvc.yaml of the checkout at `root` into a workspace."""
    for room in CODE:
        if (root / room).is_dir():
            shutil.copytree(root / room, folder / room, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for file in ("dvc.yaml", IGNORE):
        if (root / file).exists():
            shutil.copy(root / file, folder / file)
    return git_state(root)


def git_state(root: Path) -> GitState:
    """Return the state of the checkout at `root`."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def init_dvc(folder: Path, home: Home) -> None:
    """Make a DVC repository without git that shares the project's cache and its remotes."""
    # What `dvc init --no-scm` and four `dvc config` would write, in a millisecond instead of two seconds.
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
        f'[cache]\n    dir = {_quoted(str(home.cache))}\n    type = "reflink,copy"\n', encoding="utf-8")
    settings = [home.root / ".dvc" / name for name in ("config", "config.local")]
    if any(file.exists() and "remote" in file.read_text(encoding="utf-8") for file in settings):
        _carry_remotes(home.root, folder)


def _quoted(value: str) -> str:
    """Return a value for DVC's configuration, in which `#` begins a comment and a comma parts a list.

    Raises UserError for one that holds both kinds of quotes, which the format cannot write.
    """
    for quote in ('"', "'"):
        if quote not in value:
            return f"{quote}{value}{quote}"
    raise UserError(f"The project's folder has both kinds of quotes in its path, {value}, which DVC's "
                    "configuration cannot name. Rename it.")


def _carry_remotes(root: Path, folder: Path) -> None:
    from dvc.config import Config

    checkout = Config(str(root / ".dvc"), validate=False)
    (folder / ".dvc" / "config.local").touch(mode=0o600)  # it may hold the remotes' keys
    with Config(str(folder / ".dvc")).edit("local") as local:
        for level in ("repo", "local"):
            found = checkout.load_one(level)  # its relative paths are made absolute
            for name, options in found["remote"].items():
                local["remote"].setdefault(name, {}).update(options)
            local["core"].update({key: value for key, value in found["core"].items() if key == "remote"})
