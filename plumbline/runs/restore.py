"""Put back a run's data, parameters and models: `plumbline restore RUN`.

The record says which bytes belong to the run; they come from the cache, or from the DVC remotes. The
workspace is made beside its place, checked against dvc.lock, and moved there when it is whole, so that nobody
ever sees half of one.
"""

import contextlib
import io
import logging
import os
import secrets
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from plumbline.errors import UserError
from plumbline.project.digests import digest, require_inside
from plumbline.project.dvc_objects import Storage
from plumbline.project.dvc_yaml import LOCK, dependencies_of, is_code, outputs_of, read_lock
from plumbline.project.home import COMPARISON, RECORD_FILE, Home
from plumbline.project.locks import gc_waits
from plumbline.project.run_record import read_record
from plumbline.runs.run_files import CODE_ARCHIVE, Recorded, recorded
from plumbline.runs.workspace import CODE, IGNORE, init_dvc

NEW, OLD = ".new-", ".old-"
"""Begin the names of workspaces that are being made and of those that are being deleted."""
KEPT = ("params.yaml", "dvc.yaml", LOCK)
SHOWN = 5


@dataclass(frozen=True)
class Restored:
    """A run that is whole again."""

    run: str
    folder: Path
    was_whole: bool
    """Nothing had to be done."""
    outputs: dict[str, str]
    """The digests of its data, models and reports, by path."""
    other_code: list[str]
    """Code that differs from what the run's stages used: repeating them may give other numbers."""


def restore(home: Home, name: str, target: Path | None = None) -> Restored:
    """Put a run back into `runs/`, or into `target`, which must not exist.

    Raises UserError for an unknown run, one that is still going on, and when something is neither in the
    cache nor in a remote; then nothing has been made.
    """
    if target and target.exists():
        raise UserError(f"{target} exists already; expected a folder that is still to be made.")
    with recorded(home, name) as found:
        run = found.record.id
        folder = target or home.runs / run
        if not target:
            _require_replaceable(folder, run)
        if not target and found.record.status == "running":
            raise UserError(f"The run {run} is still going on, by its record on {found.record.host}. Wait "
                            "for its end, or restore what it has done so far elsewhere, with --to DIR. If "
                            f"that machine or container is gone for good, `plumbline cancel {run} --gone` "
                            "closes the run.")
        if not target and found.is_workspace and not _differing(folder):
            return Restored(run, folder, True, found.outputs, other_code(folder))
        with gc_waits(home.folder):
            _bring(home, found)
            return Restored(run, folder, False, found.outputs, _make(home, found, folder))


def _require_replaceable(folder: Path, run: str) -> None:
    """Raise UserError if something at a run's place is not its workspace: it would be deleted."""
    if not folder.exists() and not folder.is_symlink():
        return
    record = folder / RECORD_FILE
    ours = read_record(folder).id == run if record.exists() else (folder / ".dvc").is_dir()
    if folder.is_symlink() or not ours:
        raise UserError(f"{folder} is not the workspace of the run {run}, and nothing of it was touched. "
                        "Move it away, or restore the run elsewhere with --to DIR.")


def other_code(folder: Path) -> list[str]:
    """Return the paths of the code in a workspace that differs from what its stages used, as dvc.lock has it.
    """
    differing = set()
    for entry in read_lock(folder).values():
        used = dependencies_of(entry)
        differing |= {path for path, md5 in used.items() if is_code(path) and not _is(folder / path, md5)}
    return sorted(differing)


def _bring(home: Home, found: Recorded) -> None:
    storage = Storage(home)
    wanted = found.outputs
    storage.drop_damaged(wanted.values())
    storage.fetch(wanted.values())
    gone = [path for path, md5 in wanted.items() if storage.lacking([md5])]
    if gone:
        raise UserError(f"The run {found.record.id} cannot be restored: {len(gone)} of its {len(wanted)} "
                        f"outputs are gone: {_some(gone)}. Looked in {storage.where()}. Nothing was made. "
                        f"Push the run where it still is: `plumbline push {found.record.id}`.")


def _make(home: Home, found: Recorded, folder: Path) -> list[str]:
    """Build the workspace beside its place and move it there; return the code that could not be put back."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.parent / f"{NEW}{folder.name}-{secrets.token_hex(3)}"
    draft.mkdir()
    try:
        for file in KEPT:
            shutil.copy(found.folder / file, draft / file)
        put_code(home, found, draft)
        for kept in ("logs", COMPARISON):
            if (found.folder / kept).is_dir():
                shutil.copytree(found.folder / kept, draft / kept)
        init_dvc(draft, home)
        _check_out(draft)
        differing = _differing(draft)
        if differing:
            raise UserError(f"The run {found.record.id} came out of the cache other than it was recorded: "
                            f"{_some(differing)}. Nothing was made; try again.")
        code = other_code(draft)
        shutil.copy(found.folder / RECORD_FILE, draft / RECORD_FILE)
        _put_in_place(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return code


def put_code(home: Home, found: Recorded, draft: Path) -> bool:
    """Lay down a run's code: from its workspace, its archive, git, or else the checkout as it is now.

    Return False for the checkout's, which may be other code than the run's.
    """
    archive = found.folder / CODE_ARCHIVE
    if archive.exists():
        with tarfile.open(archive) as packed:
            packed.extractall(draft, filter="data")
        return True
    if not found.is_workspace and (committed := _from_git(home.root, found.record.git_commit)):
        with tarfile.open(fileobj=io.BytesIO(committed)) as packed:
            packed.extractall(draft, filter="data")
        return True
    source = found.folder if found.is_workspace else home.root
    for room in CODE:
        if (source / room).is_dir():
            shutil.copytree(source / room, draft / room, ignore=shutil.ignore_patterns("__pycache__"))
    if (source / IGNORE).exists():
        shutil.copy(source / IGNORE, draft / IGNORE)
    return found.is_workspace


def _from_git(root: Path, commit: str | None) -> bytes | None:
    """Return what a commit has of the code as a tar file, or None if the checkout does not have the commit or
    there is no git.
    """
    if commit is None or shutil.which("git") is None:
        return None
    # In a folder of a repository both commands see that folder alone.
    listed = _git(root, "ls-tree", "--name-only", commit, "--", *CODE, IGNORE)
    names = listed.decode().split() if listed else []
    return _git(root, "archive", commit, "--", *names) if names else None


def _git(root: Path, *arguments: str) -> bytes | None:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def _check_out(folder: Path) -> None:
    """Copy what dvc.lock names out of the cache, and have DVC know the stages as done, for later runs to
    reuse.
    """
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    with contextlib.chdir(folder):
        repo = Repo(str(folder))
        for out in repo.index.outs:  # as DVC understands them: working folders and templates move them
            require_inside(os.path.relpath(out.fs_path, folder), "The run's dvc.yaml")
        repo.checkout(targets=list(outputs_of(folder)), force=True)
        with repo.lock:
            for stage in repo.index.stages:
                repo.stage_cache.save(stage)


def _put_in_place(draft: Path, folder: Path) -> None:
    old = folder.parent / f"{OLD}{folder.name}-{secrets.token_hex(3)}"
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _differing(folder: Path) -> list[str]:
    return [path for path, md5 in outputs_of(folder).items() if not _is(folder / path, md5)]


def _is(path: Path, md5: str) -> bool:
    return path.exists() and digest(path) == md5


def _some(paths: Iterable[str]) -> str:
    names = list(paths)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
