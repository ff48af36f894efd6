"""DVC inside the flow's process: restore a stage from the cache, make room for what it makes, keep what it left.

`dvc repro` in a child process would do the same, and take 0.8 s more for a stage that runs. Only the stage's command
needs the child.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.errors import UserError, as_user_error

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

ATTEMPTS = 20


def restore(root: Path, name: str) -> bool:
    """Bring back the outputs of a stage that has run before with the same inputs, parameters, code and command."""
    from dvc.stage.cache import RunCacheNotFoundError

    with _locked(root, name) as (repo, stage):
        try:
            _again_if_disturbed(lambda: repo.stage_cache.restore(stage))
        except RunCacheNotFoundError:
            return False
        stage.save(run_cache=False)  # what came from the cache need not go there
        stage.dump(update_pipeline=False)
    return True


def clear(root: Path, name: str) -> None:
    """Delete the outputs that a stage is about to make anew."""
    with _locked(root, name) as (_, stage):
        stage.remove_outs()


def commit(root: Path, name: str) -> None:
    """Put the outputs of a stage that has just been run into the cache and into dvc.lock.

    Raises UserError for outputs that are not there and for a cache that does not take them: dvc.lock is as it was then.
    """
    from dvc.exceptions import DvcException

    with _locked(root, name) as (repo, stage), _complaints() as complaints:
        try:
            _again_if_disturbed(stage.save)
            stage.commit()
        except (DvcException, OSError) as error:
            complaints.append(error)
        if complaints:
            raise _not_kept(name, repo, complaints)
        stage.dump(update_pipeline=False)


def _again_if_disturbed(act: Callable[[], object]) -> None:
    """Do it, and again where DVC has read another run's draft in the run cache, which was renamed at that moment."""
    for _ in range(ATTEMPTS):
        try:
            act()
        except FileNotFoundError as error:
            if not str(error.filename).endswith(".tmp"):
                raise
        else:
            return
    act()


@contextlib.contextmanager
def _locked(root: Path, name: str) -> Iterator[tuple["Repo", "PipelineStage"]]:
    """A stage, for us alone."""
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    repo = Repo(str(root))
    stage = repo.stage.load_one(str(root / "dvc.yaml"), name)
    with contextlib.chdir(root), repo.lock:  # DVC looks for the dvc.yaml of a cached stage in the current folder
        yield repo, stage


@contextlib.contextmanager
def _complaints() -> Iterator[list[BaseException]]:
    """What DVC only logs: it goes on when a file could not be copied into the cache."""
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
    return full or UserError(f"What stage `{name}` left could not be kept in the cache {repo.cache.local.path}: "
                             f"{'; '.join(dict.fromkeys(str(error) for error in complaints))}. "
                             "Put that right, then `plumbline retry`: finished stages are kept.")
