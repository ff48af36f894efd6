"""How many wrong tokens an address has sent lately."""

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

MOST_FAILURES = 10
WINDOW_SECONDS = 60.0
MOST_ADDRESSES = 1_000
"""Addresses that are remembered; the one that failed longest ago is forgotten first."""


class Attempts:
    """Counts failures by address, in bounded memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def failed(self, address: str) -> None:
        """Remember a wrong token."""
        with self._lock:
            times = self._failures.setdefault(address, deque(maxlen=MOST_FAILURES))
            times.append(self._clock())
            self._failures.move_to_end(address)
            while len(self._failures) > MOST_ADDRESSES:
                self._failures.popitem(last=False)

    def wait(self, address: str) -> int:
        """Seconds until the address may try again; 0 when it may now."""
        with self._lock:
            times = self._failures.get(address)
            if times is None or len(times) < MOST_FAILURES:
                return 0
            left = times[0] + WINDOW_SECONDS - self._clock()
            return max(0, math.ceil(left))

    def __len__(self) -> int:
        return len(self._failures)
