"""`plumbline gc`: free what nothing needs any more, and keep what champion, newest runs, pins and running
runs need.

`data/batches` is never touched. First comes a plan, which `--dry-run` prints; carrying it out deletes one
thing at a time, folders by a rename first, and bytes after the last thing that names them, so that an
interrupted gc leaves everything usable and the next one goes on. The small records in MLflow stay as long as
anything refers to them (`gc_mlflow`); bytes that were pushed to a DVC remote come back with `plumbline
restore`.
"""

import contextlib
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from plumbline.errors import UserError
from plumbline.project.home import Home, other_checkouts
from plumbline.project.locks import others_wait
from plumbline.project.run_record import run_folders
from plumbline.runs.restore import OLD
from plumbline.storage import gc_cache, gc_mlflow
from plumbline.storage.gc_leftovers import leftovers
from plumbline.storage.gc_needed import needed

KEPT_RUNS = 10


@dataclass
class Freed:
    """What gc frees of one kind: workspaces, files of the cache, runs in MLflow, leftovers."""

    what: str
    count: int
    size: int
    """Bytes on this machine's disk."""
    names: list[str] = field(default_factory=list)


@dataclass
class GcPlan:
    """The things that gc keeps, and those that it deletes."""

    kept: dict[str, str]
    """Runs that stay, each with the reason."""
    runs: list[str]
    """Runs that go."""
    lost: list[str]
    """Registered versions whose bytes go; where a remote has them, `plumbline restore` brings them back."""
    records: gc_mlflow.UnreferencedRecords
    leftovers: list[Path]
    freed: list[Freed]


def make_plan(home: Home, newest: int = KEPT_RUNS, keep: Sequence[str] = ()) -> GcPlan:
    """List what nothing needs.

    Raises UserError if another checkout uses the home, for the damaged listing of a folder that is needed,
    and if MLflow cannot tell which versions have an alias.
    """
    _require_alone(home)
    live = needed(home, newest, keep)
    going = [folder for folder in run_folders(home) if folder.name not in live.runs]
    dead = gc_cache.unneeded(home, live.digests)
    records = gc_mlflow.unreferenced(home, going)
    rest = leftovers(home, live)
    lost = [name for name, md5 in live.other_versions.items() if md5 in dead]
    artifacts = sum(map(_size, records.folders(home)))
    freed = [
        Freed("workspaces", len(going), sum(map(_size, going)), [folder.name for folder in going]),
        Freed("files of the cache", len(dead), sum(dead.values())),
        Freed("runs in MLflow", len(records.runs), artifacts, sorted(records.runs)),
        Freed("leftovers", len(rest), sum(map(_size, rest)), [str(path) for path in rest]),
    ]
    return GcPlan(live.runs, [folder.name for folder in going], lost, records, rest, freed)


def collect(home: Home, newest: int = KEPT_RUNS, keep: Sequence[str] = ()) -> GcPlan:
    """Delete what nothing needs and return the plan. Raises UserError as `make_plan`, before any deletion."""
    with others_wait(home.folder):
        plan = make_plan(home, newest, keep)
        gc_mlflow.delete(home, plan.records)
        for path in plan.leftovers:
            _remove(path)
        # What a run needs is known from its workspace: workspaces go before the bytes that only they name.
        for run in plan.runs:
            _remove(home.runs / run)
        gc_cache.sweep(home, lambda: needed(home, newest, keep).digests)
    return plan


def _require_alone(home: Home) -> None:
    for root, file in other_checkouts(home).items():
        raise UserError(f"The home {home.folder} is that of the checkout {root}, too, and gc in {home.root} "
                        "does not know what that needs. Nothing was deleted. Give each checkout a home of "
                        f"its own (PLUMBLINE_HOME); if {root} does not use this one any more, delete "
                        f"{file}.")


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())


def _remove(path: Path) -> None:
    """Delete a file, or a folder by a rename first: no reader ever sees half of one."""
    with contextlib.suppress(FileNotFoundError):
        if not path.is_dir():
            path.unlink()
            return
        aside = path.parent / f"{OLD}{path.name}-{secrets.token_hex(3)}"
        path.rename(aside)
        shutil.rmtree(aside)
