"""Where preference data is kept."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Folders:
    """The folders of one project."""

    root: Path
    """Relative paths of sources start here."""
    home: Path
    """What can be made again."""

    @property
    def arrived(self) -> Path:
        """Batches that were added, each with a file that lets DVC carry it to other machines."""
        return self.root / "data" / "batches"

    @property
    def imported(self) -> Path:
        """Batches made of the sources in the parameters."""
        return self.home / "batches"

    @property
    def indexes(self) -> Path:
        """Indexes of batches."""
        return self.home / "index"
