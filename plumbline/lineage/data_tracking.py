"""Arrived batches in DVC: each gets a small file beside it, so that `dvc push` and `dvc pull` carry it anywhere."""

import contextlib
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from plumbline.lineage.home import Home


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
    """Delete what an interrupted import left: folders that never became batches."""
    for folder in arrived.glob(".new-*"):
        shutil.rmtree(folder, ignore_errors=True)
