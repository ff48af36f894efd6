"""DVC inside the flow's process: restore a stage from the cache, or write down what a stage left.

`dvc repro` in a child process would do the same, at 0.4 s a stage for starting Python; this takes a tenth. Only a stage
that really has to run needs the child.
"""

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

LockEntry = dict[str, object]


def restore(root: Path, name: str) -> bool:
    """Bring back the outputs of a stage that has run before with the same inputs, parameters, code and command."""
    from dvc.stage.cache import RunCacheNotFoundError

    repo, stage = _load(root, name)
    with contextlib.chdir(root), repo.lock:  # DVC looks for the cached stage's dvc.yaml in the current folder
        try:
            repo.stage_cache.restore(stage)
        except RunCacheNotFoundError:
            return False
        stage.save(run_cache=False)  # what came from the cache need not go there
        stage.dump(update_pipeline=False)
    return True


def commit(root: Path, name: str) -> None:
    """Put the outputs of a stage that has just been run into the cache and into dvc.lock."""
    repo, stage = _load(root, name)
    with repo.lock:
        stage.save()
        stage.commit()
        stage.dump(update_pipeline=False)


def lock_entry(root: Path, name: str) -> LockEntry | None:
    """What dvc.lock in `root` says about a stage: cmd, deps, params, outs. None when it has not been done there."""
    file = root / "dvc.lock"
    if not file.exists():
        return None
    try:
        lock = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except YAMLError:
        lock = None
    # The lock of another run may be half written at this moment: then that run has not done the stage yet.
    entry = lock.get("stages", {}).get(name) if lock else None
    return dict(entry) if entry else None


def _load(root: Path, name: str) -> tuple["Repo", "PipelineStage"]:
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    repo = Repo(str(root))
    return repo, repo.stage.load_one(str(root / "dvc.yaml"), name)
