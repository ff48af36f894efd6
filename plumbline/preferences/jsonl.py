"""Files of JSON lines: written the same for the same values, and named by the SHA-256 of their bytes."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from plumbline.preferences.types import encode


def jsonl(values: Iterable[object]) -> str:
    """Return the values as JSON lines: the same bytes for the same values."""
    return "".join(encode(value) + "\n" for value in values)


def lines(file: Path) -> Iterator[str]:
    """Yield the lines of a file of ours with their line ends."""
    with file.open(encoding="utf-8", newline="\n") as opened:
        yield from opened


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
