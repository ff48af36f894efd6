"""Whether a `plumbline up` is running for a project, where its Prefect server is, and the key that this asks
for: small files in the home.

The one that runs holds a lock as long as it lives, so what a killed one left is not believed. The key stays
the same from one `plumbline up` to the next, so that browsers and shells which were given it go on.
"""

import fcntl
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plumbline.errors import UserError
from plumbline.project.token_files import open_token
from plumbline.whole_file import write_whole

LOCK, URL_FILE, KEY, STATE = "lock", "prefect_api_url", "prefect_key", "state.json"
ATTEMPTS = 20


def service_folder(home: Path) -> Path:
    """Return the folder for the files of `plumbline up`."""
    return home / "service"


def is_up(home: Path) -> bool:
    """True if a `plumbline up` of this home is running."""
    try:
        with (service_folder(home) / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold the lock of this home's `plumbline up`. Raises UserError if another process holds it."""
    service_folder(home).mkdir(parents=True, exist_ok=True)
    with (service_folder(home) / LOCK).open("a") as lock:
        for attempt in range(ATTEMPTS):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == ATTEMPTS - 1:
                    raise UserError("Plumbline is up for this project already.") from None
                time.sleep(0.05)  # `is_up` holds it for a moment
        yield


def api_url(home: Path) -> str | None:
    """Return the API address of the running Prefect server; None if no `plumbline up` is running, or if one
    runs on another machine, whose server listens only there.
    """
    try:
        url = (service_folder(home) / URL_FILE).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    return url if _host(home) in (None, socket.gethostname()) and is_up(home) else None


def _host(home: Path) -> str | None:
    """Return the machine of the last `plumbline up`, as its state has it; None where that does not say."""
    try:
        return str(json.loads((service_folder(home) / STATE).read_text(encoding="utf-8"))["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def api_key(home: Path) -> str:
    """Return the key of this home's Prefect server, for PREFECT_API_AUTH_STRING: its holder can run code."""
    return open_token(key_file(home), "the key of Prefect's server")[0]


def key_file(home: Path) -> Path:
    """Return the file that holds the key."""
    return service_folder(home) / KEY


def say_api_url(home: Path, url: str | None) -> None:
    """Write the address of the server's API for other commands, or delete it if `url` is None."""
    file = service_folder(home) / URL_FILE
    if url is None:
        file.unlink(missing_ok=True)
        return
    write_whole(file, url + "\n")
