"""What one server keeps for people who give feedback: the store, somebody to make pairs, and a caretaker.

The caretaker looks around now and then: verdicts that have settled become a batch, an event that could not be sent is
sent, and DVC learns of new batches. All of it is harmless when several servers do it, and happens at the next run's
snapshot anyway.
"""

import logging
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime

from plumbline.data.dvc_tracking import track_apart
from plumbline.data.intake import announce_missed
from plumbline.errors import UserError
from plumbline.feedback.collect import Waiting, collect_from, waiting
from plumbline.feedback.database import is_there
from plumbline.feedback.live_answers import Trying
from plumbline.feedback.next_pair import stock
from plumbline.feedback.store import Store
from plumbline.project.home import Home

LOOK_SECONDS = 10.0
SETTLED_SECONDS = 60.0
"""So long after the last verdict a session counts as over; until then an undo costs nothing."""
LONGEST_SECONDS = 900.0
"""A verdict waits at most so long, however busy people are."""
LOW = 12
"""With fewer unjudged pairs than this new ones are made."""
AGAIN_SECONDS = 60.0
"""After a failure to make pairs."""
log = logging.getLogger("plumbline.web")


class Desk:
    """One server's."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.trying = Trying(home)
        self.problem = ""
        """Why no pairs could be made, in a sentence."""
        self._store: Store | None = None
        self._lock = threading.Lock()
        self._making: subprocess.Popen[str] | None = None
        self._rest_until = 0.0
        self._end = threading.Event()
        self._caretaker: threading.Thread | None = None
        self._problems: set[str] = set()

    def store(self) -> Store:
        """The store, opened when it is first needed. Raises UserError where it cannot be used."""
        with self._lock:
            if self._store is None:
                self._store = Store.open(self.home)
            return self._store

    def open(self) -> None:
        """Let the caretaker begin."""
        self._caretaker = threading.Thread(target=self._look_after, name="caretaker", daemon=True)
        self._caretaker.start()

    def close(self) -> None:
        """End everything that was started; what has been acknowledged is kept."""
        self._end.set()
        self.trying.close()
        if self._making and self._making.poll() is None:
            self._making.terminate()
            self._making.wait()
        if self._caretaker:
            self._caretaker.join(1.0)
        if self._store:
            self._store.close()

    def want_pairs(self) -> bool:
        """Have pairs made if few are left; whether they are on their way."""
        with self._lock:
            if self._making and self._making.poll() is not None:
                self._made(self._making)
            if self._making is None and time.monotonic() >= self._rest_until:
                self._making = subprocess.Popen([sys.executable, "-m", "plumbline.feedback.make_pairs"],
                                                cwd=self.home.root, stdin=subprocess.DEVNULL,
                                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            return self._making is not None

    def keep_stock(self, ranking: bool) -> bool:
        """Whether pairs are being made, because few are left."""
        return stock(self.store(), ranking) < LOW and self.want_pairs()

    def look_once(self) -> None:
        """What the caretaker does each time; one thing that goes wrong does not keep the others from being done."""
        problems = {problem for step in (self._collect, self._announce, self._track) if (problem := _problem(step))}
        for problem in problems - self._problems:  # once, and not every ten seconds
            log.warning("%s", problem)
        self._problems = problems

    def _collect(self) -> None:
        if self._store or is_there(self.home):
            store = self.store()
            if has_settled(waiting(store), datetime.now(UTC)):
                collect_from(store, self.home)

    def _announce(self) -> None:
        announce_missed(self.home)  # what the server says has been said when the batch arrived

    def _track(self) -> None:
        problem = track_apart(self.home)
        if problem:
            raise UserError(f"{problem}.")

    def _made(self, process: "subprocess.Popen[str]") -> None:
        """Hear what became of the pairs."""
        self._making = None
        said = process.stderr.read().strip() if process.stderr else ""
        self.problem = ""
        if process.returncode == UserError.exit_code:
            self.problem = said
        elif process.returncode:
            self.problem = "No pairs could be made, for a reason that the server's log has."
            log.error("Making pairs failed: %s", said[-2000:])
        self._rest_until = time.monotonic() + AGAIN_SECONDS

    def _look_after(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            self.look_once()


def _problem(step: Callable[[], None]) -> str | None:
    """What goes wrong in a step, or None."""
    try:
        step()
    except UserError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return None


def has_settled(found: Waiting, now: datetime) -> bool:
    """Whether verdicts should become a batch now."""
    if found.newest is None or found.oldest is None:
        return False
    quiet = (now - datetime.fromisoformat(found.newest)).total_seconds()
    return quiet >= SETTLED_SECONDS or (now - datetime.fromisoformat(found.oldest)).total_seconds() >= LONGEST_SECONDS
