"""Tokens in files of the home that only their owner may read: made once, kept over restarts."""

import os
import secrets
from pathlib import Path

from plumbline.errors import UserError
from plumbline.whole_file import to_disk

SHORTEST = 32
"""Characters; a file that holds fewer was cut off."""


def open_token(file: Path, what: str) -> tuple[str, bool]:
    """Return the token in a file, and True if it was made by this call because there was none.

    Raises UserError, which names the token's purpose `what`, for a file that holds no token.
    """
    made = _make(file)
    token = file.read_text(encoding="utf-8").strip()
    if len(token) < SHORTEST:
        raise UserError(f"{file} should hold {what}, and holds {len(token)} characters. Delete it: the next "
                        "start makes a new one.")
    return token, made


def _make(file: Path) -> bool:
    """Write a new token, whole or not at all, unless there is one. Returns True if it was written."""
    if file.exists():
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(secrets.token_urlsafe(32) + "\n")
            out.flush()
            os.fsync(out.fileno())  # an empty file would keep everybody out after a power cut
        os.link(draft, file)  # fails where another process was faster
        to_disk(file.parent)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True
