"""One response to a prompt: conversations, Alpaca instructions, TRL's prompt and completion, the chosen side
of pairs.

It is a demonstration, unless a thumb or a score stands beside it: then it is a rating, however good.
"""

from plumbline.preferences.reading.conversations import (
    any_answer,
    any_conversation,
    as_messages,
    plain_text,
    prompt_and_answer,
)
from plumbline.preferences.reading.formats.asked import asked, with_the_rest
from plumbline.preferences.reading.formats.fields import origin_of
from plumbline.preferences.reading.formats.plain import verdict
from plumbline.preferences.reading.formats.record import Record
from plumbline.preferences.types import Demonstration, Prompt, Rating, Row


def conversation(record: Record, source: str) -> Row:
    """Return the last answer of a conversation, with the turns before it as its prompt."""
    field = conversation_name(record)
    turns, answer = prompt_and_answer(as_messages(record.get(field), field), field)
    return _row(record, with_the_rest(record, turns, field), answer, source)


def conversation_name(record: Record) -> str:
    """Return the field that holds the conversation."""
    return "conversations" if "messages" not in record and "conversations" in record.names else "messages"


def instruction(record: Record, source: str) -> Row:
    """Return an Alpaca row: an instruction, sometimes with an input, and the output."""
    return _row(record, asked(record), plain_text(record.get("output"), "output"), source)


def completion(record: Record, source: str) -> Row:
    """Return a TRL row: a prompt and its completion."""
    return _row(record, asked(record), any_answer(record.get("completion"), "completion"), source)


def chosen_side(record: Record, source: str) -> Row:
    """Return the chosen side of a pair as a demonstration."""
    turns, answer = prompt_and_answer(any_conversation(record.get("chosen"), "chosen"), "chosen")
    return Demonstration(with_the_rest(record, turns, "chosen"), answer, origin_of(record, source))


def _row(record: Record, prompt: Prompt, answer: str, source: str) -> Row:
    score = verdict(record)
    origin = origin_of(record, source)
    return Demonstration(prompt, answer, origin) if score is None else Rating(prompt, answer, score, origin)
