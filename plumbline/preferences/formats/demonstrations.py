"""Demonstrations: conversations, Alpaca instructions, TRL's prompt and completion, the chosen side of pairs."""

from plumbline.preferences.conversations import (
    Unusable,
    any_answer,
    any_conversation,
    any_prompt,
    as_messages,
    as_text,
    prompt_and_answer,
    user_prompt,
)
from plumbline.preferences.formats.fields import Record, origin_of
from plumbline.preferences.formats.pairs import with_system
from plumbline.preferences.types import Demonstration, Row


def conversation(record: Record, source: str) -> Row:
    """The last answer of a conversation, with what came before it as its prompt."""
    field = "conversations" if record.get("messages") is None and "conversations" in record else "messages"
    turns = with_system(record, as_messages(record.get(field), field))
    return Demonstration(*prompt_and_answer(turns, field), origin_of(record, source))


def instruction(record: Record, source: str) -> Row:
    """Alpaca: an instruction, sometimes with an input, and the output."""
    request = as_text(record.get("instruction"), "instruction")
    more = record.get("input")
    if more is not None and not isinstance(more, str):
        raise Unusable("input", f"expected a text, found {type(more).__name__}")
    if more and not more.isspace():
        request = f"{request}\n\n{as_text(more, 'input')}"
    return Demonstration(user_prompt(request), as_text(record.get("output"), "output"), origin_of(record, source))


def completion(record: Record, source: str) -> Row:
    """TRL: a prompt and its completion."""
    return Demonstration(any_prompt(record.get("prompt"), "prompt"),
                         any_answer(record.get("completion"), "completion"), origin_of(record, source))


def chosen_side(record: Record, source: str) -> Row:
    """The chosen side of a pair, as something to imitate."""
    turns = any_conversation(record.get("chosen"), "chosen")
    return Demonstration(*prompt_and_answer(turns, "chosen"), origin_of(record, source))
