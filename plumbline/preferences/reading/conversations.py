"""Conversations from untrusted files: texts, messages and transcripts, each checked; the errors name field
and reason.

A prompt is an optional system message, then user and assistant in turn, ending with the user.
"""

import json
import re
from collections.abc import Mapping, Sequence

from plumbline.preferences.reading.results import shown_name
from plumbline.preferences.types import Message, Prompt, Role

ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant",
}
SPOKEN = frozenset({"role", "content", "from", "value"})
"""The fields of a message that say who says what."""
ABSENT = frozenset({"nan", "<NA>"})
"""What data frames write as a text where there is none."""
TRANSCRIPT, SPEAKER = "\n\nHuman:", re.compile(r"\n\n(Human|Assistant):")
"""How an Anthropic HH transcript begins, and each of its turns."""
LIKE_MESSAGES = re.compile(r"""\s*(?:\[\s*\{|\{\s*['"](?:role|content|from|value)['"]\s*:)""")
"""How messages begin that are written as a text, one alone or a list."""
NAMED = tuple(tuple(re.compile(rf"""['"]{name}['"]\s*:""") for name in names)
              for names in (("role", "content"), ("from", "value")))
"""What such a text names, in one of the two spellings."""
SHOWN_CHARACTERS = 80


class Unusable(Exception):
    """A record, or a field of it, that cannot become a row."""

    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = shown_name(field), shown_name(reason)
        super().__init__(f"{self.field}: {self.reason}")


class Undecidable(Unusable):
    """A value that leaves the other records of its file in doubt, so that none of them can be used."""


def shown(value: object) -> str:
    """Return a short text for a value in a message, for values of any size and depth."""
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, str):
        return repr(value[:SHOWN_CHARACTERS])
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else "a huge number"
    return {"list": "a list", "dict": "an object"}.get(type(value).__name__, type(value).__name__)


def as_text(value: object, field: str) -> str:
    """Return the text. Raises Unusable for no text, an empty one, and one that other tools cannot store."""
    if value is None:
        raise Unusable(field, "it is missing")
    if not isinstance(value, str):
        raise Unusable(field, f"expected a text, found {type(value).__name__}")
    if not value or value.isspace():
        raise Unusable(field, "the text is empty")
    if value.strip() in ABSENT:
        raise Unusable(field, f"the text is {value.strip()!r}, which stands for a value that is missing")
    if "\0" in value:
        raise Unusable(field, "the text holds a NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unusable(field,
                           "the text holds half of a surrogate pair, which is not valid Unicode") from None
    return value


def plain_text(value: object, field: str) -> str:
    """Return a text where messages cannot be read. Raises Unusable as `as_text` does, and for messages that
    are written as a text.
    """
    text = as_text(value, field)
    if written_messages(text, field) is not text:
        raise Unusable(field, "expected a text, found messages that are written as one")
    return text


def written_messages(value: object, field: str) -> object:
    """Return the list of the messages that a text spells in JSON; any other value as it is.

    Tables hold messages as texts. Those are told from a text that is about roles, or is code, by their shape:
    a list of messages alone, or one message without anything else in it. Raises Unusable for a text that
    begins like messages and is no JSON, because it was printed by Python, or cut.
    """
    if not isinstance(value, str) or not LIKE_MESSAGES.match(value):
        return value
    if not any(all(name.search(value) for name in names) for names in NAMED):
        return value
    try:
        spelt = json.loads(value)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return value  # an example, and what is said of it
        if value.lstrip("[{ \t\r\n").startswith("'"):
            raise Unusable(field, "it holds messages as Python prints them: write them with json.dumps"
                           ) from None
        raise Unusable(field, "it begins like messages in JSON, and is no valid JSON: write them with "
                              "json.dumps; spreadsheets cut a cell at 32,767 characters") from None
    if isinstance(spelt, dict):
        is_one = spelt.keys() in ({"role", "content"}, {"from", "value"}) and _role_of(spelt) is not None
        return [spelt] if is_one else value
    return spelt if spelt and all(map(_is_message, spelt)) else value


def as_messages(value: object, field: str) -> list[Message]:
    """Return messages spelt `role` and `content`, or `from` and `value`; a text may hold them in JSON.

    Raises Unusable.
    """
    value = written_messages(value, field)
    if value is None:
        raise Unusable(field, "it is missing")
    if not isinstance(value, list) or not value:
        raise Unusable(field, "expected a list of messages, found "
                              f"{shown(value) if value else 'an empty one'}")
    return [as_message(turn, f"{field}[{i}]") for i, turn in enumerate(value)]


def as_message(turn: object, field: str) -> Message:
    """Return one message in either spelling. Raises Unusable."""
    if not isinstance(turn, dict):
        raise Unusable(field, f"expected a message, found {type(turn).__name__}")
    role_key, text_key = _spelling(turn)
    role = _role_of(turn)
    if role is None:
        raise Unusable(f"{field}.{role_key}",
                       f"expected user, assistant or system, found {shown(turn.get(role_key))}")
    return Message(role, as_content(turn.get(text_key), f"{field}.{text_key}"))


def _role_of(turn: Mapping[str, object]) -> Role | None:
    """Return who speaks in a message; None for a role that is not known."""
    spelt = turn.get(_spelling(turn)[0])
    return ROLES.get(spelt.strip().lower()) if isinstance(spelt, str) else None


def _spelling(turn: Mapping[str, object]) -> tuple[str, str]:
    """Return the fields of who speaks and of what is said. One that holds null is absent: a table gives every
    message the fields of all."""
    return ("from", "value") if turn.get("from") is not None else ("role", "content")


