"""Decide whether a retraining is due: count the judgements that arrived since the champion's snapshot.

Pages and the command line ask this all the time, so mostly names of batches are looked at: batches never
change, and neither does the snapshot of a run. What is new in batches that a run did not have, and what of
its rows was removed, is read from indexes, once for each new arrival.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np

from plumbline.config import Params, load_params, read_yaml
from plumbline.errors import UserError
from plumbline.preferences.batches.arrivals import (
    NO_ROWS,
    arrival_index,
    arrivals,
    read_arrival,
    removed_rows,
    require_all_here,
)
from plumbline.preferences.batches.batch import SIMULATED
from plumbline.preferences.batches.folders import Folders
from plumbline.preferences.batches.index import KINDS, BatchIndex, Hashes
from plumbline.preferences.batches.manifest import MANIFEST, manifest_in
from plumbline.preferences.batches.snapshot import ADDED, HUB, indexes_in, removed_since
from plumbline.project.digests import cached_file, cached_listing
from plumbline.project.home import RECORD_FILE, Home
from plumbline.project.masking import masked
from plumbline.project.run_record import RUN_ID, RunRecord, read_record, workspace_of
from plumbline.retraining.clock import next_scheduled
from plumbline.tracking.store import StoreGone, broken_store, is_away, is_there, require_store, sqlite_file

ALIAS = "champion"
FRESH_SECONDS = 5.0
"""For how long the champion of a store that is no file is believed."""
DEMONSTRATION = "demonstration"
SNAPSHOT = "data/snapshot"


@dataclass(frozen=True)
class Due:
    """The answer: should a run start without a person's request?"""

    new_comparisons: int
    """Judgements that arrived since the champion's snapshot."""
    needed: int
    since: str | None
    """The run that made the champion."""
    next_scheduled: str | None
    """When the clock is next: ISO 8601; None without a schedule."""
    enough: bool
    """True if a run would learn something."""
    why: str
    """One sentence with the counts."""


@dataclass(frozen=True)
class Arrived:
    """One arrived batch, as far as `due` needs it."""

    digest: str
    """Digest of its rows: snapshots name rows, and not the correction that brought them."""
    judgements: int
    added: str
    is_removal: bool


@dataclass(frozen=True)
class RunData:
    """The data that a run was trained on."""

    run: str
    created: str
    batches: frozenset[str] | None
    """Digests of the batches as they arrived, also where the snapshot left rows out; None if unreadable."""
    snapshot: Path | None = None
    """Its folder; None where the workspace is gone."""
    sources: tuple[str, ...] | None = None
    """Its `snapshot.sources`; None, here and below, where the run's parameters cannot be read."""
    base: str | None = None
    """Its `base.source`."""
    overridden: bool = False
    """True if `--params` or `--set` lay over params.yaml."""


def due(home: Home) -> Due:
    """Compare what has arrived with the champion's snapshot.

    Raises UserError for broken parameters and for an arrival that is not here, and StoreGone where MLflow's
    store is away.
    """
    require_all_here(home.preferences)
    params = _params(home.root, _changed(home.root / "params.yaml"))
    champion, last = _champion(home, params.promote.model_name), _last_conclusive(home)
    arrived = _arrived(home)
    batches = arrived if ADDED in params.snapshot.sources else {}
    new = _count(home, batches, champion)
    unseen = _count(home, batches, last) if last else new
    at_once = _at_once(home, params, arrived, last)
    enough, why = _verdict(params, new, unseen, champion, last, at_once)
    return Due(new, params.retrain.min_new_comparisons, champion.run if champion else None,
               next_scheduled(home, params.retrain), enough, masked(why))


