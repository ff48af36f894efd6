"""What was asked: a prompt with everything that stands beside it in other fields of its record.

A system prompt goes first, then the history, then the prompt itself; a context stands before its last turn
and an input after it. What has been read as something else is not read again.
"""

from collections.abc import Sequence

from plumbline.preferences.reading.conversations import (
    Unusable,
    any_prompt,
    as_messages,
    as_prompt,
    plain_text,
    shown,
)
from plumbline.preferences.reading.formats.fields import as_list
from plumbline.preferences.reading.formats.record import Record, says_nothing
from plumbline.preferences.types import Message, Prompt

PROMPTS = ("prompt", "instruction", "question", "query")
SYSTEMS = ("system", "system_prompt", "system_message")
HISTORIES = ("history", "chat_history", "conversation_history")
CONTEXTS = ("context", "passage")
INPUT = "input"
BESIDE = frozenset({*SYSTEMS, *HISTORIES, *CONTEXTS, INPUT})


def prompt_name(record: Record) -> str:
    """Return the field that holds the prompt: the first of the usual names that is there."""
    return next((name for name in PROMPTS if name in record), PROMPTS[0])


def asked(record: Record) -> Prompt:
    """Return the record's prompt, together with the fields beside it. Raises Unusable."""
    name = prompt_name(record)
    return with_the_rest(record, any_prompt(record.get(name), name))


def with_the_rest(record: Record, turns: Sequence[Message], field: str = "prompt") -> Prompt:
    """Return the turns, the last of them the user's, with the fields beside them. Raises Unusable."""
    if not record.may_hold(BESIDE):
        return as_prompt(turns, field)
    start = 1 if _starts_with_system(turns) else 0
    turns = with_system(record, [*turns[:start], *_history(record), *turns[start:]])
    if not turns or turns[-1].role != "user":
        return as_prompt(turns, field)  # raises, and says what is out of order
    last = turns[-1].content
    if context := _unread_text(record, CONTEXTS):
        last = last if context in last else f"{context}\n\n{last}"
    if more := _unread_text(record, (INPUT,)):
        last = f"{last}\n\n{more}"
    return as_prompt([*turns[:-1], Message("user", last)], field)


def with_system(record: Record, turns: Sequence[Message]) -> list[Message]:
    """Return the turns after the system prompt that has a field of its own. Raises Unusable."""
    turns = list(turns)
    for name in SYSTEMS:
        if record.was_read(name) or not record.holds(name):
            continue
        system = plain_text(record.get(name), name)
        if not _starts_with_system(turns):
            turns = [Message("system", system), *turns]
        elif turns[0].content.strip() != system.strip():
            raise Unusable(name, "it differs from the other system prompt of this row, and there can be one "
                                 "only")
    return turns


def _history(record: Record) -> list[Message]:
    """Return the earlier turns: pairs of question and answer, or messages. Raises Unusable."""
    name = next((name for name in HISTORIES if not record.was_read(name) and record.holds(name)), None)
    if name is None:
        return []
    earlier = as_list(record.get(name), name)
    if all(isinstance(turn, dict) for turn in earlier):
        return as_messages(earlier, name)
    turns = []
    for i, pair in enumerate(earlier):
        if not isinstance(pair, list) or len(pair) != 2:
            raise Unusable(f"{name}[{i}]", "expected a question and its answer, or a message, found "
                                           f"{shown(pair)}")
        turns += [Message("user", plain_text(pair[0], f"{name}[{i}][0]")),
                  Message("assistant", plain_text(pair[1], f"{name}[{i}][1]"))]
    return turns


def _unread_text(record: Record, names: Sequence[str]) -> str | None:
    """Return the text or texts in the first of these fields that is filled and was not read yet."""
    name = next((name for name in names if not record.was_read(name) and record.holds(name)), None)
    if name is None:
        return None
    value = record.get(name)
    if isinstance(value, list):
        return "\n\n".join(plain_text(text, f"{name}[{i}]")
                           for i, text in enumerate(value) if not says_nothing(text))
    return plain_text(value, name)


def _starts_with_system(turns: Sequence[Message]) -> bool:
    return bool(turns) and turns[0].role == "system"
