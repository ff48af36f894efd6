"""Count the rows that a model in use learned from and that a new snapshot no longer has.

A removal has to leave the model in use as well: promotion asks of a policy that learned from fewer rows only
that it is not worse (`promote.non_inferior_by`).
"""

from pathlib import Path

import numpy as np

from plumbline.preferences.batches.manifest import MANIFEST, Manifest, manifest_in, read_manifest
from plumbline.preferences.versions.compare import Columns, DataVersion, changes
from plumbline.project.digests import cached_file, cached_listing
from plumbline.project.dvc_objects import Storage
from plumbline.project.home import Home


def lost_rows(home: Home, before: str, after: Path) -> int | None:
    """Return how many rows of an earlier snapshot a snapshot in a folder lacks.

    `before` is DVC's digest of the earlier one, which is fetched from the remotes if the cache lacks it. Rows
    that were judged again are not lost, whether the verdict is another or the same. None if the earlier
    snapshot is nowhere.
    """
    if Storage(home).fetch([before]):
        return None
    names = cached_listing(home.cache, before)
    if names is None or MANIFEST not in names:
        return None
    kept = {name: cached_file(home.cache, md5) for name, md5 in names.items()}
    earlier = _version("before", manifest_in(kept[MANIFEST]), kept)
    now = _version("after", read_manifest(after), {file.name: file for file in after.iterdir()})
    old, new = (Columns(version, home.preferences.indexes) for version in (earlier, now))
    found = changes(old, new)
    return len(np.setdiff1d(found.removed, found.judged_twice))


def _version(name: str, manifest: Manifest, files: dict[str, Path]) -> DataVersion:
    """Return the rows of a snapshot, whose files are given by their names."""
    return DataVersion(name, tuple((files[f"{batch.digest}.jsonl"], batch.digest)
                                   for batch in manifest.batches if batch.rows))
