"""Errors that a user can act on.

The command line prints the message of a `UserError` as one paragraph and exits with its `exit_code`; anything
else is a bug and keeps its traceback. A message says what was expected, what was found, and what to do.
"""


import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something that the user can put right: a parameter, a file, a model, the disk."""

    exit_code = 2


class DiskFull(UserError):
    """There is no room for a file."""

    def __init__(self, file: object) -> None:
        super().__init__(f"The disk is full: {file or 'a file'} could not be written. Make room (`plumbline "
                         "gc --dry-run` says what nothing needs), then run again: finished stages are kept.")


class GateFailed(UserError):
    """A quality gate said no: the run stopped on purpose, and the message says which measurement failed."""

    exit_code = 3


NO_SPACE = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "database or disk is full")
"""How the operating system and SQLite say that the disk is full."""


def as_user_error(error: BaseException) -> UserError | None:
    """Return the error as a UserError if the user can put it right, or None."""
    if isinstance(error, UserError):
        return error
    if any(text in str(error) for text in NO_SPACE):
        return DiskFull(error.filename if isinstance(error, OSError) else None)
    return None


@contextmanager
def after(error: BaseException) -> Iterator[None]:
    """Add an error of the tidying up to `error` as a note, because the first error is the one to show."""
    try:
        yield
    except Exception as second:
        error.add_note(f"Afterwards: {type(second).__name__}: {second}")
