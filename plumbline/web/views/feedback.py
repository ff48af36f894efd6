"""How far it is to the next retraining, for people who give feedback."""

import time
from dataclasses import dataclass
from functools import lru_cache

from plumbline.errors import UserError
from plumbline.feedback.collect import uncollected
from plumbline.feedback.store import FeedbackStore
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


def feedback_progress(home: Home, store: FeedbackStore) -> FeedbackProgress | None:
    """Return the progress, at most FRESH_SECONDS old; None if the parameters cannot be read."""
    return _progress(home, store, int(time.monotonic() / FRESH_SECONDS))


@lru_cache(maxsize=4)
def _progress(home: Home, store: FeedbackStore, _when: int) -> FeedbackProgress | None:
    try:
        found = due(home)
        return FeedbackProgress(found.new_comparisons, uncollected(store).to_add, found.needed, found.why)
    except UserError:
        return None
