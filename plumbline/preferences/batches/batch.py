"""Batches: immutable files of preference rows that arrived together, named by their content.

A batch is `rows.jsonl` (our schema, one row a line), `quarantine.jsonl` (what could not be used, and why) and
`batch.json`. Its digest is the SHA-256 of the rows followed by the quarantined rows, so that `sha256sum`
verifies a batch that has none. Rows are written as they are read: a batch may be larger than memory. Making a
batch can take seconds, and a snapshot is taken at the start of every run: batches are kept in a store under
the identity of their source, which holds its content and the code that imports it.
"""

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path

from plumbline.preferences.batches.manifest import Batch
from plumbline.preferences.jsonl import jsonl
from plumbline.preferences.reading.results import Quarantined, Read, Unread
from plumbline.preferences.template_markers import has_template
from plumbline.preferences.types import Row, to_line

ROWS, QUARANTINE, BATCH = "rows.jsonl", "quarantine.jsonl", "batch.json"
SIMULATED = "simulated"
MAKES_ROWS = ("reading", "simulated", "batches/batch.py", "batches/manifest.py", "jsonl.py",
              "template_markers.py", "types.py")
"""The files and folders of this package that decide what a batch holds."""
MOST_FIELDS = 100
OTHERS = "(others)"


def keep(store: Path, identity: Sequence[object], source: str,
         read: Callable[[], Read]) -> tuple[Batch, Path]:
    """Return the batch of the source with this `identity`, and its folder in `store`.

    `read` is called only if the store does not have the batch.
    """
    key = hashlib.sha256(json.dumps([code_digest(), source, *identity]).encode()).hexdigest()
    folder = store / key
    kept = _kept(folder)
    if kept is None:
        with new_folder(store) as made:
            kept = write_batch(made, source, read())
            (made / BATCH).write_text(json.dumps(asdict(kept)) + "\n", encoding="utf-8")
            move_into_place(made, folder)
    return kept, folder


def _kept(folder: Path) -> Batch | None:
    """Return the batch in a folder of the store, or None. A damaged folder is deleted."""
    try:
        return Batch(**json.loads((folder / BATCH).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        shutil.rmtree(folder, ignore_errors=True)
        return None


@contextmanager
def new_folder(parent: Path) -> Iterator[Path]:
    """Yield an empty folder in `parent`, and delete it at the end unless it was moved away."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".new-") as name:
        made = Path(name) / "batch"
        made.mkdir()
        yield made


def move_into_place(made: Path, folder: Path) -> None:
    """Put a finished batch where it belongs: the whole of it, or nothing. One that is there already stays."""
    if folder.exists() and not (folder / BATCH).exists():
        shutil.rmtree(folder, ignore_errors=True)  # left without batch.json by a copy that someone cut short
    try:
        made.replace(folder)
    except OSError:
        if not (folder / BATCH).exists():  # otherwise another process was quicker, and made the same
            raise


def write_batch(folder: Path, source: str, read: Read,
                note: Callable[[Row, bytes], None] | None = None) -> Batch:
    """Write rows and quarantined rows into `folder` as they come; call `note` with each row and its line."""
    digest, kinds, quarantined, simulated = hashlib.sha256(), Counter[str](), 0, True
    unread, templated = Unread(), 0
    with (folder / ROWS).open("wb") as rows, (folder / QUARANTINE).open("wb") as set_aside:
        for row in read:
            if isinstance(row, Quarantined):
                quarantined += 1
                set_aside.write(jsonl([asdict(row)]).encode())
                continue
            if isinstance(row, Unread):
                unread.left_alone += row.left_alone
                unread.unknown += row.unknown
                continue
            line = to_line(row).encode()
            digest.update(line)
            rows.write(line)
            kinds[type(row).__name__.lower()] += 1
            simulated = simulated and _is_simulated(row)
            templated += has_template(line)
            if note is not None:
                note(row, line)
    digest.update((folder / QUARANTINE).read_bytes())
    return Batch(digest.hexdigest(), source, kinds.total(), dict(sorted(kinds.items())), quarantined,
                 simulated,
                 unread=_most(unread.unknown), left_alone=_most(unread.left_alone), templated=templated)


def _most(fields: Counter[str]) -> dict[str, int]:
    """Return the commonest fields, and the number of all others: a file can have as many fields as records.
    """
    kept = dict(fields.most_common(MOST_FIELDS))
    rest = fields.total() - sum(kept.values())
    return kept | ({OTHERS: rest} if rest else {})


def _is_simulated(row: Row) -> bool:
    """True if the row is of the simulated world: files can use that source name for other prompts."""
    if row.origin.source != SIMULATED:
        return False
    from plumbline.preferences.simulated.world import requests  # real data never needs it

    return len(row.prompt) == 1 and row.prompt[0].content in requests()


@cache
def code_digest() -> str:
    """Return the SHA-256 of the code that makes rows of a source: a batch made by other code is made
    again."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for part in MAKES_ROWS:
        for file in sorted((package / part).rglob("*.py")) or [package / part]:
            name = file.relative_to(package).as_posix()
            digest.update(f"{name}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()
