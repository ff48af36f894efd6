"""Arrived batches in DVC: each gets a small file beside it, so that `dvc push` and `dvc pull` carry it
anywhere.

A batch counts as soon as it lies in `data/batches/`; DVC may learn of it later. So nothing that arrives waits
for DVC's lock: `plumbline data add` tracks at once, what comes over the network is tracked in the background
or, at the latest, when the next run takes its snapshot. `python -m plumbline.data.dvc_tracking` does it in a
process of its own.
"""

import contextlib
import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path

from plumbline.preferences.batches.batch import BATCH
from plumbline.project.home import Home, enter, find_home
from plumbline.project.locks import file_lock

DAY_SECONDS = 86_400
LONGEST_SECONDS = 600.0


def untracked(home: Home) -> list[Path]:
    """Return the folders of arrivals that DVC does not track yet."""
    found = home.preferences.arrived.glob(f"*/{BATCH}")
    return sorted(file.parent for file in found if not file.parent.with_suffix(".dvc").exists())


def track(home: Home) -> str | None:
    """Put untracked arrivals into DVC's cache, each with a `<folder>.dvc` beside it.

    Waits for DVC's locks. Returns what went wrong, or None.
    """
    if not untracked(home):
        return None
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError

    logging.getLogger("dvc").setLevel(logging.ERROR)
    root = str(home.root)
    try:
        with file_lock(home.folder / "tracking.lock"), contextlib.chdir(root), Repo(root) as repo:
            new = [str(folder) for folder in untracked(home)]  # another process may have done some meanwhile
            if new:
                # Without relinking the files stay in place all the time: a snapshot may be reading them.
                repo.add(new, relink=False)
    except SCMError as error:
        return (f"DVC cannot track the newest batches without git: {_said(error)} (`git init` there makes it "
                "one)")
    except (DvcException, OSError) as error:
        return f"DVC does not track the newest batches yet ({_said(error)})"
    return None


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def track_apart(home: Home) -> str | None:
    """Call `track` in a process of its own, so that this one does not import DVC. Returns as `track`."""
    if not untracked(home):
        return None
    command = [sys.executable, "-m", "plumbline.data.dvc_tracking"]
    try:
        done = subprocess.run(command, cwd=home.root, text=True, capture_output=True, check=False,
                              stdin=subprocess.DEVNULL, timeout=LONGEST_SECONDS)
    except subprocess.TimeoutExpired:
        return f"DVC does not track the newest batches yet: it took more than {LONGEST_SECONDS:g} seconds"
    return done.stderr.strip()[-300:] or "DVC ended without a word" if done.returncode else None


def sweep(arrived: Path) -> None:
    """Delete the folders of imports that were killed, a day old at least."""
    for folder in arrived.glob(".new-*"):
        with contextlib.suppress(FileNotFoundError):  # its import has just ended
            if time.time() - folder.stat().st_mtime > DAY_SECONDS:  # a younger one may still be written to
                shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Track the arrivals of the project of the current folder."""
    home = find_home()
    enter(home)
    problem = track(home)
    if problem:
        raise SystemExit(problem)


if __name__ == "__main__":
    main()
