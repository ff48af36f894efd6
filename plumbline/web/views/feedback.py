"""How far it is to the next retraining, for people who give feedback."""

import time
from dataclasses import dataclass
from functools import lru_cache

from plumbline.errors import UserError
from plumbline.feedback.collect import uncollected
from plumbline.feedback.store import FeedbackStore
from plumbline.retraining.due import Due

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


def feedback_progress(due: Due | str, store: FeedbackStore) -> FeedbackProgress | None:
    """Return the progress, at most FRESH_SECONDS older than `due`, what the background found out; None where
    that is why it is not known. Judging needs nothing of MLflow, so nobody waits for it here.
    """
    return _progress(due, store, int(time.monotonic() / FRESH_SECONDS)) if isinstance(due, Due) else None


@lru_cache(maxsize=4)
def _progress(due: Due, store: FeedbackStore, _when: int) -> FeedbackProgress | None:
    try:
        return FeedbackProgress(due.new_comparisons, uncollected(store).to_add, due.needed, due.why)
    except UserError:
        return None
