"""Find what gc must keep: runs, and the digests that runs, aliases and data are made of."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from plumbline.config import registered_name
from plumbline.errors import UserError
from plumbline.project.dvc_yaml import LOCK, outputs_of
from plumbline.project.home import RECORD_FILE, Home
from plumbline.project.masking import masked
from plumbline.project.run_record import (
    RUN_ID,
    find_run,
    is_gone,
    raw_record,
    run_folders,
    workspace_of,
)
from plumbline.runs.run_files import recorded
from plumbline.tracking.registry import Registry
from plumbline.tracking.store import asking_mlflow, is_away

UNFINISHED = ("failed", "cancelled", "killed")


@dataclass(frozen=True)
class Needed:
    """The workspaces, files and records that gc must keep."""

    runs: dict[str, str]
    """Runs with a workspace on this machine, and why each stays."""
    digests: set[str]
    """Digests of files and folders; a folder stands for all that it holds."""
    other_versions: dict[str, str]
    """Registered versions without an alias, with their digests: kept only if a run that stays has them."""
    unfinished: bool
    """True if a run that stays may resume from a checkpoint."""


def needed(home: Home, newest: int, keep: Sequence[str]) -> Needed:
    """Collect what must stay. Raises UserError if MLflow is away, or for an unknown run in `keep`."""
    runs = _kept_runs(home, newest, keep)
    digests = Tracked(home).digests()
    others: dict[str, str] = {}
    for number, run, aliases, md5 in _versions(home):
        if not aliases:
            others[f"version {number} (run {run})"] = md5
            continue
        digests.add(md5)
        if workspace_of(home, run):
            runs.setdefault(run, f"it registered version {number}, the {' and '.join(aliases)}")
        else:  # no workspace here (another machine's run, or deleted): its outputs in the cache still stay
            digests |= _recorded_digests(home, run, number)
    for run in runs:
        digests |= set(outputs_of(home.runs / run).values())
    unfinished = any(_may_go_on(home.runs / run) for run in runs)
    return Needed(runs, digests, others, unfinished)


def _recorded_digests(home: Home, run: str, version: int) -> set[str]:
    """Return the digests of what a run left, as its record in MLflow has it; none if the record is gone.

    Raises UserError if MLflow is away.
    """
    try:
        with recorded(home, run) as found:
            return set(found.outputs.values())
    except Exception as error:
        if is_away(error):
            raise UserError(f"MLflow at {masked(home.tracking_uri)} does not answer, so nobody knows what "
                            f"the run {run} left, whose version {version} has an alias. Nothing was "
                            "deleted.") from error
        if not isinstance(error, UserError):
            raise
        return set()


def _kept_runs(home: Home, newest: int, keep: Sequence[str]) -> dict[str, str]:
    named = {find_run(home, name).name for name in keep}
    folders = run_folders(home)
    last = {folder.name for folder in folders[-newest:]} if newest else set()
    found: dict[str, str] = {}
    for folder in folders:
        try:
            record = raw_record(folder)
        except FileNotFoundError:  # deleted at this moment
            continue
        except UserError:
            found[folder.name] = f"its {RECORD_FILE} is damaged, so nobody knows what it is"
            continue
        if record.status == "running" and not is_gone(record):
            found[record.id] = "it is going on"
        elif record.pinned is not None:
            found[record.id] = f"it is pinned: {record.pinned}"
        elif record.id in named:
            found[record.id] = "it was named"
        elif record.id in last:
            found[record.id] = f"it is one of the newest {newest}"
    return found


def _may_go_on(folder: Path) -> bool:
    """Return True if a run may resume from a checkpoint, also if its record is damaged."""
    try:
        return raw_record(folder).status in ("running", *UNFINISHED)
    except (UserError, FileNotFoundError):
        return True


def _versions(home: Home) -> list[tuple[int, str, tuple[str, ...], str]]:
    """Return all registered versions as (number, run, aliases, digest)."""
    with asking_mlflow(home, ", so nobody knows which versions have an alias. Nothing was deleted."):
        registry = Registry.open(home, registered_name(home.root))
        return [(number, run, aliases, version.md5) for number, run, aliases in registry.versions()
                if (version := registry.version(number))]


class Tracked:
    """What DVC tracks in the checkout: batches, files, pipelines in any folder but the workspaces of runs."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._known: dict[tuple[Path, int, int], set[str]] = {}

    def digests(self) -> set[str]:
        """Return the digests that are tracked now. Only `.dvc` files that are new or changed are read again.

        Raises UserError for a `.dvc` file, or a dvc.lock, that cannot be read.
        """
        found = set()
        for place, folders, files in os.walk(self._home.root):
            folder = Path(place)
            in_runs = folder == self._home.runs
            folders[:] = [name for name in folders
                          if not (name.startswith(".") or (in_runs and RUN_ID.fullmatch(name)))]
            found |= _locked_in(folder)
            for file in (folder / name for name in files if name.endswith(".dvc")):
                found |= self._named_in(file)
        return found

    def _named_in(self, file: Path) -> set[str]:
        about = file.stat()
        version = (file, about.st_mtime_ns, about.st_size)
        if version not in self._known:
            self._known[version] = _outputs_in(file)
        return self._known[version]


def _locked_in(folder: Path) -> set[str]:
    try:
        return set(outputs_of(folder).values())
    except (YAMLError, ValueError, TypeError, AttributeError):  # such as one with a merge's conflicts
        raise _unreadable(folder / LOCK) from None


def _outputs_in(file: Path) -> set[str]:
    try:
        outs = YAML(typ="safe").load(file.read_text(encoding="utf-8"))["outs"]
        return {str(out["md5"]) for out in outs if "md5" in out}
    except (YAMLError, ValueError, KeyError, TypeError):
        raise _unreadable(file) from None


def _unreadable(file: Path) -> UserError:
    return UserError(f"{file} is no file of DVC's that can be read, so nobody knows what it needs. Nothing "
                     "more was deleted. Repair it (`git checkout` knows an older one), or delete it.")
