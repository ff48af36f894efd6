"""Everything that has been recorded, as the pages and the lineage graph read it: runs, stages, versions of the policy.

The source is MLflow alone (runs, their tags, inputs and artifacts, the registry), so a run that was started on another
machine appears like any other. What has ended never changes, so it is read once and kept in the home (see
history_index.py); a refresh asks only for what is new (history_reader.py). Workspaces on this machine add what is still
going on.
"""

import os
import sqlite3
import threading
from collections.abc import Mapping

from plumbline.errors import UserError
from plumbline.history.collection import Collection
from plumbline.lineage.graph_build import build
from plumbline.lineage.records import Move, RegisteredVersion, Run, Step, StepStatus
from plumbline.project.home import Home

__all__ = ["History", "Move", "RegisteredVersion", "Run", "Step", "StepStatus"]

SQLITE = "sqlite:///"


class History:
    """What is recorded in one project's MLflow store. Reading it is cheap; `refresh` brings it up to date.

    What earlier processes have read is there at once. The mappings are never changed, only replaced, and only when
    something in them is new, so that any thread may read them while one refreshes.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.runs: Mapping[str, Run] = {}
        """By id, newest first."""
        self.versions: Mapping[int, RegisteredVersion] = {}
        """By number, newest first."""
        self.moves: tuple[Move, ...] = ()
        """Newest first."""
        self.others: Mapping[str, Step] = {}
        """Stages that plain `dvc repro` ran, by MLflow run, newest first."""
        self.graph = build({}, {}, {})
        """The lineage graph of all that, with the runs that it was made of."""
        self._one_at_a_time = threading.Lock()
        self._collection = Collection(home)
        self._show()

    def refresh(self) -> None:
        """Read what is new. Raises UserError when MLflow's store cannot be read; what was read before stays."""
        with self._one_at_a_time:
            store = self.home.tracking_uri
            if store.startswith(SQLITE) and not os.path.exists(store.removeprefix(SQLITE)):  # noqa: PTH110
                raise UserError(f"There is no MLflow store at {store.removeprefix(SQLITE)} yet, so nothing has been "
                                "recorded. Start a run with `plumbline run`.")
            from mlflow.exceptions import MlflowException
            from sqlalchemy.exc import SQLAlchemyError

            try:
                self._collection.update(self._show)
            except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
                self._collection.reconnect()
                raise UserError(f"MLflow's store {store} cannot be read: {error}. See that its server runs, or that no "
                                "other program locks the file.") from error

    def _show(self) -> None:
        """Let readers see what has been collected."""
        registered = self._collection.registered
        runs, others = self._collection.runs(), self._collection.others()
        versions = {version.number: version for version in registered.versions}
        self.moves = registered.moves
        now, before = (runs, versions, others), (self.runs, self.versions, self.others)
        if now != before or list(runs) != list(self.runs):
            self.graph = build(*now)
            self.runs, self.versions, self.others = now
