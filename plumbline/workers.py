"""Work divided among processes of this machine, its results in the order of the tasks.

    with Workers(cores()) as workers:
        for result in workers.map(act, tasks):
            ...

`act` is a function of a module, tasks and results can be pickled, and what a worker raises is raised here.
With one worker, or a single task, the work is done in this process. Workers start afresh and are not forked,
because forking breaks the threads of libraries; they end with this process, `kill -9` included.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from types import TracebackType
from typing import Self, TypeVar

from plumbline.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 2
"""Tasks a worker that are given out, or done and not yet taken: what bounds the memory of their results."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """So many processes, which start with the first work for more than one. Use it as a context."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def map(self, act: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield what `act` makes of each task, in their order; tasks are taken as workers become free.

        Raises UserError if a worker was killed, and whatever `act` raises.
        """
        tasks = iter(tasks)
        first = list(islice(tasks, 2))
        if self.count == 1 or len(first) < 2:
            yield from map(act, chain(first, tasks))
            return
        pool, waiting = self._started(), deque[Future[Result]]()
        try:
            for task in chain(first, tasks):
                waiting.append(pool.submit(act, task))
                if len(waiting) > AHEAD * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise UserError(f"One of {self.count} processes that shared the work was killed, as a rule "
                            "because the machine ran out of memory. Give it more, or let fewer cores work "
                            "(`taskset -c 0 plumbline run` uses one), then run again.") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.count, multiprocessing.get_context("spawn"), _begin)
        return self._pool


def _begin() -> None:
    """Let a new worker end with the process that started it, which alone answers Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
