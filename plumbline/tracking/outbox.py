"""The way of everything that is recorded into MLflow: done now if the store answers, otherwise kept and done
later.

There is one path for both. A new write goes behind what waits for its run already; then all of it is done in
order, and what the store cannot take now is kept in `.plumbline/waiting/<id>/`: one JSON object a line, and
copies of the files that belong to them. Nothing is written there while the store answers. What waits is
delivered by the run itself, the next run, or `plumbline up`. Each run's outbox has a lock, so that one
process at a time adds to it or delivers it.
"""

import contextlib
import itertools
import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from plumbline.errors import UserError, as_user_error
from plumbline.project.home import Home
from plumbline.project.locks import file_lock, try_lock
from plumbline.project.masking import masked
from plumbline.tracking.store import OURS, MlflowStore, broken_store, is_away
from plumbline.tracking.writes import WRITE, AnyWrite, CreateRun, EndRun, LogFile, now_ms
from plumbline.whole_file import write_whole

Answer = TypeVar("Answer")
Refused = Callable[[str, Exception], bool]
"""Called with a run and the error of a write that MLflow does not take; True if it should be tried again."""
WRITES, RUN, FILES = "writes.jsonl", "run", "files"
PATIENCE_SECONDS = 900.0
"""`PLUMBLINE_MLFLOW_PATIENCE` sets another."""
PATIENCE = "PLUMBLINE_MLFLOW_PATIENCE"
PAUSE_SECONDS = 5.0
log = logging.getLogger("plumbline")


