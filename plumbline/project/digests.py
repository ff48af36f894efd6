"""Content digests as DVC computes them, so that receipts, MLflow and dvc.lock name the same bytes by the same
string.

A file is the MD5 of its bytes. A folder is the MD5 of the JSON list of its files, sorted by path, followed by
`.dir`. MD5 serves as a name here, not as a protection.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from plumbline.errors import UserError

MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


def file_digest(path: Path) -> str:
    """Return the MD5 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def listing(folder: Path) -> dict[str, str]:
    """Return the digests of all files below `folder`, by their paths relative to the folder."""
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in sorted(_files(folder))}


def digest(path: Path) -> str:
    """Return DVC's digest of a file or folder. Raises FileNotFoundError if the path does not exist."""
    if not path.is_dir():
        return file_digest(path)
    entries = [{"md5": md5, "relpath": name} for name, md5 in sorted(listing(path).items())]
    text = json.dumps(entries, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def digests(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Return the digest of each path below `root`."""
    return {path: digest(root / path) for path in paths}


def combined(values: dict[str, str]) -> str:
    """Return one name of 16 hexadecimal digits for a set of digests or other strings."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cached_file(cache: Path, md5: str) -> Path:
    """Return the file of DVC's cache that holds the bytes of a digest.

    Raises UserError for a malformed digest.
    """
    if not MD5.fullmatch(md5):
        raise UserError(f"{md5!r:.100} is no digest of DVC's: expected 32 hexadecimal digits, perhaps with "
                        "`.dir`. The dvc.lock, .dvc file or folder listing that names it is damaged, or "
                        "somebody has changed it.")
    return cache / "files" / "md5" / md5[:2] / md5[2:]


def cached_listing(cache: Path, md5: str) -> dict[str, str] | None:
    """Return the digests of a cached folder's files by their paths; None if its listing is not in the cache.

    Raises UserError for a listing with a name that leads out of the folder.
    """
    try:
        entries = json.loads(cached_file(cache, md5).read_text(encoding="utf-8"))
    except OSError:
        return None
    return {require_inside(entry["relpath"], f"the listing {md5}"): entry["md5"] for entry in entries}


def require_inside(path: str, source: str) -> str:
    """Return `path`. Raises UserError, which names `source`, for a path that leads out of its folder."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise UserError(f"{source} names {path!r:.100}, which leads out of its folder: it is damaged, or "
                        "somebody has changed it. Nothing was made of it.")
    return path


def restore_folder(cache: Path, md5: str, target: Path) -> None:
    """Copy a folder from the cache to `target`.

    Raises UserError if the cache does not hold the folder's listing.
    """
    names = cached_listing(cache, md5)
    if names is None:
        raise UserError(f"The cache {cache} does not hold {md5}, which should become {target}. If the "
                        "project has a DVC remote, `dvc pull` may bring it back.")
    for name, file in names.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(cached_file(cache, file), path)


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":  # as .dvcignore
            yield path
