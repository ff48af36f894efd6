"""Whether a `plumbline up` is running for a project, where its Prefect server is, and the key that this asks for: small
files in the home.

The one that runs holds a lock as long as it lives, so what a killed one left is not believed. The key stays the same
from one `plumbline up` to the next, so that browsers and shells which were given it go on.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plumbline.errors import UserError
from plumbline.project.token_files import open_token
from plumbline.whole_file import write_whole

LOCK, URL_FILE, KEY = "lock", "prefect_api_url", "prefect_key"
ATTEMPTS = 20


def service_folder(home: Path) -> Path:
    """Where `plumbline up` keeps its files."""
    return home / "service"


def is_up(home: Path) -> bool:
    """Whether a `plumbline up` of this home is alive."""
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
    """Be the one `plumbline up` of this home. Raises UserError when there is another."""
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
    """The address of the running Prefect server's API; None when there is no `plumbline up`."""
    try:
        url = (service_folder(home) / URL_FILE).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    return url if is_up(home) else None


def api_key(home: Path) -> str:
    """What this home's Prefect server asks its clients for, as PREFECT_API_AUTH_STRING: who has it can run code."""
    return open_token(key_file(home), "the key of Prefect's server")[0]


def key_file(home: Path) -> Path:
    """Where a person finds the key."""
    return service_folder(home) / KEY


def say_api_url(home: Path, url: str | None) -> None:
    """Let other commands find the server, or no longer."""
    file = service_folder(home) / URL_FILE
    if url is None:
        file.unlink(missing_ok=True)
        return
    write_whole(file, url + "\n")
