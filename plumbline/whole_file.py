"""The one way to write a file whole: whoever reads it, at any moment and after any crash, finds all of it or
what was there before.

The content goes into a draft beside the file, onto the disk, and then to its name. Without the second step a
power loss may leave the name with nothing behind it.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

DRAFT = ".new-"
"""Begins the name of a draft, which no pattern for a kind of file matches."""


@contextmanager
def whole_file(file: Path) -> Iterator[BinaryIO]:
    """Open a draft to write to. It becomes `file` at the end, and is deleted after an error."""
    draft = file.with_name(f"{DRAFT}{os.getpid()}-{threading.get_ident()}-{file.name}.part")
    try:
        with draft.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    to_disk(file.parent)


def write_whole(file: Path, content: str | bytes) -> None:
    """Write a file whole, text as UTF-8."""
    with whole_file(file) as out:
        out.write(content.encode() if isinstance(content, str) else content)


def to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
