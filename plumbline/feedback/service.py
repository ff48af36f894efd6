"""The feedback service of one server: the store, live answers, a process that makes pairs, and housekeeping.

The housekeeping thread looks every `LOOK_SECONDS`: verdicts that have settled become a batch, events that
could not be sent are sent, and DVC tracks new batches. All of this is harmless if several servers do it, and
the next run's snapshot does it anyway.
"""

import logging
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime

from plumbline.data.arrive import announce_missed
from plumbline.data.dvc_tracking import track_apart
from plumbline.errors import UserError
from plumbline.feedback.collect import Uncollected, collect_from, uncollected
from plumbline.feedback.database import is_there
from plumbline.feedback.live_answers import LiveAnswers
from plumbline.feedback.next_pair import stock
from plumbline.feedback.store import FeedbackStore
from plumbline.project.home import Home

LOOK_SECONDS = 10.0
SETTLED_SECONDS = 60.0
"""Seconds after the last verdict at which a session counts as over; until then an undo costs nothing."""
LONGEST_SECONDS = 900.0
"""Longest time that a verdict waits for its batch, however busy people are."""
LOW = 12
"""New pairs are made when fewer unjudged ones than this are left."""
LOW_RANKINGS = 4
"""The same of rankings. Below `make_pairs.ENOUGH_RANKINGS`, or a process would start with nothing to make."""
AGAIN_SECONDS = 60.0
"""Pause after a process that made pairs, or failed to."""
log = logging.getLogger("plumbline.web")


class FeedbackService:
    """Everything that one server runs for people who give feedback."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.live_answers = LiveAnswers(home)
        self.problem = ""
        """Why no pairs could be made, in a sentence."""
        self._store: FeedbackStore | None = None
        self._lock = threading.Lock()
        self._making: subprocess.Popen[str] | None = None
        self._rest_until = 0.0
        self._end = threading.Event()
        self._housekeeping: threading.Thread | None = None
        self._problems: set[str] = set()

    def store(self) -> FeedbackStore:
        """Return the store, opened at the first call. Raises UserError if it cannot be used."""
        with self._lock:
            if self._store is None:
                self._store = FeedbackStore.open(self.home)
            return self._store

    def open(self) -> None:
        """Start the housekeeping thread."""
        self._housekeeping = threading.Thread(
            target=self._keep_house, name="feedback housekeeping", daemon=True)
        self._housekeeping.start()

    def close(self) -> None:
        """End all processes and threads of the service. Verdicts that were acknowledged are on the disk."""
        self._end.set()
        self.live_answers.close()
        if self._making and self._making.poll() is None:
            self._making.terminate()
            self._making.wait()
        if self._housekeeping:
            self._housekeeping.join(1.0)
        if self._store:
            self._store.close()

    def want_pairs(self) -> bool:
        """Start a process that makes pairs, unless one runs or has just ended. Return whether one runs."""
        with self._lock:
            if self._making and self._making.poll() is not None:
                self._note_result(self._making)
                self._making = None
            if self._making is None and time.monotonic() >= self._rest_until:
                self._making = subprocess.Popen(
                    [sys.executable, "-m", "plumbline.feedback.make_pairs"], cwd=self.home.root,
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            return self._making is not None

    def keep_stock(self, ranking: bool) -> bool:
        """Have pairs (or rankings) made if few unjudged ones are left. Return whether some are being made."""
        low = LOW_RANKINGS if ranking else LOW
        return stock(self.store(), ranking) < low and self.want_pairs()

    def look_once(self) -> None:
        """Do all housekeeping once. A step that fails does not keep the others from being done."""
        steps = (self._collect, self._announce, self._track)
        problems = {problem for step in steps if (problem := _problem(step))}
        for problem in problems - self._problems:  # each problem once, not every ten seconds
            log.warning("%s", problem)
        self._problems = problems

    def _collect(self) -> None:
        if self._store or is_there(self.home):
            store = self.store()
            if has_settled(uncollected(store), datetime.now(UTC)):
                collect_from(store, self.home)

    def _announce(self) -> None:
        announce_missed(self.home)  # its message is left out: it was shown when the batch arrived

    def _track(self) -> None:
        problem = track_apart(self.home)
        if problem:
            raise UserError(f"{problem}.")

    def _note_result(self, process: "subprocess.Popen[str]") -> None:
        """Set `problem` from an ended process that made pairs, and pause before the next one."""
        message = process.stderr.read().strip() if process.stderr else ""
        self.problem = ""
        if process.returncode == UserError.exit_code:
            self.problem = message
        elif process.returncode:
            self.problem = "No pairs could be made, for a reason that the server's log has."
            log.error("Making pairs failed: %s", message[-2000:])
        self._rest_until = time.monotonic() + AGAIN_SECONDS

    def _keep_house(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            self.look_once()


def _problem(step: Callable[[], None]) -> str | None:
    """Run a step. Return its error message, or its traceback if the error is a bug, or None."""
    try:
        step()
    except UserError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return None


def has_settled(found: Uncollected, now: datetime) -> bool:
    """True if the uncollected verdicts should become a batch now."""
    if found.newest is None or found.oldest is None:
        return False
    quiet = (now - datetime.fromisoformat(found.newest)).total_seconds()
    waited = (now - datetime.fromisoformat(found.oldest)).total_seconds()
    return quiet >= SETTLED_SECONDS or waited >= LONGEST_SECONDS
