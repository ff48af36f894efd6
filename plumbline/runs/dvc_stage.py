"""DVC inside the flow's process: restore a stage from the cache, clear its outputs, keep what it made.

`dvc repro` in a child process would do the same, and take 0.8 s more for a stage that runs. Only the stage's
command needs the child. DVC's repository is opened once a run, and dvc.lock is written here: DVC's own
`stage.dump` keeps the comments of a file that has none, and that took two thirds of the time of a run that
reuses everything.
"""

import contextlib
import functools
import io
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ruamel.yaml import YAML

from plumbline.errors import UserError, as_user_error
from plumbline.project.digests import digest, drop_damaged
from plumbline.project.dvc_yaml import LOCK, read_lock
from plumbline.whole_file import write_whole

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import PipelineStage
    from dvc.stage.loader import StageLoader

ATTEMPTS = 20
LOCK_SECONDS = 600.0
"""How long to wait for DVC's lock of a workspace: gc takes it again and again for moments, and a person's
`dvc` there may hold it for minutes."""


def restore(root: Path, name: str) -> bool:
    """Restore the outputs of a stage from the run cache; False if it has not run with these inputs before, or
    the cache holds other bytes than it left: these are deleted.

    Parameters, code and command count as inputs.
    """
    from dvc.stage.cache import RunCacheNotFoundError

    with _locked(root, name) as (repo, stage):
        try:
            _again_if_disturbed(lambda: repo.stage_cache.restore(stage))
        except RunCacheNotFoundError:
            return False
        stage.save(run_cache=False)  # what came from the cache need not go there
        # DVC notes the digests of what it copies, and does not look at the bytes.
        expected = _digests(stage)
        if any(digest(root / path) != md5 for path, md5 in expected.items()):
            damaged = drop_damaged(_cache(repo), expected.values())
            sys.stderr.write(f"What stage `{name}` left before was damaged in the cache: {len(damaged)} of "
                             "its files had other bytes than when they were kept, as after a power loss. "
                             "They were deleted, and the stage runs again.\n")
            return False
        _write_entry(root, stage)
    return True


def clear(root: Path, name: str) -> None:
    """Delete the outputs that a stage is about to make anew."""
    with _locked(root, name) as (_, stage):
        stage.remove_outs()


def commit(root: Path, name: str) -> None:
    """Put the outputs of a stage that has just been run into the cache and into dvc.lock.

    Raises UserError for outputs that are not there and for a cache that does not take them: dvc.lock is as it
    was then.
    """
    from dvc.exceptions import DvcException

    with _locked(root, name) as (repo, stage), _complaints() as complaints:
        try:
            _again_if_disturbed(stage.save)
            drop_damaged(_cache(repo), _digests(stage).values())  # DVC would take them for these outputs
            stage.commit()
        except (DvcException, OSError) as error:
            complaints.append(error)
        if complaints:
            raise _not_kept(name, repo, complaints)
        _write_entry(root, stage)


def _digests(stage: "PipelineStage") -> dict[str, str]:
    """Return the digests of a stage's outputs, as DVC has them, by path."""
    return {str(out.def_path): str(out.hash_info.value) for out in stage.outs}


def _cache(repo: "Repo") -> Path:
    return Path(repo.cache.local.path).parents[1]


def _write_entry(root: Path, stage: "PipelineStage") -> None:
    """Write into dvc.lock what DVC has found of a stage."""
    from dvc.stage.serialize import to_lockfile

    entry = json.loads(json.dumps(to_lockfile(stage)))  # plain dicts
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.StringIO()
    yaml.dump({"schema": "2.0", "stages": {**read_lock(root), **entry}}, text)
    write_whole(root / LOCK, text.getvalue())


def _again_if_disturbed(act: Callable[[], object]) -> None:
    """Call `act`, and again if DVC has met another run's draft in the run cache that was just renamed."""
    for _ in range(ATTEMPTS):
        try:
            act()
        except FileNotFoundError as error:
            if not str(error.filename).endswith(".tmp"):
                raise
        else:
            return
    act()


@functools.lru_cache(maxsize=1)
def _opened(root: Path) -> tuple["Repo", "StageLoader"]:
    """Return the DVC repository of a workspace and its stages, with the entries that dvc.lock has before the
    run.
    """
    from dvc.dvcfile import ProjectFile, load_file
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    repo = Repo(str(root))
    project = load_file(repo, str(root / "dvc.yaml"))
    assert isinstance(project, ProjectFile)
    return repo, project.stages


@contextlib.contextmanager
def _locked(root: Path, name: str) -> Iterator[tuple["Repo", "PipelineStage"]]:
    """Yield the repository and a stage as dvc.yaml declares it, with DVC's lock held."""
    repo, stages = _opened(root)
    stage = stages[name]
    _wait_for_lock(repo)
    try:
        # DVC looks for the dvc.yaml of a cached stage in the current folder.
        with contextlib.chdir(root):
            yield repo, stage
    finally:
        repo.lock.unlock()


def _wait_for_lock(repo: "Repo") -> None:
    """Take DVC's lock. Raises UserError if another process has it for LOCK_SECONDS."""
    from dvc.lock import LockError

    deadline, told = time.monotonic() + LOCK_SECONDS, False
    while True:
        try:
            repo.lock.lock()  # which tries for three seconds
        except LockError as error:
            if time.monotonic() > deadline:
                raise UserError(f"Another process has had DVC's lock of {repo.root_dir} for "
                                f"{LOCK_SECONDS:g} seconds. End the `dvc` or `plumbline gc` that holds it, "
                                "then `plumbline retry`: finished stages are kept.") from error
            if not told:
                sys.stderr.write(f"Waiting for DVC's lock of {repo.root_dir}, which another process has.\n")
            told = True
        else:
            return


@contextlib.contextmanager
def _complaints() -> Iterator[list[BaseException]]:
    """Collect the errors that DVC only logs: it goes on if a file could not be copied into the cache."""
    found: list[BaseException] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append((record.exc_info and record.exc_info[1]) or RuntimeError(record.getMessage()))

    logger = logging.getLogger("dvc_data")
    before, logger.handlers = logger.handlers, [Keep(logging.ERROR)]
    try:
        yield found
    finally:
        logger.handlers = before


def _not_kept(name: str, repo: "Repo", complaints: list[BaseException]) -> UserError:
    full = next((problem for error in complaints if (problem := as_user_error(error))), None)
    return full or UserError(f"What stage `{name}` left could not be kept in the cache "
                             f"{repo.cache.local.path}: "
                             f"{'; '.join(dict.fromkeys(str(error) for error in complaints))}. Put that "
                             "right, then `plumbline retry`: finished stages are kept.")