def _is_message(turn: object) -> bool:
    """True if a value has the shape of a message, whatever its role."""
    if not isinstance(turn, dict):
        return False
    role_key, text_key = _spelling(turn)
    return isinstance(turn.get(role_key), str) and isinstance(turn.get(text_key), str | list | None)


def as_content(value: object, field: str) -> str:
    """Return the text of a message: a text, or a list of text parts (OpenAI's form). Raises Unusable."""
    if not isinstance(value, list):
        return as_text(value, field)
    texts = []
    for i, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in (None, "text"):
            raise Unusable(f"{field}[{i}].type", f"expected text, found {shown(kind)}, which the model "
                                                 "cannot be given")
        texts.append(as_text(part.get("text") if isinstance(part, dict) else part, f"{field}[{i}].text"))
    return as_text("\n".join(texts), field)


def _is_content(value: object) -> bool:
    """True if a list holds the parts of one message rather than messages."""
    return isinstance(value, list) and bool(value) and all(
        isinstance(part, dict) and "type" in part and part.keys().isdisjoint(SPOKEN) for part in value)


def as_transcript(text: str) -> list[Message]:
    """Return the turns of an Anthropic HH transcript; none if the text does not begin with a human turn.

    An empty last turn of the assistant is left out, because prompts end with `\\n\\nAssistant:`. Raises
    Unusable.
    """
    if not text.startswith(TRANSCRIPT):
        return []
    parts = SPEAKER.split(text)[1:]
    turns = [(speaker, said.strip()) for speaker, said in zip(parts[::2], parts[1::2], strict=True)]
    if turns[-1] == ("Assistant", ""):
        turns.pop()
    return [Message("user" if speaker == "Human" else "assistant", as_text(said, f"turn {i + 1}"))
            for i, (speaker, said) in enumerate(turns)]


def as_prompt(turns: Sequence[Message], field: str) -> Prompt:
    """Return the turns as a prompt. Raises Unusable if the roles are out of order."""
    if sum(turn.role == "system" for turn in turns) > 1:
        raise Unusable(field, "expected one system message at most, found several")
    spoken = turns[1:] if turns and turns[0].role == "system" else turns
    expected: tuple[Role, Role] = ("user", "assistant")
    for i, turn in enumerate(spoken):
        if turn.role != expected[i % 2]:
            raise Unusable(field, f"roles out of order: expected {expected[i % 2]} in turn {i + 1}, found "
                                  f"{turn.role}")
    if len(spoken) % 2 == 0:
        raise Unusable(field, "expected a prompt that ends with the user's turn")
    return tuple(turns)


def user_prompt(text: str) -> Prompt:
    """Return a prompt of one user turn."""
    return (Message("user", text),)


def any_prompt(value: object, field: str) -> Prompt:
    """Return a prompt given as text, text parts, an Anthropic HH transcript or messages. Raises Unusable."""
    value = written_messages(value, field)
    if isinstance(value, list) and not _is_content(value):
        return as_prompt(as_messages(value, field), field)
    text = as_content(value, field)
    turns = as_transcript(text)
    return as_prompt(turns, field) if turns else user_prompt(text)


def any_answer(value: object, field: str) -> str:
    """Return a response given as text, text parts, a message or a list of one message.

    Raises Unusable, also for a whole conversation, which is more than a response.
    """
    value = written_messages(value, field)
    if _is_content(value):
        return as_content(value, field)
    if isinstance(value, list):
        messages = as_messages(value, field)
    elif isinstance(value, dict):
        messages = [as_message(value, field)]
    else:
        text = as_text(value, field)
        if not (messages := as_transcript(text)):
            return text
    if len(messages) != 1 or messages[0].role != "assistant":
        raise Unusable(field, "expected one message of the assistant, found "
                              f"{[turn.role for turn in messages][:8]}")
    return messages[0].content


def any_conversation(value: object, field: str) -> list[Message]:
    """Return the turns of a list of messages or an Anthropic HH transcript. Raises Unusable."""
    value = written_messages(value, field)
    if not isinstance(value, str):
        return as_messages(value, field)
    if turns := as_transcript(as_text(value, field)):
        return turns
    raise Unusable(field, "expected a transcript that starts with `\\n\\nHuman:`, a list of messages, or a "
                          "text beside a field `prompt`")


def is_conversation(value: object) -> bool:
    """True for a list of several messages, and for a transcript."""
    if isinstance(value, str):
        return value.startswith(TRANSCRIPT)
    return isinstance(value, list) and len(value) > 1 and not _is_content(value)


def prompt_and_answer(turns: Sequence[Message], field: str) -> tuple[Prompt, str]:
    """Split a conversation before the assistant's last turn. Raises Unusable."""
    if not turns or turns[-1].role != "assistant":
        raise Unusable(field, "expected a conversation that ends with the assistant's turn")
    return as_prompt(turns[:-1], field), turns[-1].content


def common_prompt(chosen: Sequence[Message], rejected: Sequence[Message]) -> tuple[Prompt, str, str]:
    """Return the shared turns of two conversations, and their two different last answers. Raises Unusable."""
    prompt, better = prompt_and_answer(chosen, "chosen")
    if not rejected or rejected[-1].role != "assistant":
        raise Unusable("rejected", "expected a conversation that ends with the assistant's turn")
    if list(chosen[:-1]) != list(rejected[:-1]):
        raise Unusable("rejected", "expected the same conversation as chosen up to the last turn")
    return prompt, better, rejected[-1].content