class Outbox:
    """The writes of one run that wait. Hold `lock` around everything."""

    def __init__(self, home: Home, run: str) -> None:
        """Open the outbox of a run, named by the id of ours, or by MLflow's where nobody knows ours.

        A run has one outbox as long as all that write to it name it alike: what two hold has no order.
        """
        self.folder = home.waiting / run.removeprefix(OURS)
        self.lock = home.waiting / f"{self.folder.name}.lock"
        self._run = run

    @property
    def exists(self) -> bool:
        """True if anything waits."""
        return (self.folder / WRITES).exists()

    def add(self, *writes: AnyWrite) -> None:
        """Keep writes for later; of a file its content as it is now."""
        self._keep([*self._waiting(), *writes])

    def send(self, store: MlflowStore, refused: Refused, *new: AnyWrite) -> int:
        """Do what waits and then the new writes, in order; return how many were done or refused for good.

        A write waits for those before it, and for the runs and models that it refers to. Raises what says
        that the store is away, broken or full, and what `refused` raises; what is left then waits.
        """
        left = deque([*self._waiting(), *new])
        total, run = len(left), self._name()
        try:
            while left and not self._must_wait(store, left[0]):
                try:
                    found = store.find(run)
                    if found is None and not isinstance(left[0], CreateRun):
                        place = masked(store.home.tracking_uri)
                        raise LookupError(f"MLflow at {place} does not know this run")
                    left[0].apply(store, found or run)
                except Exception as error:
                    if is_away(error) or as_user_error(error) or broken_store(store.home.tracking_uri, error):
                        raise
                    write = left.popleft()
                    if refused(run, error):
                        left.appendleft(write)
                else:
                    left.popleft()
        finally:
            if left:
                self._keep(left)
            elif total > len(new):
                self.drop()
        return total - len(left)

    def drop(self) -> None:
        """Forget what waits."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _name(self) -> str:
        """Return the run as it was named when the first of its writes had to wait."""
        file = self.folder / RUN
        return file.read_text(encoding="utf-8") if file.exists() else self._run

    def _waiting(self) -> list[AnyWrite]:
        found: list[AnyWrite] = []
        if self.exists:
            text = (self.folder / WRITES).read_text(encoding="utf-8")
            for line in text.split("\n"):  # JSON leaves U+2028, an end of lines to splitlines(), as it is
                with contextlib.suppress(ValueError):  # a line that a full disk or a kill cut off
                    found.append(WRITE.validate_json(line))
        return found

    def _must_wait(self, store: MlflowStore, write: AnyWrite) -> bool:
        """True if the write refers to a run or model of another outbox that has not reached MLflow."""
        for name in write.refers_to():
            other = self.folder.with_name(name.removeprefix(OURS).partition("-")[0])
            if other != self.folder and (other / WRITES).exists() and not store.find(name):
                return True
        return False

    def _keep(self, writes: Iterable[AnyWrite]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / RUN).exists():
            write_whole(self.folder / RUN, self._run)
        kept = [self._with_copy(write) if isinstance(write, LogFile) else write for write in writes]
        write_whole(self.folder / WRITES, "".join(write.model_dump_json() + "\n" for write in kept))

    def _with_copy(self, write: LogFile) -> LogFile:
        """Copy a file into the outbox, unless it is there, in a numbered folder: its name is that of the
        artifact.
        """
        if write.path.is_relative_to(self.folder):
            return write
        numbers = (self.folder / FILES / str(number) for number in itertools.count())
        place = next(folder for folder in numbers if not folder.exists())
        place.mkdir(parents=True)
        return write.model_copy(update={"path": Path(shutil.copy(write.path, place / write.path.name))})


def pending(home: Home) -> list[str]:
    """Return the names of the outboxes in which something waits."""
    return sorted(file.parent.name for file in home.waiting.glob(f"*/{WRITES}"))


def deliver(home: Home) -> int:
    """Deliver what waits, as far as the store answers; return the number of runs of which something still
    waits.

    Raises what says that the store is broken or full. Quick if nothing waits.
    """
    store, sent = MlflowStore(home), 1
    while sent and (names := pending(home)):  # runs refer to each other: again, as long as that helps
        try:
            sent = sum(_deliver(Outbox(home, name), store) for name in names)
        except Exception as error:
            if not is_away(error):
                raise
            break
    return len(pending(home))


def _deliver(outbox: Outbox, store: MlflowStore) -> int:
    with try_lock(outbox.lock) as free:
        if not free or not outbox.exists:
            return 0
        sent = outbox.send(store, _skip)
        if not outbox.exists:
            outbox.lock.unlink(missing_ok=True)
        return sent


def _skip(run: str, error: Exception) -> bool:
    """Go on without a write whose run was deleted, or belongs to another store: it must not hold up the
    others.
    """
    log.warning("MLflow does not take a write of run %s: %s", run, masked(str(error)))
    return False


def close(home: Home, run: str, *before: AnyWrite) -> None:
    """Close a run whose process was killed, now or when the store is back; first do some more writes.

    `run` is the name of its outbox: what its process could not record comes before its end.
    A run that its own process has closed after all stays as it is.
    """
    outbox = Outbox(home, run)
    with file_lock(outbox.lock):  # whoever delivers what waits there has it for a moment
        outbox.add(*before, EndRun(status="KILLED", when=now_ms(), abandoned=True))
    deliver(home)


def patiently(home: Home, act: Callable[[], Answer]) -> Answer:
    """Deliver what waits, then return what `act` returns; try again while the store is away.

    For questions that only MLflow can answer, such as which model is champion. Raises UserError when that
    takes longer than PATIENCE_SECONDS.
    """
    deadline = time.monotonic() + float(os.environ.get(PATIENCE, PATIENCE_SECONDS))
    while True:
        try:
            deliver(home)
            return act()
        except Exception as error:
            if not is_away(error):
                raise
            if time.monotonic() > deadline:
                said = masked(" ".join(str(error).split()))[:300]
                raise UserError(f"MLflow at {masked(home.tracking_uri)} has been away too long, and this "
                                f"needs its answer: {said}. Bring it back, then run again: finished stages "
                                "are kept.") from error
            time.sleep(PAUSE_SECONDS)
