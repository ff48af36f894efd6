"""Pairs and verdicts for tests."""

import secrets

from sqlalchemy import func, select

from plumbline.feedback.schema import verdicts
from plumbline.feedback.store import FeedbackStore, now
from plumbline.feedback.verdicts import OfferedAnswer, OfferedPair, Verdict
from plumbline.preferences.types import Message


def pair_number(number: int, answers: int = 2) -> OfferedPair:
    """A pair of a champion's answer and others."""
    models = ("champion", "SFT", "challenger", "base")
    made = tuple(OfferedAnswer(f"Answer {place} to {number}", models[place], f"{place}.dir", 1.0 - place)
                 for place in range(answers))
    return OfferedPair((Message("user", f"Question {number}?"),), made, "close", "question", "feedback")


def verdict(pair: OfferedPair, choice: str = "A", **changed: object) -> Verdict:
    """A verdict of Ada's."""
    values = {"key": secrets.token_hex(8), "annotator": "ada", "session": "s1",
              "shown": tuple(range(len(pair.answers))), "time": now(), **changed}
    return Verdict(pair=pair.id, choice=choice, **values)  # type: ignore[arg-type]


def count(store: FeedbackStore) -> int:
    """The verdicts that were not undone."""
    query = select(func.count()).select_from(verdicts).where(verdicts.c.undone.is_(None))
    with store.reading.connect() as connection:
        return int(connection.execute(query).scalar_one())


def say(store: FeedbackStore, *verdicts: Verdict) -> None:
    """Send verdicts and wait until they are acknowledged."""
    for written in [store.submit(one) for one in verdicts]:
        written.result(30)
