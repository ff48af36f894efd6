"""Batches: immutable files of preference rows that arrived together, named by their content.

A batch is `rows.jsonl` (our schema, one row a line), `quarantine.jsonl` (what could not be used, and why) and
`batch.json`. Its digest is the SHA-256 of the rows followed by the quarantined rows, so that `sha256sum` verifies a
batch that has none. Making a batch can take seconds, and a snapshot is taken at the start of every run: batches are
kept in a store under the identity of their source, which holds its content and the code that imports it.
"""

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from plumbline.preferences.types import Row, to_json

ROWS, QUARANTINE, BATCH = "rows.jsonl", "quarantine.jsonl", "batch.json"


@dataclass(frozen=True)
class Quarantined:
    """A row that cannot be used. `line` counts from 1; for files without lines it counts records."""

    file: str
    line: int
    field: str
    reason: str


@dataclass(frozen=True)
class Imported:
    """What one source held: every row read is in one of the two."""

    rows: Sequence[Row]
    quarantined: Sequence[Quarantined] = ()


@dataclass(frozen=True)
class Batch:
    """A batch as the manifest lists it: `rows` usable rows, by kind, and how many were `quarantined`."""

    digest: str
    source: str
    rows: int
    kinds: dict[str, int]
    quarantined: int


def keep(store: Path, identity: Sequence[object], source: str, read: Callable[[], Imported]) -> tuple[Batch, Path]:
    """The batch of the source with this `identity` and its folder in `store`; `read` is called only for a new one."""
    key = hashlib.sha256(json.dumps([code_digest(), source, *identity]).encode()).hexdigest()
    folder = store / key
    if not (folder / BATCH).exists():
        _write(folder, source, read())
    return Batch(**json.loads((folder / BATCH).read_text(encoding="utf-8"))), folder


def copy_batch(folder: Path, batch: Batch, out: Path) -> None:
    """Put the batch into a snapshot: `<digest>.jsonl`, and `<digest>.quarantine.jsonl` if anything was quarantined."""
    shutil.copyfile(folder / ROWS, out / f"{batch.digest}.jsonl")
    if batch.quarantined:
        shutil.copyfile(folder / QUARANTINE, out / f"{batch.digest}.quarantine.jsonl")


def jsonl(values: Iterable[object]) -> str:
    """One JSON object a line; the same bytes for the same values."""
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def file_digest(file: Path) -> str:
    """SHA-256 of a file's content."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@cache
def code_digest() -> str:
    """SHA-256 of the source of this package: a batch made by other code is made again."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _write(folder: Path, source: str, imported: Imported) -> None:
    """Leave the whole batch in `folder`, or nothing: it is made beside it and renamed."""
    rows = jsonl(to_json(row) for row in imported.rows).encode()
    quarantined = jsonl(asdict(row) for row in imported.quarantined).encode()
    kinds = Counter(type(row).__name__.lower() for row in imported.rows)
    batch = Batch(hashlib.sha256(rows + quarantined).hexdigest(), source, len(imported.rows),
                  dict(sorted(kinds.items())), len(imported.quarantined))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as name:
        made = Path(name) / "batch"
        made.mkdir()
        (made / ROWS).write_bytes(rows)
        (made / QUARANTINE).write_bytes(quarantined)
        (made / BATCH).write_text(json.dumps(asdict(batch)) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # left without batch.json by a copy that someone cut short
        try:
            made.replace(folder)
        except OSError:
            if not (folder / BATCH).exists():  # otherwise another run was quicker, and made the same
                raise