def _verdict(params: Params, new: int, unseen: int, champion: RunData | None, last: RunData | None,
             at_once: str | None) -> tuple[bool, str]:
    needed = params.retrain.min_new_comparisons
    if champion is None and last is None:
        return True, "there is no champion yet"
    other = _other_policy(params, champion, last) if champion else None
    if other:
        return False, other
    if at_once:
        return True, at_once
    if last and not unseen:
        left_out = [one for one in last.sources or () if one not in params.snapshot.sources]
        had = f"learned from {', '.join(left_out)} as well" if left_out else "had the same data"
        return False, f"nothing new since run {last.run}, which {had}"
    if last and unseen < min(needed, new):
        # Otherwise, once a champion is hard to beat, every single judgement would start a run.
        return False, (f"{unseen:,} new comparisons since run {last.run}, which gave no champion; {needed:,} "
                       "are needed")
    since = "and there is no champion yet"
    if champion:
        since = f"since the champion's snapshot (run {champion.run})"
    return new >= needed, f"{new:,} new comparisons {since}; {needed:,} are needed"


def _other_policy(params: Params, champion: RunData, last: RunData | None) -> str | None:
    """Return why no run starts by itself, if params.yaml would make another model's policy than the champion
    is, or one of quite other data than `--params` or `--set` gave to the champion's run.

    A person has decided once a run of params.yaml with its base model has followed the champion's.
    """
    base, sources = params.base.source, params.snapshot.sources
    if champion.base is None or (last and last.run > champion.run and last.base == base):
        return None
    learned = set(champion.sources or ()) - {ADDED}
    if champion.base != base:
        here, there = f"base.source: {base}", champion.base
    elif champion.overridden and learned and learned.isdisjoint(sources):
        here, there = f"snapshot.sources: [{', '.join(sources)}]", f"[{', '.join(champion.sources or ())}]"
    else:
        return None
    return (f"params.yaml has {here}, but the champion's run {champion.run} had {there}: write that into "
            "params.yaml, or start one run by hand (`plumbline run`) if it is to be replaced")


def _at_once(home: Home, params: Params, arrived: Mapping[str, Arrived], last: RunData | None) -> str | None:
    """Return why a run is due however few judgements arrived: a source came or changed, or rows were removed.
    """
    learned = last.sources if last else None
    if last and learned is not None:
        for source in params.snapshot.sources:
            if source != ADDED and source not in learned:  # what was added is counted
                return f"run {last.run} has not learned from the source {source}"
    changed = _changed_source(home, params, last)
    if changed:
        return (f"the source {changed} has changed since run {last.run}" if last else
                f"no run here has learned from the source {changed} yet")
    if last and any(batch.is_removal for batch in arrived.values()):
        removed = _removed_since(home.preferences, home.runs / last.run / SNAPSHOT, frozenset(arrived))
        if removed:
            return f"{removed:,} rows that run {last.run} learned from were removed since"
    return None


@lru_cache(maxsize=4)
def _removed_since(folders: Folders, snapshot: Path, _arrivals: frozenset[str]) -> int:
    return removed_since(folders, snapshot)


def _count(home: Home, batches: Mapping[str, Arrived], learned: RunData | None) -> int:
    """Count the judgements in batches that a run's snapshot does not hold; all of them without a run."""
    if learned is None:
        return sum(batch.judgements for batch in batches.values())
    if learned.batches is None:
        return sum(batch.judgements for batch in batches.values() if batch.added >= learned.created)
    missing = [batch for batch in batches.values()
               if batch.judgements and batch.digest not in learned.batches]
    if not missing:
        return 0
    folders, snapshot = home.preferences, learned.snapshot
    if snapshot is not None and _held(folders, snapshot) is not None:
        return _left(folders, frozenset(batch.digest for batch in missing), len(batches), snapshot)
    # A batch that was there before the run, and that the snapshot leaves out, may have lost rows to removals.
    older = frozenset(batch.digest for batch in missing if batch.added < learned.created)
    newer = sum(batch.judgements for batch in missing if batch.digest not in older)
    return newer + (_left(folders, older, len(batches), None) if older else 0)


