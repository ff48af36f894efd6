"""How far it is to the next retraining, for people who give feedback."""

import time
from dataclasses import dataclass

from plumbline.errors import UserError
from plumbline.feedback.collect import waiting
from plumbline.feedback.store import Store
from plumbline.project.home import Home
from plumbline.retraining.due import due

FRESH_SECONDS = 2.0


@dataclass(frozen=True)
class FeedbackProgress:
    """Comparisons on the way to the next retraining."""

    arrived: int
    """In batches that the champion has not seen."""
    waiting: int
    """Verdicts that count and have not become a batch yet."""
    needed: int
    why: str
    """What the schedule says, in a sentence."""


_last: dict[Home, tuple[float, FeedbackProgress | None]] = {}


def feedback_progress(home: Home, store: Store) -> FeedbackProgress | None:
    """Return the progress, at most FRESH_SECONDS old; None if the parameters cannot be read."""
    when, known = _last.get(home, (0.0, None))
    if time.monotonic() - when < FRESH_SECONDS:
        return known
    try:
        found = due(home)
        known = FeedbackProgress(found.new_comparisons, waiting(store).to_add, found.needed, found.why)
    except UserError:
        known = None
    _last[home] = (time.monotonic(), known)
    return known
