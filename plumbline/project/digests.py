"""Content digests as DVC computes them, so that receipts, MLflow and dvc.lock name the same bytes by the same
string.

A file is the MD5 of its bytes. A folder is the MD5 of the JSON list of its files, sorted by path, followed by
`.dir`. MD5 serves as a name here, not as a protection.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from plumbline.errors import UserError

MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
FOLDER = ".dir"
"""Ends the digest of a folder."""


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
    """Return the digests of a cached folder's files by their paths; None if its listing is not in the cache,
    or cannot be read, as a power loss leaves it.

    Raises UserError for a listing with a name that leads out of the folder.
    """
    try:
        entries = json.loads(cached_file(cache, md5).read_text(encoding="utf-8"))
        return {require_inside(entry["relpath"], f"the listing {md5}"): entry["md5"] for entry in entries}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def cached_inside(cache: Path, md5: str) -> Collection[str]:
    """Return the digests of a folder's files; nothing for a file, or for a folder without a cached listing.
    """
    return (cached_listing(cache, md5) or {}).values() if md5.endswith(FOLDER) else ()


def drop_damaged(cache: Path, digests: Iterable[str]) -> set[str]:
    """Delete cached files whose bytes do not have the digest that names them, of these files, folders and
    the files in the folders. Returns their digests.

    DVC neither flushes what it copies into the cache nor looks at it again, so a power loss may leave a name
    with other bytes behind it.
    """
    wanted = set(digests)
    damaged = _drop_damaged(cache, wanted)  # first the listings, which could not be read
    return damaged | _drop_damaged(cache, {name for md5 in wanted for name in cached_inside(cache, md5)})


def _drop_damaged(cache: Path, names: set[str]) -> set[str]:
    damaged = {name for name in names if not _is_whole(cached_file(cache, name), name)}
    for name in damaged:
        cached_file(cache, name).unlink(missing_ok=True)
    return damaged


def _is_whole(file: Path, md5: str) -> bool:
    """Return False if a file has other bytes than its digest says; one that is not there has none."""
    try:
        return file_digest(file) == md5.removesuffix(FOLDER)
    except FileNotFoundError:
        return True


def require_inside(path: str, source: str) -> str:
    """Return `path`. Raises UserError, which names `source`, for a path that leads out of its folder."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise UserError(f"{source} names {path!r:.100}, which leads out of its folder: it is damaged, or "
                        "somebody has changed it. Nothing was made of it.")
    return path


def restore_folder(cache: Path, md5: str, target: Path) -> None:
    """Copy a folder from the cache to `target`.

    Raises UserError if the cache does not hold the folder's listing or one of its files, and for a file with
    other bytes than the listing says.
    """
    names = cached_listing(cache, md5)
    if names is None:
        raise _not_held(cache, md5, target)
    for name, file in names.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cached_file(cache, file).exists():
            raise _not_held(cache, file, path)
        shutil.copyfile(cached_file(cache, file), path)
        if file_digest(path) != file:
            raise UserError(f"{cached_file(cache, file)}, which should become {path}, is damaged: its bytes "
                            "are not those that name it. Delete it; if the project has a DVC remote, "
                            "`plumbline pull` may bring it back.")


def _not_held(cache: Path, md5: str, target: Path) -> UserError:
    return UserError(f"The cache {cache} does not hold {md5}, which should become {target}. If the project "
                     "has a DVC remote, `plumbline pull` may bring it back.")


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":  # as .dvcignore
            yield path
