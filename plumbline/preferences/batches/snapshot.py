"""Snapshots: the exact set of batches that a run learns from, fixed before its first stage.

Each source becomes a batch in the snapshot's folder (a folder: one a file), and `manifest.json` lists them in
order. Rows that were removed or superseded are not in it. The snapshot's digest is the SHA-256 of the
batches' digests: the same sources in the same order give the same bytes.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np

from plumbline.config import Params
from plumbline.errors import UserError
from plumbline.preferences.batches.arrivals import (
    NO_ROWS,
    Arrival,
    arrivals,
    folder_of,
    removed_rows,
    require_all_here,
)
from plumbline.preferences.batches.batch import QUARANTINE, ROWS, SIMULATED, keep
from plumbline.preferences.batches.folders import Folders
from plumbline.preferences.batches.index import KINDS, BatchIndex, Flags, Hashes, index_of
from plumbline.preferences.batches.manifest import MANIFEST, Batch, Manifest, read_manifest
from plumbline.preferences.batches.whole_batch import DamagedBatch, verified_lines
from plumbline.preferences.reading.results import Read
from plumbline.preferences.reading.sources import HUB, open_source, refuse
from plumbline.preferences.types import Row

__all__ = ["ADDED", "HUB", "Simulation", "fix_snapshot", "resolve_sources"]

ADDED = "added"
Done = TypeVar("Done")


@dataclass(frozen=True)
class Simulation:
    """The numbers of rows that the simulated world writes."""

    seed: int
    demonstrations: int
    comparisons: int
    rankings: int

    @classmethod
    def of(cls, params: Params) -> "Simulation":
        """Return the simulation that a run's parameters ask for."""
        chosen = params.snapshot
        return cls(params.seed, chosen.simulated_demonstrations, chosen.simulated_comparisons,
                   chosen.simulated_rankings)

    def rows(self) -> list[Row]:
        """Return the rows of the simulated world."""
        from plumbline.preferences.simulated import rows  # most real snapshots never need the simulated world

        return rows(self.seed, self.demonstrations, self.comparisons, self.rankings)


def fix_snapshot(sources: Sequence[str], simulation: Simulation, folders: Folders, out: Path) -> Manifest:
    """Resolve `sources` to batches and leave them in `out`, which is emptied first.

    Raises UserError for a source that is missing, unreadable, or holds nothing usable, and for an arrival
    that is damaged or not here: a run that left it out would have learned from other data than it says.
    """
    return with_imports_made_again(folders, lambda: _take(sources, simulation, folders, out))


def with_imports_made_again(folders: Folders, act: Callable[[], Done]) -> Done:
    """Return the result of `act`; an imported batch that it finds damaged is imported once more."""
    made_again: set[Path] = set()
    while True:
        try:
            return act()
        except DamagedBatch as damage:
            if damage.folder.parent != folders.imported or damage.folder in made_again:
                raise
            made_again.add(damage.folder)
            shutil.rmtree(damage.folder)


