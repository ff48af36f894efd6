"""Look again and again until it is so."""

import time
from collections.abc import Callable

PATIENCE = 600.0
"""Seconds. A first run of a fake project takes half a minute on an idle machine; tests share theirs."""


def eventually(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Return when the condition holds. Raises AssertionError when it does not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.1)
