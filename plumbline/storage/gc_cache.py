"""The part of `plumbline gc` that frees the DVC cache, also while runs are going on.

A run that is going on may commit a stage, or restore one, at any moment, and what it then needs is in no
dvc.lock yet. Both happen under the DVC lock of its workspace. So unneeded files are moved aside in small
portions, under the locks of all workspaces that are in use, and each time what is needed is read again; what
was moved aside is deleted at leisure.
"""

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from plumbline.errors import UserError
from plumbline.project.digests import FOLDER, MD5, cached_file, cached_listing
from plumbline.project.dvc_yaml import outputs_of
from plumbline.project.home import Home
from plumbline.project.run_record import raw_record, run_folders
from plumbline.storage.gc_needed import Tracked

TRASH = "trash"
PORTION = 1000
"""Files moved aside under one lock: tens of milliseconds."""
PAUSE_SECONDS = 0.6
"""Between two portions: who waits for a lock of DVC's looks every half second, a few times."""
LOCK_SECONDS = 60.0


def unneeded(home: Home, digests: set[str]) -> dict[str, int]:
    """Return the digests of the cache's files that none of `digests` needs, with their sizes in bytes."""
    live = _with_files(home, digests)
    return {digest: size for digest, size in _cached(home) if digest not in live}


def sweep(home: Home, needed: Callable[[], set[str]]) -> None:
    """Delete the files of the cache that `needed()` does not name.

    What DVC tracks in the checkout or a run has committed since `needed()` was asked stays, too. Raises
    UserError when a run does not give its lock back in time, and for a needed folder whose listing is
    damaged; the rest is left for the next gc.
    """
    trash = home.folder / TRASH
    shutil.rmtree(trash, ignore_errors=True)  # of a sweep that was killed
    trash.mkdir(parents=True)
    ended = set(run_folders(home)) - set(_in_use(home))
    live, tracked = needed(), Tracked(home)
    tracked.digests()  # under the locks only what has changed since is read
    waiting = list(unneeded(home, live))
    for start in range(0, len(waiting), PORTION):
        if start:
            time.sleep(PAUSE_SECONDS)
        with _locked(home):
            # Runs that were running at any time since the sweep began, even if they have ended by now.
            since = [folder for folder in run_folders(home) if folder not in ended]
            committed = {md5 for folder in since for md5 in outputs_of(folder).values()}
            spared = _with_files(home, committed | tracked.digests())
            for digest in waiting[start:start + PORTION]:
                if digest not in spared:
                    with contextlib.suppress(FileNotFoundError):
                        cached_file(home.cache, digest).rename(trash / digest)
    with _locked(home):  # DVC writes the entry of a stage before it has copied what that left
        _forget_runs(home)
    shutil.rmtree(trash)


def _cached(home: Home) -> Iterator[tuple[str, int]]:
    """Yield the digests in the cache and their sizes; drafts of DVC's, as a kill leaves them, are none."""
    for file in (home.cache / "files" / "md5").glob("??/*"):
        digest = file.parent.name + file.name
        if MD5.fullmatch(digest):
            with contextlib.suppress(FileNotFoundError):  # dropped at this moment, because it was damaged
                yield digest, file.stat().st_size


def _with_files(home: Home, digests: set[str]) -> set[str]:
    """Return the digests, and those of all files inside the folders among them.

    Raises UserError for a folder whose listing is in the cache and cannot be read.
    """
    inside: set[str] = set()
    for digest in digests:
        if digest.endswith(FOLDER):
            names = cached_listing(home.cache, digest)
            file = cached_file(home.cache, digest)
            if names is None and file.exists():
                raise UserError(f"The listing {file} of a folder that is needed is damaged, so nobody knows "
                                "which files are. Nothing more was deleted. `plumbline pull RUN` mends it "
                                "from a remote; otherwise delete it, and what the folder holds counts as "
                                "lost.")
            inside |= set((names or {}).values())
    return digests | inside


def _in_use(home: Home) -> list[Path]:
    """Return the DVC repositories that may be written to: the checkout, and workspaces of running runs."""
    return [home.root, *filter(_may_be_going_on, run_folders(home))]


def _may_be_going_on(folder: Path) -> bool:
    try:
        return raw_record(folder).status == "running"
    except FileNotFoundError:  # deleted at this moment
        return False
    except UserError:  # damaged: it may be running
        return True


@contextmanager
def _locked(home: Home) -> Iterator[None]:
    """Hold the DVC locks of all repositories in use."""
    from dvc.lock import LockError
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            with ExitStack() as locks:
                for folder in _in_use(home):
                    locks.enter_context(Repo(str(folder), config={"core": {"no_scm": True}}).lock)
                yield
                return
        except LockError as error:
            if time.monotonic() > deadline:
                raise UserError("A run is writing to the cache and has not given its lock back for a minute. "
                                "What else goes is gone; run `plumbline gc` again for the rest of the cache."
                                ) from error


def _forget_runs(home: Home) -> None:
    """Delete entries of DVC's run cache whose outputs are gone: DVC would look for them in vain."""
    for entry in (home.cache / "runs").glob("??/*/*"):
        with contextlib.suppress(FileNotFoundError):
            outs = entry.read_text(encoding="utf-8").partition("\nouts:")[2]
            digests = {line.split()[-1] for line in outs.splitlines() if line.strip().startswith("md5:")}
            if any(not cached_file(home.cache, digest).exists() for digest in digests):
                entry.unlink()
                with contextlib.suppress(OSError):
                    entry.parent.rmdir()