@lru_cache(maxsize=4)
def _left(folders: Folders, digests: frozenset[str], _arrivals: int, snapshot: Path | None) -> int:
    """Count the different judgements of these batches that are neither removed nor in the snapshot.

    A batch may repeat what others brought, in another order or with a little more; snapshots lack one that is
    all removed. Corrections may also take away more than they bring: then what they take counts.
    """
    known = arrivals(folders)
    brought = _judgements(arrival_index(folders, one) for one in known if one.batch.digest in digests)
    left = np.setdiff1d(brought, removed_rows(folders, known), assume_unique=True)
    held = _held(folders, snapshot) if snapshot else None
    if held is None:
        return len(left)
    superseded = np.intersect1d(held, removed_rows(folders, known, by=["supersede"]), assume_unique=True)
    return max(len(np.setdiff1d(left, held, assume_unique=True)), len(superseded))


@lru_cache(maxsize=2)
def _held(folders: Folders, snapshot: Path) -> Hashes | None:
    """Return the judgements in a run's snapshot; None if its files are gone or damaged."""
    try:
        return _judgements(indexes_in(folders, snapshot))
    except UserError:
        return None


def _judgements(indexes: Iterable[BatchIndex]) -> Hashes:
    """Return the ids of all rows but demonstrations, each once."""
    judged = (index.row[index.kind != KINDS.index(DEMONSTRATION)] for index in indexes)
    # Where it counts, NumPy sorts: that takes a tenth of the time of the hashes that it uses otherwise.
    return np.unique(np.concatenate([NO_ROWS, *judged]), return_counts=True)[0]


_batches: dict[Path, dict[str, Arrived]] = {}


def _arrived(home: Home) -> Mapping[str, Arrived]:
    """Return all batches by folder name; each batch file is read once."""
    folder = home.preferences.arrived
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except FileNotFoundError:
        return {}
    names = {entry.name for entry in entries if entry.is_dir()}
    known = _batches.setdefault(folder, {})
    for name in names - known.keys():
        with contextlib.suppress(FileNotFoundError):  # on its way
            arrival = read_arrival(folder / name)
            batch = arrival.batch
            judgements = sum(batch.kinds.values()) - batch.kinds.get(DEMONSTRATION, 0)
            known[name] = Arrived(batch.digest, judgements, arrival.added, arrival.action == "remove")
    for name in known.keys() - names:
        del known[name]
    return known


def _champion(home: Home, model: str) -> RunData | None:
    database = home.folder / "mlflow.db"
    local = sqlite_file(home) == database
    if local and not is_there(database):
        if home.artifacts.exists():
            require_store(home)
        return None
    return _champion_at(home, model, _changed(database) if local else int(time.monotonic() / FRESH_SECONDS))


@lru_cache(maxsize=4)
def _champion_at(home: Home, model: str, _when: int) -> RunData | None:
    from mlflow.exceptions import MlflowException

    from plumbline.tracking.registry import ABSENT
    from plumbline.tracking.store import connect

    try:
        version = connect(home).get_model_version_by_alias(model, ALIAS)
    except MlflowException as error:
        if is_away(error):
            problem = f"MLflow's store {home.tracking_uri} does not answer now ({error})."
            raise StoreGone(masked(problem)) from None
        if error.error_code in ABSENT:
            return None
        raise broken_store(home.tracking_uri, error) or error from None
    created = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat()
    run = version.tags.get("pipeline_run", "")
    found = _learned(home, run)
    if found:
        return found
    return RunData(run, created, _batches_in(_cached_manifest(home, version.tags.get("snapshot", ""))))


def _last_conclusive(home: Home) -> RunData | None:
    """Return the newest run here, with params.yaml unmodified, that finished or that a gate stopped."""
    try:
        names = sorted((entry.name for entry in os.scandir(home.runs)), reverse=True)
    except FileNotFoundError:
        return None
    for name in names:
        file = home.runs / name / RECORD_FILE
        if RUN_ID.fullmatch(name) and file.exists() and _conclusive(home.runs / name, _changed(file)):
            return _learned(home, name)
    return None


@lru_cache(maxsize=4096)
def _conclusive(folder: Path, _when: int) -> bool:
    try:
        record = read_record(folder)
    except UserError:  # it tells nothing
        return False
    if record.settings or record.params_file or record.until or record.compare:  # somebody's experiment
        return False
    return record.status == "finished" or refused(folder, record)


