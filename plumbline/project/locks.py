"""Locks between processes of one machine, that end with the process that holds them."""

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GC_LOCK = "gc.lock"
"""gc holds it alone, all others together. A run and a restore begin under it, so that gc knows of them; a
pull, and a person's change of the champion, hold it until something needs the bytes."""


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the lock `path`; wait for other processes and threads that hold it."""
    with _opened(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def gc_waits(home: Path) -> Iterator[None]:
    """Keep gc from deleting anything in a home; any number of processes may at once. Says so if gc is on."""
    with _opened(home / GC_LOCK) as descriptor:
        _take(descriptor, fcntl.LOCK_SH, "Waiting for `plumbline gc` to end.")
        yield


@contextmanager
def others_wait(home: Path) -> Iterator[None]:
    """Hold the lock of gc alone. Says so if it has to wait."""
    with _opened(home / GC_LOCK) as descriptor:
        _take(descriptor, fcntl.LOCK_EX, "Waiting for a pull, a restore or another gc to end, or for a run "
                                         "to begin.")
        yield


def _take(descriptor: int, how: int, waiting: str) -> None:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stderr.write(f"{waiting}\n")
        fcntl.flock(descriptor, how)


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock `path` if it is free. Yields True if it is held, False if another holder has it."""
    with _opened(path) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:  # closing it gives the lock back
        yield file.fileno()
