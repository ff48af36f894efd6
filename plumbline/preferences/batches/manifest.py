"""What batches and snapshots say of themselves."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from plumbline.errors import UserError

MANIFEST = "manifest.json"
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Batch:
    """A batch: `rows` usable rows, by kind, and how many were `quarantined`."""

    digest: str
    source: str
    rows: int
    kinds: dict[str, int]
    quarantined: int
    simulated: bool
    """True if every row is from the simulated world, so that the gold reward knows every prompt."""
    removed: int = 0
    """Rows that a snapshot leaves out because they were removed or superseded."""
    whole: str | None = None
    """Digest of the batch with those rows."""
    unread: dict[str, int] = field(default_factory=dict)
    """Fields of the source that no row was made of, each with the number of its records that held something
    in it."""
    left_alone: dict[str, int] = field(default_factory=dict)
    """The same for fields that are known to say nothing about which response is better."""
    templated: int = 0
    """Rows whose texts carry the markers of a chat template."""

    @classmethod
    def of(cls, values: Mapping[str, object]) -> "Batch":
        """Return the batch that a JSON file describes.

        Raises ValueError for an invalid digest, because files are named by digests, and TypeError for other
        fields.
        """
        for digest in (values["digest"], values.get("whole")):
            if digest is not None and not DIGEST.fullmatch(str(digest)):
                raise ValueError(f"{digest!r:.100} is no SHA-256")
        return cls(**values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Manifest:
    """The batches of a snapshot."""

    digest: str
    batches: tuple[Batch, ...]
    wholly_removed: int = 0
    """Rows of batches of which nothing is left, so that they are not among `batches`."""

    @property
    def removed(self) -> int:
        """Return how many rows were left out because they were removed or superseded."""
        return self.wholly_removed + sum(batch.removed for batch in self.batches)

    @property
    def simulated(self) -> bool:
        """True if every row is from the simulated world."""
        return all(batch.simulated for batch in self.batches)


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a snapshot or of prepared data. Raises as `manifest_in` does."""
    return manifest_in(folder / MANIFEST)


def manifest_in(file: Path) -> Manifest:
    """Return the manifest in a file. Raises FileNotFoundError, and UserError if it is damaged."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Manifest(values["digest"], tuple(map(Batch.of, values["batches"])),
                        int(values.get("wholly_removed", 0)))
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file} is damaged, or of another version of Plumbline. `plumbline restore` puts a "
                        "run back; `plumbline run` makes a new one without it.") from None
