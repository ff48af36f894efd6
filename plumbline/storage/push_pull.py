"""Move what runs hold between this machine's cache and the DVC remotes: `plumbline push`, `plumbline pull`."""

import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.project.digests import restore_folder
from plumbline.project.dvc_objects import NO_REMOTE, Storage, tracked_batches
from plumbline.project.dvc_yaml import outputs_of
from plumbline.project.home import Home
from plumbline.project.run_record import run_folders
from plumbline.runs.restore import NEW
from plumbline.runs.run_files import recorded
from plumbline.tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry


@dataclass(frozen=True)
class Pushed:
    """What a push did."""

    things: int
    """Batches, and outputs of runs."""
    files: int
    """Files that the remote did not have yet."""
    size: int
    """Their bytes."""
    left_out: list[str]
    """What could not be pushed, because the cache does not hold it."""


@dataclass(frozen=True)
class Pulled:
    """What a pull did."""

    fetched: list[str]
    """What is whole in the cache now and was not before."""
    missing: list[str]
    """What no remote has."""


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
        raise UserError(f"The run cannot be pushed whole: the cache {home.cache} lacks {len(left_out)} of its outputs, "
                        f"such as {left_out[0]}. `plumbline pull {run}` brings back what a remote has.")
    files, size = storage.push({digest for name, digest in things.items() if name not in set(left_out)}, remote)
    return Pushed(len(things) - len(left_out), files, size, left_out)


def pull(home: Home, run: str | None) -> Pulled:
    """Bring a run into the cache, or all batches and the runs behind the registry's aliases.

    Raises UserError without a remote, and for one that does not answer.
    """
    storage = Storage(home)
    if not storage.remotes:
        raise UserError(f"There is nowhere to pull from: {NO_REMOTE}.")
    things: dict[str, str] = {}
    if run:
        with recorded(home, run) as found:
            things = _named(found.record.id, found.outputs)
    else:
        things = _batches(home) | _behind_aliases(home)
    before = {name for name, digest in things.items() if storage.lacking([digest])}
    storage.fetch({things[name] for name in before})
    missing = {name for name in before if storage.lacking([things[name]])}
    if not run:
        _check_out_batches(home, missing)
    return Pulled(sorted(before - missing), sorted(missing))


def _batches(home: Home) -> dict[str, str]:
    return {folder.relative_to(home.root).as_posix(): digest for folder, digest in tracked_batches(home).items()}


def _named(run: str, outputs: Mapping[str, str]) -> dict[str, str]:
    return {f"{run}: {path}": digest for path, digest in outputs.items()}


def _behind_aliases(home: Home) -> dict[str, str]:
    """The champion, its challenger and its predecessor: their models, and the runs that made them."""
    registry = Registry.open(home, load_params(home.root).promote.model_name)
    things = {}
    for number, run, aliases in registry.versions():
        version = registry.version(number) if {CHAMPION, CHALLENGER, PREVIOUS} & set(aliases) else None
        if version:
            things[f"version {number} of {registry.name}"] = version.md5
            with contextlib.suppress(UserError), recorded(home, run) as found:
                things |= _named(found.record.id, found.outputs)
    return things


def _check_out_batches(home: Home, missing: set[str]) -> None:
    """Lay the batches that came beside their .dvc files, each whole or not at all; what is there is never touched."""
    for folder, digest in tracked_batches(home).items():
        if not folder.exists() and folder.relative_to(home.root).as_posix() not in missing:
            draft = folder.parent / f"{NEW}{folder.name}-{secrets.token_hex(3)}"
            restore_folder(home.cache, digest, draft)
            draft.rename(folder)