def refused(folder: Path, record: RunRecord) -> bool:
    """Return True if a gate stopped the run."""
    gate = folder / "reports/reward/gate.json"
    if record.status != "failed" or not gate.exists():
        return False
    try:
        return not json.loads(gate.read_text(encoding="utf-8"))["passed"]
    except (OSError, ValueError, KeyError, TypeError):  # damaged
        return False


@lru_cache(maxsize=64)
def _learned(home: Home, run: str) -> RunData | None:
    folder = workspace_of(home, run)
    manifest = folder / SNAPSHOT / MANIFEST if folder else None
    if folder is None or manifest is None or not manifest.exists():
        return None
    try:
        record = read_record(folder)
        created = _taken(home, folder, record)
    except (UserError, FileNotFoundError, ValueError):  # MLflow knows as much of the champion's run
        return None
    return RunData(run, created, _batches_in(manifest), manifest.parent, *_asked_for(folder),
                   overridden=bool(record.settings or record.params_file))


def _asked_for(folder: Path) -> tuple[tuple[str, ...] | None, str | None]:
    """Return `snapshot.sources` and `base.source` of a run's own parameters, which may be another version's.
    """
    try:
        values = read_yaml(folder / "params.yaml")
    except UserError:
        return None, None
    snapshot, base = values.get("snapshot"), values.get("base")
    sources = snapshot.get("sources") if isinstance(snapshot, dict) else None
    source = base.get("source") if isinstance(base, dict) else None
    return (tuple(map(str, sources)) if isinstance(sources, list) else None,
            source if isinstance(source, str) else None)


def _taken(home: Home, folder: Path, record: RunRecord) -> str:
    """Return when a run took its snapshot, ISO 8601: a retry has that of the run before, if there was one."""
    if record.retry_of is None:
        return record.created
    before = workspace_of(home, record.retry_of)
    if before:
        here, there = (run / SNAPSHOT / MANIFEST for run in (folder, before))
        if not there.exists() or there.read_bytes() != here.read_bytes():
            return record.created
        with contextlib.suppress(UserError, FileNotFoundError):
            return _taken(home, before, read_record(before))
    # It is gone or damaged: its id is left, which begins with the time.
    return datetime.strptime(f"{record.retry_of[:15]}Z", "%Y%m%d-%H%M%S%z").isoformat()


def _cached_manifest(home: Home, snapshot: str) -> Path | None:
    """Return a snapshot's manifest in DVC's cache, for a run whose workspace is gone."""
    names = cached_listing(home.cache, snapshot) if snapshot else None
    file = cached_file(home.cache, names[MANIFEST]) if names and MANIFEST in names else None
    return file if file and file.exists() else None


def _batches_in(manifest: Path | None) -> frozenset[str] | None:
    if manifest is None:
        return None
    return frozenset(batch.whole or batch.digest for batch in manifest_in(manifest).batches)


def _changed_source(home: Home, params: Params, last: RunData | None) -> str | None:
    """Return the first source, a file or folder, that is newer than the last run.

    What `mv`, `cp -p` or `rsync -t` put there keeps the time at which it was written: when it came there is
    the time of the last change of its inode.
    """
    since = datetime.fromisoformat(last.created).timestamp() if last else 0.0
    for source in params.snapshot.sources:
        if source in (ADDED, SIMULATED) or source.startswith(HUB):
            continue
        path = home.root / Path(source).expanduser()
        if any(one.exists() and _last_change(one) > since for one in (path, *path.rglob("*"))):
            return source
    return None


def _last_change(path: Path) -> float:
    times = path.stat()
    return max(times.st_mtime, times.st_ctime)


@lru_cache(maxsize=4)
def _params(root: Path, _when: int) -> Params:
    return load_params(root)


def _changed(file: Path) -> int:
    """Return a file's modification time in nanoseconds; 0 if missing, which callers report themselves."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
