"""Move what runs hold between this machine's cache and DVC remotes: `plumbline push` and `pull`."""

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from plumbline.config import registered_name
from plumbline.errors import UserError
from plumbline.project.digests import restore_folder
from plumbline.project.dvc_objects import NO_REMOTE, Storage, tracked_batches
from plumbline.project.dvc_yaml import outputs_of
from plumbline.project.home import Home
from plumbline.project.locks import gc_waits
from plumbline.project.run_record import run_folders
from plumbline.runs.restore import NEW
from plumbline.runs.run_files import recorded
from plumbline.tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from plumbline.tracking.store import StoreGone, asking_mlflow, is_away


@dataclass(frozen=True)
class Pushed:
    """Counts of one push."""

    things: int
    """Batches, and outputs of runs."""
    files: int
    """Files that the remote did not have yet."""
    size: int
    """Bytes of those files."""
    left_out: list[str]
    """Outputs that could not be pushed, because the cache does not hold them."""


@dataclass(frozen=True)
class Pulled:
    """Names of what one pull brought and what it could not find."""

    fetched: list[str]
    """Batches and outputs that are whole in the cache now and were not before."""
    missing: list[str]
    """Batches and outputs that no remote has."""


def push(home: Home, run: str | None, remote: str | None) -> Pushed:
    """Copy a run, or all batches and every run of this machine, to a remote.

    Raises UserError for a single run that the cache does not hold whole, and as `Storage.push` does.
    """
    storage = Storage(home)
    if run:
        with recorded(home, run) as found:
            things = _named(found.record.id, found.outputs)
    else:
        things = _batches(home)
        for folder in run_folders(home):
            things |= _named(folder.name, outputs_of(folder))
    left_out = sorted(name for name, digest in things.items() if storage.lacking([digest]))
    if run and left_out:
        raise UserError(f"The run cannot be pushed whole: the cache {home.cache} lacks {len(left_out)} of "
                        f"its outputs, such as {left_out[0]}. `plumbline pull {run}` brings back what a "
                        "remote has.")
    held = {digest for name, digest in things.items() if name not in left_out}
    files, size = storage.push(held, remote)
    return Pushed(len(things) - len(left_out), files, size, left_out)


def pull(home: Home, run: str | None) -> Pulled:
    """Bring a run into the cache, or all batches and the runs behind the registry's aliases.

    Raises UserError without a remote, and for one that does not answer.
    """
    with gc_waits(home.folder):  # what is brought must not go before it is in use
        return _pull(home, run)


def _pull(home: Home, run: str | None) -> Pulled:
    storage = Storage(home)
    if not storage.remotes:
        raise UserError(f"There is nowhere to pull from: {NO_REMOTE}.")
    things: dict[str, str] = {}
    if run:
        with recorded(home, run) as found:
            things = _named(found.record.id, found.outputs)
    else:
        with asking_mlflow(home, ", so nobody knows which versions have an alias. Nothing was pulled."):
            things = _batches(home) | _behind_aliases(home)
    storage.drop_damaged(things.values())
    before = {name for name, digest in things.items() if storage.lacking([digest])}
    storage.fetch({things[name] for name in before})
    missing = {name for name in before if storage.lacking([things[name]])}
    if not run:
        _check_out_batches(home, missing)
    return Pulled(sorted(before - missing), sorted(missing))


def _batches(home: Home) -> dict[str, str]:
    batches = tracked_batches(home).items()
    return {folder.relative_to(home.root).as_posix(): digest for folder, digest in batches}


def _named(run: str, outputs: Mapping[str, str]) -> dict[str, str]:
    return {f"{run}: {path}": digest for path, digest in outputs.items()}


def _behind_aliases(home: Home) -> dict[str, str]:
    """Return models of champion, challenger and predecessor, and outputs of the runs that made them; nothing
    where there is no MLflow store yet, as in a fresh clone.
    """
    try:
        registry = Registry.open(home, registered_name(home.root))
    except StoreGone:
        return {}
    things = {}
    for number, run, aliases in registry.versions():
        version = registry.version(number) if {CHAMPION, CHALLENGER, PREVIOUS} & set(aliases) else None
        if version:
            things[f"version {number} of {registry.name}"] = version.md5
            try:
                with recorded(home, run) as found:
                    things |= _named(found.record.id, found.outputs)
            except UserError as error:  # otherwise its record is gone
                if is_away(error):
                    raise
    return things


def _check_out_batches(home: Home, missing: set[str]) -> None:
    """Put pulled batches beside their .dvc files, each whole or not at all; leave existing folders."""
    for folder, digest in tracked_batches(home).items():
        if not folder.exists() and folder.relative_to(home.root).as_posix() not in missing:
            draft = folder.parent / f"{NEW}{folder.name}-{secrets.token_hex(3)}"
            restore_folder(home.cache, digest, draft)
            try:
                draft.rename(folder)
            except OSError:
                shutil.rmtree(draft)
                if not folder.exists():  # otherwise another pull was faster
                    raise
