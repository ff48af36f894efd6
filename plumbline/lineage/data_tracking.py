"""Arrived batches in DVC: each gets a small file beside it, so that `dvc push` and `dvc pull` carry it anywhere."""

import contextlib
import logging
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from plumbline.lineage.home import Home

DAY_SECONDS = 86_400


def track(home: Home, folders: Iterable[Path]) -> None:
    """Put those folders that DVC does not know yet into its cache, and leave `<folder>.dvc` beside each."""
    new = [str(folder) for folder in folders if not folder.with_suffix(".dvc").exists()]
    if not new:
        return
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    with contextlib.chdir(home.root), Repo(str(home.root)) as repo:
        repo.add(new)


def sweep(arrived: Path) -> None:
    """Delete what imports that were killed left: folders that never became batches, a day old at least."""
    for folder in arrived.glob(".new-*"):
        if time.time() - folder.stat().st_mtime > DAY_SECONDS:  # a younger one may still be written to
            shutil.rmtree(folder, ignore_errors=True)
