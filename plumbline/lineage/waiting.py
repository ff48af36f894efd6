"""When MLflow's store is away: its server does not answer, or its database is locked or gone.

What only records does not wait: it is kept and delivered later (`plumbline.lineage.journal`). What needs an answer,
such as who is champion, waits with `patiently`.
"""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from plumbline.errors import NO_SPACE, UserError
from plumbline.lineage.home import Home

Answer = TypeVar("Answer")
PATIENCE_SECONDS = 900.0
"""`PLUMBLINE_MLFLOW_PATIENCE` sets another."""
PATIENCE = "PLUMBLINE_MLFLOW_PATIENCE"
PAUSE_SECONDS = 5.0
SQLITE = "sqlite:///"
TEMPORARY = ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED")
SERVER_SAID = "RestException"

CLIENT_SETTINGS = {
    # MLflow's own patience is minutes a request; ours is spent in one place.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    # Standard output is for our own answers.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class StoreGone(UserError):
    """The SQLite file of the store is not there."""


def quiet_client() -> None:
    """Keep MLflow's client from retrying for minutes and from printing, unless the user has set it otherwise."""
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def is_away(error: BaseException) -> bool:
    """Whether an error means that MLflow's store cannot be reached now, and may be later."""
    if any(text in str(error) for text in NO_SPACE):
        return False
    return isinstance(error, StoreGone) or any(_is_away(one) for one in _chain(error))


def is_there(file: Path) -> bool:
    """Whether a SQLite store exists; a process that had it open leaves an empty file where it has vanished."""
    return file.exists() and file.stat().st_size > 0


def require_store(home: Home) -> None:
    """Raise StoreGone where opening the store would make a new, empty one."""
    file = home.tracking_uri.removeprefix(SQLITE)
    if home.tracking_uri.startswith(SQLITE) and not is_there(Path(file)):
        raise StoreGone(f"MLflow's store {file} is not there. The first `plumbline run` makes it; if runs were "
                        "recorded in it, put it back.")


def patiently(home: Home, act: Callable[[], Answer]) -> Answer:
    """What `act` returns; while the store is away it is done again. Raises UserError when that takes too long."""
    from plumbline.lineage.journal import deliver

    deadline = time.monotonic() + float(os.environ.get(PATIENCE, PATIENCE_SECONDS))
    while True:
        try:
            deliver(home)
            return act()
        except Exception as error:
            if not is_away(error):
                raise
            if time.monotonic() > deadline:
                said = " ".join(str(error).split())[:300]
                raise UserError(f"MLflow at {home.tracking_uri} has been away too long, and this needs its answer: "
                                f"{said}. Bring it back, then run again: finished stages are kept.") from error
            time.sleep(PAUSE_SECONDS)


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _is_away(error: BaseException) -> bool:
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, MlflowException):
        internal = error.error_code == "INTERNAL_ERROR" and type(error).__name__ == SERVER_SAID
        return internal or error.error_code in TEMPORARY
    if isinstance(error, RequestException):
        return error.response is None or error.response.status_code >= 500
    return isinstance(error, OperationalError)
