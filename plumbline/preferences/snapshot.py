"""Snapshots: the exact set of batches that a run learns from, fixed before its first stage.

Each source becomes a batch in the snapshot's folder (a folder: one a file), and `manifest.json` lists them in order.
The snapshot's digest is the SHA-256 of the batches' digests: the same sources in the same order give the same bytes.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from plumbline.errors import UserError
from plumbline.preferences.batches import Batch, Imported, copy_batch, file_digest, keep
from plumbline.preferences.types import Row

SIMULATED = "simulated"
HUB = "hub:"
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class Simulation:
    """How much the simulated world writes."""

    seed: int
    demonstrations: int
    comparisons: int
    rankings: int

    def rows(self) -> list[Row]:
        """Write it."""
        from plumbline.preferences.simulated import rows  # most real snapshots never need the simulated world

        return rows(self.seed, self.demonstrations, self.comparisons, self.rankings)


@dataclass(frozen=True)
class Manifest:
    """What a snapshot holds."""

    digest: str
    batches: tuple[Batch, ...]

    @property
    def simulated(self) -> bool:
        """Whether every row is from the simulated world, so that the gold reward knows every prompt."""
        return all(batch.source == SIMULATED for batch in self.batches)


def fix_snapshot(sources: Sequence[str], simulation: Simulation, root: Path, store: Path, out: Path) -> Manifest:
    """Resolve `sources` to batches and leave them in `out`, which is emptied first.

    Relative paths start at `root`; `store` keeps batches between calls. Raises UserError for a source that is missing,
    unreadable, or holds nothing usable.
    """
    found = [batch for source in sources for batch in _resolve(source, simulation, root, store)]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    batches: dict[str, Batch] = {}
    for batch, folder in found:
        if batch.digest not in batches:  # a snapshot is a set: the same batch named twice is one batch
            batches[batch.digest] = batch
            copy_batch(folder, batch, out)
    digest = hashlib.sha256("\n".join(batches).encode()).hexdigest()
    manifest = Manifest(digest, tuple(batches.values()))
    text = json.dumps({"digest": digest, "batches": [asdict(batch) for batch in manifest.batches]}, indent=2)
    (out / "manifest.json").write_text(text + "\n", encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a snapshot, or of prepared data, which keeps a copy."""
    values = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return Manifest(values["digest"], tuple(Batch(**batch) for batch in values["batches"]))


def _resolve(source: str, simulation: Simulation, root: Path, store: Path) -> Iterator[tuple[Batch, Path]]:
    if source == SIMULATED:
        yield keep(store, [asdict(simulation)], SIMULATED, lambda: _simulate(simulation))
    elif source.startswith(HUB):
        from plumbline.preferences import hub  # `datasets` is an optional dependency

        dataset = hub.find(source)
        yield keep(store, [dataset.revision], source, dataset.read)
    else:
        for file, name in _files(source, root):
            yield keep(store, [file_digest(file)], name, _reader(file, name))


def _simulate(simulation: Simulation) -> Imported:
    rows = simulation.rows()
    if not rows:
        raise UserError("The source `simulated` has nothing to write: snapshot.simulated_demonstrations, "
                        "snapshot.simulated_comparisons and snapshot.simulated_rankings are all 0. Raise one of them.")
    return Imported(rows)


def _reader(file: Path, name: str) -> Callable[[], Imported]:
    def read() -> Imported:
        from plumbline.preferences.reading import read_file  # not needed while the store has the batch

        return read_file(file, name)

    return read


def _files(source: str, root: Path) -> list[tuple[Path, str]]:
    """The files that a source names, each with the name that the manifest and the quarantine give it."""
    path = root / Path(source).expanduser()
    if path.is_file():
        return [(path, source)]
    if not path.exists():
        raise UserError(f"The preference source {source!r} does not exist: looked for {path}. Set snapshot.sources to "
                        "`simulated`, files, folders, or hub:NAME; relative paths start at the project's root.")
    files = sorted(file for file in path.rglob("*") if file.is_file() and _is_data(file))
    if not files:
        raise UserError(f"The folder {source!r} in snapshot.sources holds no preference files: expected names that end "
                        f"in {', '.join(SUFFIXES)}, with or without .gz. Looked in {path}.")
    return [(file, f"{source.rstrip('/')}/{file.relative_to(path).as_posix()}") for file in files]


def _is_data(file: Path) -> bool:
    return not file.name.startswith(".") and file.name.removesuffix(".gz").endswith(SUFFIXES)
