"""Keeps the history of a running server up to date, in the background."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from plumbline.errors import UserError
from plumbline.history.history import History
from plumbline.project.home import RECORD_FILE, Home
from plumbline.project.run_record import RUN_ID
from plumbline.retraining.due import Due, due
from plumbline.tracking.store import is_there, sqlite_file
from plumbline.web.site import Freshness, Site

PAUSE_SECONDS = 2.0
AT_LEAST_SECONDS = 30.0
"""So often it is refreshed though nothing seems to have been written: a refresh costs a percent of a core at
rest."""
FIRST_SECONDS = 60.0
"""How long the first visitor waits at most for the history to be read."""
log = logging.getLogger("plumbline.web")
Mark = tuple[int, ...] | None


class Updates(threading.Thread):
    """Refreshes a history every two seconds, whatever goes wrong with it."""

    def __init__(self, history: History, freshness: Freshness) -> None:
        super().__init__(name="history", daemon=True)
        self._history = history
        self._freshness = freshness
        self._end = threading.Event()
        self._seen: tuple[Mark, float] | None = None
        self.first = threading.Event()
        """Set when the history has been read once, or could not be."""

    def run(self) -> None:
        """Refresh until `end`."""
        while not self._end.is_set():
            self.look()
            self.first.set()
            self._freshness.due = self._due()
            self._end.wait(PAUSE_SECONDS)

    def end(self) -> None:
        """Stop, without waiting for a refresh that is going on."""
        self._end.set()
        self.join(0.5)

    def look(self) -> None:
        """Refresh if something may have been written since the last look, or could not be read then."""
        if self._may_differ() or self._freshness.problem:
            self.refresh()

    def _may_differ(self) -> bool:
        """True if something may have been written since the last look, as always to a store that is no
        file.
        """
        mark = written(self._history.home)
        now = time.monotonic()
        if mark is not None and self._seen:
            before, when = self._seen
            if mark == before and now - when < AT_LEAST_SECONDS:
                return False
        self._seen = (mark, now)
        return True

    def refresh(self) -> None:
        """Refresh once. A problem is shown on the pages, and logged once and not every two seconds."""
        problem = ""
        try:
            if not _nothing_yet(self._history.home):
                self._history.refresh()
        except Exception as error:
            expected = isinstance(error, UserError)
            problem = str(error) if expected else (
                f"The history could not be read ({type(error).__name__}); the server's log has the details.")
            if problem != self._freshness.problem:
                log.warning("%s", problem, exc_info=None if expected else error)
        self._freshness.problem = problem

    def _due(self) -> Due | str:
        try:
            return look_up_due(self._history.home)
        except Exception as error:
            problem = f"That cannot be told ({type(error).__name__}); the server's log has the details."
            if problem != self._freshness.due:
                log.exception("Whether a retraining is due cannot be told")
            return problem


def written(home: Home) -> Mark:
    """Return the times of the last writes to store, runs/ and newest run; None for a store that is no
    file.
    """
    store = sqlite_file(home)
    if store is None:
        return None
    newest = max((run for run in home.runs.glob("*") if RUN_ID.fullmatch(run.name)), default=home.runs)
    files = (store, home.runs, newest / RECORD_FILE)
    return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)


def look_up_due(home: Home) -> Due | str:
    """Return whether a retraining is due, or why that is not known. Importing MLflow takes seconds at
    first.
    """
    try:
        return due(home)
    except UserError as error:
        return str(error)


def _nothing_yet(home: Home) -> bool:
    """True if the store is a file that the first run will make."""
    store = sqlite_file(home)
    return store is not None and not is_there(store)


def updating(site: Site) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return a lifespan that keeps the history up to date; the first page waits for it if nothing is known
    yet.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        updates = Updates(site.history, site.freshness)
        updates.start()
        # Otherwise there is what an earlier server has read, and the rest comes in seconds.
        if not site.history.runs:
            await asyncio.to_thread(updates.first.wait, FIRST_SECONDS)
        yield
        await asyncio.to_thread(updates.end)

    return lifespan
