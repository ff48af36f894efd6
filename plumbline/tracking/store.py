"""MLflow's store: opened, made where there is none, and told apart from one that is away, gone or broken.

Only `MlflowClient` is used: importing the whole of mlflow pulls in what a stage does not need. A store is
away while its server does not answer, or its database is locked or missing; what is recorded then waits in
`plumbline.tracking.outbox`.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.errors import NO_SPACE, UserError
from plumbline.project.home import Home
from plumbline.project.locks import file_lock
from plumbline.project.masking import masked

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
EXPERIMENT = "plumbline"
OUR_ID = "plumbline.id"
"""The tag with the id that we give a run or a model, because MLflow gives its own only when it answers."""
OURS = "local-"
"""Begins such an id. That of a run is `local-HEX`, those of its models are `local-HEX-1`, `local-HEX-2`, ...
"""
DELETED = "deleted"
"""In MLflow: it is in the trash, and can be restored."""
COMES_BACK_SECONDS = 75.0
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


class NoAnswer(UserError):
    """The store has what it was asked for, and does not give it now."""


class StoreBroken(UserError):
    """The store is there and cannot be used as it is: it is damaged, or of another version of MLflow."""


class MlflowStore:
    """A project's MLflow store, opened when it is first needed."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._client: MlflowClient | None = None
        self._experiment: str | None = None
        self.ids: dict[str, str] = {}
        """MLflow's ids of runs and models by ours, as far as they are known."""

    @property
    def client(self) -> "MlflowClient":
        """MLflow's client. Raises StoreGone if a SQLite store has vanished."""
        require_store(self.home)
        if self._client is None:
            self._client = connect(self.home)
        return self._client

    @property
    def experiment(self) -> str:
        """The id of the project's experiment."""
        if self._experiment is None:
            self._experiment = experiment(self.client, self.home)
        return self._experiment

    def find(self, name: str) -> str | None:
        """Return MLflow's id of a run or a model; None for an id of ours that MLflow does not know (yet)."""
        if name in self.ids or not name.startswith(OURS):
            return self.known(name)
        query = f"tags.`{OUR_ID}` = '{name}'"
        if "-" in name.removeprefix(OURS):
            models = self.client.search_logged_models([self.experiment], query, max_results=1)
            found = [one.model_id for one in models]
        else:
            runs = self.client.search_runs([self.experiment], query, max_results=1)
            found = [one.info.run_id for one in runs]
        self.ids.update((name, id_) for id_ in found)
        return self.ids.get(name)

    def known(self, name: str) -> str:
        """Return MLflow's id of a run or a model as far as it is known without asking, otherwise `name`."""
        return self.ids.get(name, name)

    def restore(self, run: str) -> None:
        """Restore a run that somebody has deleted in MLflow, and its experiment if that was deleted."""
        experiment(self.client, self.home)
        if self.client.get_run(run).info.lifecycle_stage == DELETED:
            self.client.restore_run(run)
            sys.stderr.write(f"The run {run} had been deleted in MLflow while it was being recorded. It was "
                             "restored: delete it when it has ended.\n")


def connect(home: Home) -> "MlflowClient":
    """Return a client of the project's MLflow store, which is made if there is none. Raises StoreBroken."""
    from mlflow import MlflowClient

    for name, value in CLIENT_SETTINGS.items():  # unless the user has set it otherwise
        os.environ.setdefault(name, value)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    home.folder.mkdir(parents=True, exist_ok=True)
    file = sqlite_file(home)
    if file and not is_there(file):
        _create(file)
    try:
        return MlflowClient(tracking_uri=home.tracking_uri, registry_uri=home.tracking_uri)
    except Exception as error:
        problem = broken_store(home.tracking_uri, error)
        if problem is None:
            raise
        raise problem from error


