"""Errors that a user can act on.

The command line prints the message of a `UserError` as one paragraph and exits with its `exit_code`; anything else is a
bug and keeps its traceback. A message says what was expected, what was found, and what to do.
"""


class UserError(Exception):
    """Something that the user can put right: a parameter, a file, a model, the disk."""

    exit_code = 2


class GateFailed(UserError):
    """A quality gate said no: the run stopped on purpose, and the message says which measurement failed."""

    exit_code = 3