def _take(sources: Sequence[str], simulation: Simulation, folders: Folders, out: Path) -> Manifest:
    require_all_here(folders)
    known = arrivals(folders)
    found = resolve_sources(sources, simulation, folders, known)
    gone = removed_rows(folders, known)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    batches, emptied = dict[str, Batch](), dict[str, int]()
    for batch, folder in found:
        kept = _without(batch, folder, gone, folders, out)
        if kept.rows or kept.quarantined:
            batches[kept.digest] = kept  # a snapshot is a set: the same batch named twice is one batch
        else:
            emptied[batch.digest] = kept.removed
    digest = hashlib.sha256("\n".join(batches).encode()).hexdigest()
    manifest = Manifest(digest, tuple(batches.values()), sum(emptied.values()))
    values: dict[str, object] = {"digest": digest, "batches": [asdict(batch) for batch in manifest.batches]}
    if manifest.wholly_removed:  # otherwise the bytes are those of earlier versions, and stages are reused
        values["wholly_removed"] = manifest.wholly_removed
    text = json.dumps(values, indent=2)
    (out / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


def removed_since(folders: Folders, snapshot: Path) -> int:
    """Count the rows of the snapshot in a folder that were removed after it was taken.

    Rows that a correction superseded do not count. Raises UserError like `fix_snapshot`.
    """
    require_all_here(folders)
    gone = removed_rows(folders, arrivals(folders), by=["remove"])
    if not len(gone):
        return 0
    held = [index.row for index in indexes_in(folders, snapshot)]
    return len(np.intersect1d(np.concatenate([NO_ROWS, *held]), gone))


def indexes_in(folders: Folders, snapshot: Path) -> list[BatchIndex]:
    """Return the indexes of the batches of the snapshot in a folder.

    Raises UserError if a file of it is damaged or missing, unless its index is kept.
    """
    return [index_of(snapshot / f"{batch.digest}.jsonl", batch.digest, folders.indexes)
            for batch in read_manifest(snapshot).batches if batch.rows]


def resolve_sources(sources: Sequence[str], simulation: Simulation, folders: Folders,
                    known: Sequence[Arrival]) -> list[tuple[Batch, Path]]:
    """Return the batches that the sources stand for, each with its folder; `known` is what `added` stands
    for.

    Raises UserError like `fix_snapshot`.
    """
    return [batch for source in sources for batch in _resolve(source, simulation, folders, known)]


def _without(batch: Batch, folder: Path, gone: Hashes, folders: Folders, out: Path) -> Batch:
    """Copy the batch into the snapshot in `out`, the rows in `gone` left out; nothing if nothing is left."""
    left_out = np.zeros(batch.rows, bool)
    if len(gone):
        index = index_of(folder / ROWS, batch.digest, folders.indexes)
        left_out = np.isin(index.row, gone)
    if left_out.all() and not batch.quarantined:
        return replace(batch, rows=0, kinds={}, removed=batch.rows)
    if left_out.any():
        batch = _copy_some(batch, folder, left_out, [KINDS[kind] for kind in index.kind[~left_out]], out)
    else:
        with (out / f"{batch.digest}.jsonl").open("wb") as kept:
            kept.writelines(verified_lines(folder / ROWS, batch.digest))
    if batch.quarantined:
        shutil.copyfile(folder / QUARANTINE, out / f"{batch.digest}.quarantine.jsonl")
    return batch


def _copy_some(batch: Batch, folder: Path, left_out: Flags, kinds: list[str], out: Path) -> Batch:
    digest, draft = hashlib.sha256(), out / "draft"
    with draft.open("wb") as kept:
        for line, unwanted in zip_longest(verified_lines(folder / ROWS, batch.digest), left_out.tolist()):
            if not unwanted:
                digest.update(line)
                kept.write(line)
    digest.update((folder / QUARANTINE).read_bytes())
    draft.rename(out / f"{digest.hexdigest()}.jsonl")
    return replace(batch, digest=digest.hexdigest(), whole=batch.digest, rows=len(kinds),
                   kinds=dict(sorted(Counter(kinds).items())), removed=int(left_out.sum()))


def _resolve(source: str, simulation: Simulation, folders: Folders,
             known: Sequence[Arrival]) -> Iterator[tuple[Batch, Path]]:
    store = folders.imported
    if source == SIMULATED:
        yield keep(store, [asdict(simulation)], SIMULATED, lambda: _simulate(simulation))
    elif source == ADDED:
        yield from ((arrival.batch, folder_of(folders, arrival)) for arrival in known)
    else:
        parts = open_source(source, folders.root)
        kept = [keep(store, part.identity, part.name, part.read) for part in parts]
        if not any(batch.rows for batch, _ in kept):
            refuse(source, parts)
        yield from kept


def _simulate(simulation: Simulation) -> Read:
    rows = simulation.rows()
    if not rows:
        raise UserError("The source `simulated` has nothing to write: snapshot.simulated_demonstrations, "
                        "snapshot.simulated_comparisons and snapshot.simulated_rankings are all 0. Raise one "
                        "of them.")
    return rows
