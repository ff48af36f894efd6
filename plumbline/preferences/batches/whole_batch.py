"""Whether a batch holds the bytes that its digest names: a disk, a copy or a hand may have changed them.

Whoever reads all rows of a batch reads them here, so that nothing is learned, indexed or exported from half
of one.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plumbline.errors import UserError
from plumbline.preferences.batches.batch import QUARANTINE, ROWS

SHOWN_DIGITS = 16
ARRIVED = ("data", "batches")
"""The end of the folder of batches that were added: `Folders.arrived`."""


class DamagedBatch(UserError):
    """The rows of a batch are not those that its digest names."""

    def __init__(self, rows: Path, digest: str, why: str) -> None:
        self.folder = rows.parent
        """The batch's own, or the snapshot that it is part of."""
        super().__init__(f"{rows} is damaged: {why}, so it is no longer batch {digest[:SHOWN_DIGITS]}, whose "
                         f"SHA-256 is {digest}. {put_back(self.folder)}")


def put_back(folder: Path) -> str:
    """Return the advice for the damaged folder of a batch or a snapshot."""
    if folder.parts[-3:-1] == ARRIVED:
        return (f"Delete the folder {folder}; then `dvc checkout {folder.name}.dvc` in {folder.parent}, or "
                "`plumbline pull`, brings it back if DVC knows it, and adding its data again if not.")
    return (f"Delete the folder {folder}: what belongs to a run comes back with `plumbline restore`, and "
            "what was made of a source is made of it again.")


def verified_lines(rows: Path, digest: str) -> Iterator[bytes]:
    """Yield the lines of a batch's rows.

    Raises DamagedBatch at the end if the rows and the quarantine do not have this digest.
    """
    found = hashlib.sha256()
    try:
        with rows.open("rb") as opened:
            for line in opened:
                found.update(line)
                yield line
        if (aside := set_aside_beside(rows)).exists():
            found.update(aside.read_bytes())
    except OSError as error:
        raise DamagedBatch(rows, digest, f"it cannot be read ({error.strerror or error})") from None
    if found.hexdigest() != digest:
        raise DamagedBatch(rows, digest, f"its SHA-256 is {found.hexdigest()}")


@contextmanager
def damage_first(lines: Iterator[bytes]) -> Iterator[None]:
    """Raise DamagedBatch instead of a parsing error, if the rest of `verified_lines` shows damage."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError):
        for _ in lines:
            continue
        raise


def set_aside_beside(rows: Path) -> Path:
    """Return the quarantine file that belongs to a file of rows, in a batch's folder or in a snapshot."""
    return rows.with_name(QUARANTINE) if rows.name == ROWS else rows.with_suffix(".quarantine.jsonl")
