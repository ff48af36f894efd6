"""When MLflow's store is away: its server does not answer, or its database is locked or gone.

What only records does not wait: it is kept and delivered later (`plumbline.tracking.outbox`). What needs an answer,
such as who is champion, waits with `patiently`.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from plumbline.errors import NO_SPACE, UserError
from plumbline.project.home import Home

Answer = TypeVar("Answer")
PATIENCE_SECONDS = 900.0
"""`PLUMBLINE_MLFLOW_PATIENCE` sets another."""
PATIENCE = "PLUMBLINE_MLFLOW_PATIENCE"
PAUSE_SECONDS = 5.0
SQLITE = "sqlite:///"
DAMAGED = ("database disk image is malformed", "file is not a database")
"""How SQLite says that a file is not what it wrote."""
OTHER_SCHEMA = "database schema"
"""In what MLflow says where another version of it has made the tables."""
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


class StoreBroken(UserError):
    """The store is there and cannot be used as it is: it is damaged, or of another version of MLflow."""


def broken_store(uri: str, error: BaseException) -> StoreBroken | None:
    """The error as one of the store at `uri` that a person has to put right, if it is."""
    said = " ".join(str(error).split())
    if damage := next((text for text in DAMAGED if text in said), None):
        return StoreBroken(f"MLflow's store {uri} is damaged: {damage}. Put back a copy of it, or save what can "
                           "be read with `sqlite3 FILE .recover`. Where neither is left, move the file away: the next "
                           "run begins a new one, without champion and history. Data, models and runs/ stay.")
    if OTHER_SCHEMA in said:
        return StoreBroken(f"MLflow's store {uri} was made by another version of MLflow: {said.partition('. ')[0]}. "
                           f"`mlflow db upgrade {uri}` brings an older one up to date, after a copy of it; a newer one "
                           "needs the MLflow that made it, or a later one.")
    return None


@contextmanager
def store_in_words(uri: str) -> Iterator[None]:
    """Raise StoreBroken for what MLflow's client says of a store that a person has to put right."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        problem = broken_store(uri, error)
        if problem is None:
            raise
        raise problem from error


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
    from plumbline.tracking.outbox import deliver

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