def _create(file: Path) -> None:
    """Make MLflow's tables elsewhere and put them in place: two processes at once, or a kill, would break
    them.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(file.with_name(f"{file.name}.lock")):
        if is_there(file):
            return
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        make_tables(draft)
        draft.replace(file)


def make_tables(file: Path) -> None:
    """Let MLflow make its tables in a new SQLite file, which takes a second."""
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=f"{SQLITE}{file}", registry_uri=f"{SQLITE}{file}")


def prepare(home: Home) -> None:
    """Make the store if there is none; one that has vanished gets COMES_BACK_SECONDS to come back first."""
    file = sqlite_file(home)
    if file and not is_there(file) and home.artifacts.exists():
        sys.stderr.write(f"MLflow's store {file} is gone, although runs were recorded. Waiting "
                         f"{COMES_BACK_SECONDS:g} seconds for it to come back; then a new one begins, "
                         "without champion and history.\n")
        deadline = time.monotonic() + COMES_BACK_SECONDS
        while not is_there(file) and time.monotonic() < deadline:
            time.sleep(0.5)
    try:
        experiment(connect(home), home)
    except Exception as error:
        if not is_away(error):
            raise


def experiment(client: "MlflowClient", home: Home) -> str:
    """Return the id of the project's experiment: made if it is missing, restored if somebody has deleted it.

    In the trash it would take no new runs, although what has been learned names its old ones.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            # A store on this machine gets an absolute place for its files; a server knows its own.
            local = home.artifacts.as_uri() if sqlite_file(home) else None
            return str(client.create_experiment(EXPERIMENT, artifact_location=local))
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
    if found.lifecycle_stage == DELETED:
        client.restore_experiment(found.experiment_id)
        sys.stderr.write(f"The experiment `{EXPERIMENT}` had been deleted in MLflow at "
                         f"{masked(home.tracking_uri)}. It was restored with its runs, because runs are "
                         "recorded there. `mlflow gc` deletes for good.\n")
    return str(found.experiment_id)


def deleted_experiment(home: Home) -> str:
    """Return the message for an experiment that is in MLflow's trash."""
    return (f"The experiment `{EXPERIMENT}` was deleted in MLflow at {masked(home.tracking_uri)}, and with "
            "it the records of all runs. The next run restores it; before that, `mlflow experiments restore` "
            "does.")


def sqlite_file(home: Home) -> Path | None:
    """Return the file of the store if it is a SQLite database."""
    uri = home.tracking_uri
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def is_there(file: Path) -> bool:
    """True if a SQLite store exists; a process that had it open leaves an empty file where it has vanished.
    """
    return file.exists() and file.stat().st_size > 0


def require_store(home: Home) -> None:
    """Raise StoreGone if opening the store would make a new, empty one."""
    file = sqlite_file(home)
    if file and not is_there(file):
        raise StoreGone(f"MLflow's store {file} is not there. The first `plumbline run` makes it; if runs "
                        "were recorded in it, put it back.")


def broken_store(uri: str, error: BaseException) -> StoreBroken | None:
    """Return an error as StoreBroken if it means that a person has to put the store at `uri` right."""
    said, uri = masked(" ".join(str(error).split())), masked(uri)
    if damage := next((text for text in DAMAGED if text in said), None):
        return StoreBroken(f"MLflow's store {uri} is damaged: {damage}. Put back a copy of it, or save what "
                           "can be read with `sqlite3 FILE .recover`. Where neither is left, move the file "
                           "away: the next run begins a new one, without champion and history. Data, models "
                           "and runs/ stay.")
    if OTHER_SCHEMA in said:
        return StoreBroken(f"MLflow's store {uri} was made by another version of MLflow: "
                           f"{said.partition('. ')[0]}. `mlflow db upgrade {uri}` brings an older one up to "
                           "date, after a copy of it; a newer one needs the MLflow that made it, or a later "
                           "one.")
    return None


def is_deleted(error: BaseException) -> bool:
    """True if MLflow refuses a write because the run, or the experiment, was deleted."""
    return "must be in the 'active' state. Current state is deleted" in str(error)


def is_away(error: BaseException) -> bool:
    """True if an error, or one of its causes, means that the store cannot be reached now and may be later."""
    if isinstance(error, StoreGone | NoAnswer):
        return True
    if any(text in str(error) for text in NO_SPACE):
        return False
    cause: BaseException | None = error
    seen: list[BaseException] = []
    while cause is not None and cause not in seen:
        if _says_away(cause):
            return True
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    return False


@contextmanager
def asking_mlflow(home: Home, unanswered: str) -> Iterator[None]:
    """Around questions to MLflow: raise UserError where it is away; `unanswered` says what comes of that.

    A UserError says so already.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not is_away(error):
            raise
        raise UserError(f"MLflow at {masked(home.tracking_uri)} does not answer{unanswered}") from error


def _says_away(error: BaseException) -> bool:
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, MlflowException):
        internal = error.error_code == "INTERNAL_ERROR" and type(error).__name__ == SERVER_SAID
        return internal or error.error_code in TEMPORARY
    if isinstance(error, RequestException):
        return error.response is None or error.response.status_code >= 500
    return isinstance(error, OperationalError)
