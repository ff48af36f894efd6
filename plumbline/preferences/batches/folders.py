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
        """Return the folder of batches that were added, each with a `.dvc` file beside it."""
        return self.root / "data" / "batches"

    @property
    def imported(self) -> Path:
        """Return the folder of batches imported from the sources in the parameters."""
        return self.home / "batches"

    @property
    def indexes(self) -> Path:
        """Return the folder of the batches' indexes."""
        return self.home / "index"
