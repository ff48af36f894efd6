"""What could not be written to MLflow yet: kept in the home, delivered when the store answers.

A run whose store is away has a folder `.plumbline/waiting/<id>/` with its writes, one JSON object a line, and copies of
the files that belong to them. Whoever comes next delivers it: the run itself, the next run, `plumbline up`. Each
journal has a lock, so that only one process at a time adds to it or delivers it.
"""

import contextlib
import itertools
import logging
import shutil
from pathlib import Path

from plumbline.project.home import Home
from plumbline.project.locks import try_lock
from plumbline.tracking.store import is_away
from plumbline.tracking.writes import OURS, WRITE, AnyWrite, Create, End, File, NotYet, Store, now_ms

WRITES, RUN, FILES = "writes.jsonl", "run", "files"
log = logging.getLogger("plumbline")


class Journal:
    """The writes of one run that wait. Hold `lock` around everything."""

    def __init__(self, home: Home, run: str) -> None:
        self.folder = home.waiting / run.removeprefix(OURS)
        self.lock = home.waiting / f"{self.folder.name}.lock"

    @property
    def exists(self) -> bool:
        """Whether anything waits."""
        return (self.folder / WRITES).exists()

    def add(self, run: str, write: AnyWrite) -> None:
        """Keep a write to the run, MLflow's id or ours; of a file its content as it is now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.exists:
            (self.folder / RUN).write_text(run, encoding="utf-8")
        if isinstance(write, File):
            write = write.model_copy(update={"path": self._copied(write.path)})
        with (self.folder / WRITES).open("a", encoding="utf-8") as out:
            out.write(write.model_dump_json() + "\n")

    def deliver(self, store: Store) -> None:
        """Do what waits, in its order. Raises NotYet, or what says that the store is away; the rest then waits on."""
        run = (self.folder / RUN).read_text(encoding="utf-8")
        lines = (self.folder / WRITES).read_text(encoding="utf-8").splitlines()
        for line in lines:
            try:
                write = WRITE.validate_json(line)
            except ValueError:  # the end of a line that a full disk or a kill cut off
                continue
            run = self._do(store, run, write)
        shutil.rmtree(self.folder)

    def _do(self, store: Store, run: str, write: AnyWrite) -> str:
        try:
            if isinstance(write, Create):
                return write.apply(store, again=True)
            write.apply(store, store.run(run) or run)
        except Exception as error:
            if isinstance(error, NotYet) or is_away(error):
                raise
            # Its run was deleted, or the store is another one: it must not hold up what comes after it.
            log.warning("MLflow does not take a write of run %s: %s", run, error)
        return run

    def _copied(self, file: Path) -> Path:
        for number in itertools.count():
            place = self.folder / FILES / str(number)
            if not place.exists():
                place.mkdir(parents=True)
                return Path(shutil.copy(file, place / file.name))
        raise AssertionError


def waiting(home: Home) -> list[str]:
    """The runs, as the names of their journals, of which something waits."""
    return sorted(file.parent.name for file in home.waiting.glob(f"*/{WRITES}"))


def deliver(home: Home) -> int:
    """Deliver what waits, as far as the store answers; returns how many runs still wait. Quick when none does."""
    left, store = waiting(home), Store(home)
    before: tuple[int, int] | None = None
    while left and before != (len(left), store.learned):  # runs refer to each other: again, as long as that helps
        before = len(left), store.learned
        try:
            for name in left:
                _deliver(Journal(home, name), store)
        except Exception as error:
            if not is_away(error):
                raise
            return len(waiting(home))
        left = waiting(home)
    return len(left)


def _deliver(journal: Journal, store: Store) -> None:
    with try_lock(journal.lock) as free, contextlib.suppress(NotYet):
        if free and journal.exists:
            journal.deliver(store)
            journal.lock.unlink(missing_ok=True)


def close(home: Home, run: str, *before: AnyWrite) -> None:
    """Close a run whose process was killed before it could, now or when the store is back; first do some more writes.

    A run that has been closed after all stays as it is.
    """
    journal = Journal(home, run)
    with try_lock(journal.lock) as free:
        if free:
            for write in (*before, End(status="KILLED", when=now_ms(), abandoned=True)):
                journal.add(run, write)
    deliver(home)
