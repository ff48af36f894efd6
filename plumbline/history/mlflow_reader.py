"""Asks MLflow for what is new: runs that were started, that ended, that were deleted; versions of the policy,
moves of its aliases.

A refresh asks four short questions. Runs come newest first until all of a page are known, so a run that
appears with an earlier start (another machine's clock, or what it recorded while the store was away; a run
that was deleted and restored) would be missed: one page of old ones is looked at again now and then, in turn.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from plumbline.config import registered_name
from plumbline.errors import UserError
from plumbline.history.facts import RunArtifacts, iso
from plumbline.lineage.records import Move, Registered, RegisteredVersion
from plumbline.project.home import Home
from plumbline.tracking.registry import COMPARED_WITH, DIGEST, EVALUATED_BY, MOVE
from plumbline.tracking.store import DELETED, EXPERIMENT, connect, deleted_experiment

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.entities import PagedList

PAGE, FIRST_PAGE = 100, 20
"""`search_runs` of 1,000 takes as long as thirty of 100."""
LOOK_BACK_SECONDS = 10.0
Item = TypeVar("Item")
NEWEST_FIRST = ("attributes.start_time DESC",)


class Reader:
    """One project's MLflow store. Raises MlflowException, OSError or SQLAlchemyError where it cannot be
    read.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._client = connect(home)
        self.artifacts = RunArtifacts(self._client)
        self._name = registered_name(home.root)
        self._experiment: str | None = None
        self._asked: object = None
        self._look_back: str | None = None
        self._trash: str | None = None
        self._looked = time.monotonic()

    @property
    def experiment(self) -> str | None:
        """Return the id of the project's experiment; None as long as nothing was recorded."""
        if self._experiment is None:
            self._look_up_experiment()
        return self._experiment

    def _look_up_experiment(self) -> None:
        """Set the experiment's id. Raises UserError if it was deleted: no run would be found in it."""
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found and found.lifecycle_stage == DELETED:
            raise UserError(deleted_experiment(self._home))
        self._experiment = str(found.experiment_id) if found else None

    def all_runs(self) -> Iterator[list["MlflowRun"]]:
        """Yield all runs in pages, newest first."""
        return self._pages("")

    def new_runs(self, known: Callable[[str], bool]) -> Iterator[list["MlflowRun"]]:
        """Yield pages of runs, newest first, up to the first page of which all runs are known."""
        newest = self._search("", FIRST_PAGE)
        if not self._all_known(newest, known):
            for page in self._pages(""):
                if self._all_known(page, known):  # asked before whoever gets the page knows it
                    return
                yield page

    def running(self) -> list["MlflowRun"]:
        """Return the runs that have not ended."""
        return [run for page in self._pages("attributes.status = 'RUNNING'") for run in page]

    def run(self, run_id: str) -> "MlflowRun | None":
        """Return one run, or None if it was deleted."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return found if found.info.lifecycle_stage == "active" else None

    def deleted(self, known: Callable[[str], bool]) -> list[str]:
        """Return which known runs are among the deleted ones: on the newest pages, up to one with none, and
        on one page more, in turn, because MLflow does not tell which were deleted last.

        Raises UserError where they went with their experiment.
        """
        found: list[str] = []
        for page in _pages(self._deleted):
            here = [run.info.run_id for run in page if known(run.info.run_id)]
            found += here
            if not here:
                break
        if page.token:
            page = self._deleted(self._trash or page.token)
            self._trash = page.token
            found += [run.info.run_id for run in page if known(run.info.run_id)]
        if found:
            self._look_up_experiment()
        return found

    def old_runs(self) -> list["MlflowRun"]:
        """Return the next page of all runs, in turn, every LOOK_BACK_SECONDS; otherwise nothing."""
        if time.monotonic() - self._looked < LOOK_BACK_SECONDS:
            return []
        self._looked = time.monotonic()
        page = self._search("", PAGE, token=self._look_back)
        self._look_back = page.token
        return list(page)

    def registry(self, again: bool) -> Registered | None:
        """Return the registry, or None if it has not changed since the last call; `again` reads it in any
        case.
        """
        from mlflow.exceptions import MlflowException

        try:
            model = self._client.get_registered_model(self._name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return Registered()
            raise
        state = (model.last_updated_timestamp, dict(model.aliases), dict(model.tags))
        if state == self._asked and not again:
            return None
        self._asked = state
        pages: Iterator[list[ModelVersion]] = _pages(self._versions)
        versions = [_version(one, model.aliases) for page in pages for one in page]
        moves = [_move(value) for name, value in sorted(model.tags.items(), reverse=True)
                 if name.startswith(MOVE)]
        return Registered(tuple(sorted(versions, key=lambda one: -one.number)), tuple(moves))

    def _versions(self, token: str | None) -> "PagedList[ModelVersion]":
        return self._client.search_model_versions(f"name = '{self._name}'", PAGE, page_token=token)

    def _pages(self, query: str) -> "Iterator[list[MlflowRun]]":
        return _pages(lambda token: self._search(query, PAGE, token))

    def _deleted(self, token: str | None) -> "PagedList[MlflowRun]":
        return self._search("", PAGE, token, deleted=True)

    def _search(self, query: str, size: int, token: str | None = None,
                deleted: bool = False) -> "PagedList[MlflowRun]":
        from mlflow.entities import ViewType

        view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
        return self._client.search_runs([self.experiment], query, view, size, list(NEWEST_FIRST), token)

    @staticmethod
    def _all_known(page: "list[MlflowRun]", known: Callable[[str], bool]) -> bool:
        return all(known(run.info.run_id) for run in page)


def _pages(ask: "Callable[[str | None], PagedList[Item]]") -> "Iterator[PagedList[Item]]":
    """Yield pages until MLflow gives no token for another."""
    token: str | None = None
    while True:
        page = ask(token)
        yield page
        token = page.token
        if not token:
            return


def _version(version: "ModelVersion", aliases: Mapping[str, str]) -> RegisteredVersion:
    compared, number = version.tags.get(COMPARED_WITH, ""), int(version.version)
    return RegisteredVersion(
        name=version.name, number=number, md5=version.tags.get(DIGEST, ""),
        run=version.tags.get(EVALUATED_BY, ""), created=iso(version.creation_timestamp),
        tags=dict(version.tags),
        aliases=tuple(sorted(alias for alias, of in aliases.items() if int(of) == number)),
        compared_with=int(compared) if compared.isdecimal() else None)


def _move(text: str) -> Move:
    values = json.loads(text)
    return Move(when=values["when"], alias=values["alias"], before=values["before"], after=values["after"],
                reason=values["reason"], by=values["by"])
