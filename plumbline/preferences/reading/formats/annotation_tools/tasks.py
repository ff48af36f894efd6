"""What an annotation tool showed: which of a task's fields is the prompt, and which are the responses to
judge.

Tools leave the names to their users, so they are guessed from what their own templates and documents use.
Which response is the left or the first one is never guessed from the order of the fields, which JSON does not
keep: it follows from their names (`answer_a` before `answer_b`), or from what the tool says.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from plumbline.preferences.reading.conversations import Unusable, any_answer, any_prompt
from plumbline.preferences.reading.formats.asked import CONTEXTS, HISTORIES, INPUT, SYSTEMS, with_the_rest
from plumbline.preferences.reading.formats.fields import TIES, normalised
from plumbline.preferences.reading.formats.meaning import LEFT_ALONE
from plumbline.preferences.reading.formats.record import Record
from plumbline.preferences.types import Label, Prompt

PROMPTS = ("prompt", "instruction", "question", "query", "input", "messages", "conversation", "chat",
           "context", "task")
ASKED = frozenset({*PROMPTS, *CONTEXTS, *HISTORIES, *SYSTEMS, INPUT})
SIDE = r"left|right|first|second|[0-9]{1,9}|[a-h]"
WHOSE = "model|assistant|ai|bot|llm|chosen|rejected"
RESPONSE = re.compile(rf"({WHOSE})?(?P<before>{SIDE})?"
                      r"(response|answer|completion|output|reply|generation|chosen|rejected|text|option"
                      rf"|summary|candidate)(s?(?P<after>{SIDE}))?(text|content)?")
PLACES: Mapping[str, int] = {"left": 0, "right": 1, "first": 0, "second": 1,
                             **{letter: place for place, letter in enumerate("abcdefgh")}}
WORD = re.compile(r"[0-9]+|[^\W\d_]+")
HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True)
class Task:
    """The fields of a task by their role. Texts are checked when they are asked for."""

    fields: Record
    place: str
    prompt_name: str
    responses: Sequence[str]
    in_order: bool
    """True if the first of the responses is known to be the first, or left, one."""

    def prompt(self) -> Prompt:
        """Return the prompt with the context, input or system prompt that was shown. Raises Unusable."""
        place = f"{self.place}.{self.prompt_name}"
        return with_the_rest(self.fields, any_prompt(self.fields.get(self.prompt_name), place), place)

    def text(self, name: str) -> str:
        """Return the response in this field. Raises Unusable."""
        return any_answer(self.fields.get(name), f"{self.place}.{name}")

    def only(self, field: str) -> str:
        """Return the only response.

        Raises Unusable, naming the judging `field`, if there are several or none.
        """
        if len(self.responses) != 1:
            raise Unusable(field, f"expected one response in {self.place} to judge, found "
                                  f"{', '.join(self.responses)[:200] or 'none'}")
        return self.text(self.responses[0])

    def named(self, name: object) -> str | None:
        """Return the field that an answer names in any spelling: a response, or another field but the prompt.
        """
        if not isinstance(name, str):
            return None
        known = (*self.responses, *(other for other in self.fields if other not in ASKED))
        return next((field for field in known if normalised(field) == normalised(name)), None)

    def subject(self, question: str) -> str | None:
        """Return the response that a question of this name is about: the named one, or else the only one.

        Returns None if the name is another field's, or if there are several responses and it names none.
        """
        asked = words(question)
        about = [name for name in self.responses if _stands_in(words(name), asked)]
        about += [name for name in (*self._other_texts(question),
                                    *ASKED) if asked[:len(words(name))] == words(name)]
        if about:
            name = max(about, key=lambda field: len(words(field)))
            return name if name in self.responses or not (self.responses or name in ASKED) else None
        if len(self.responses) == 1:
            return self.responses[0]
        sided = [name for name in self.responses if asked and asked[-1] == side_of(name)]
        return sided[0] if len(sided) == 1 else None

    def _other_texts(self, question: str) -> list[str]:
        """Return the text fields that a question may be about, though they are not named like responses."""
        others = [name for name in self.fields if name not in (*self.responses, question) and words(name)]
        return [name for name in others
                if name.lower() not in LEFT_ALONE and isinstance(self.fields.peek(name), str)]

    def shown_as(self, left: str, right: str) -> "Task":
        """Return the same task with its two responses in this order."""
        return replace(self, responses=(left, right), in_order=True)

    def unordered(self) -> "Task":
        """Return the same task with an unknown order of responses."""
        return replace(self, in_order=False)

    def at_side(self, side: str) -> str | None:
        """Return the response that `left`, `second`, `b` or `1` stands for, by its name or its position."""
        named = [name for name in self.responses if side_of(name) == side]
        if named:
            return named[0] if len(named) == 1 else None
        if not self.in_order or any(_style(side_of(name)) == _style(side) for name in self.responses):
            return None  # `2` is none of `0` and `1`
        place = PLACES.get(side, int(side) - 1 if side.isdigit() else -1)
        return self.responses[place] if 0 <= place < len(self.responses) else None


def task_of(fields: Record, place: str, besides: frozenset[str] = frozenset()) -> Task:
    """Return the roles of the fields of a task, except those named in `besides`; `place` is the task's field.

    Raises Unusable if no field can be the prompt.
    """
    prompt = next((name for name in PROMPTS if name in fields and name not in besides), None)
    if prompt is None:
        found = ", ".join(sorted(fields))[:200] or "no fields"
        raise Unusable(place, f"expected a field {', '.join(PROMPTS[:-1])} or {PROMPTS[-1]}, found {found}")
    responses = [name for name in fields
                 if name != prompt and name not in besides and RESPONSE.fullmatch(normalised(name))]
    sides = [side_of(name) for name in responses]
    all_differ = None not in sides and len(set(sides)) == len(sides)
    in_order = all_differ and len(set(map(_style, sides))) == 1
    if in_order:
        responses.sort(key=lambda name: _place(side_of(name)))
    return Task(fields, place, prompt, responses, in_order)


def named_side(answer: str, task: Task) -> Label | None:
    """Return the side of two responses that an answer names; None if it names none."""
    if len(task.responses) != 2:
        return None
    if normalised(answer) in TIES:
        return "tie"
    name = task.named(answer)
    if name is None:
        spelt = RESPONSE.fullmatch(normalised(answer))
        side = (spelt["before"] or spelt["after"]) if spelt else answer.strip().lower()
        name = task.at_side(side) if side and re.fullmatch(SIDE, side) else None
    if name not in task.responses:
        return None
    return "A" if name == task.responses[0] else "B"


@lru_cache(maxsize=4096)
def words(name: str) -> tuple[str, ...]:
    """Return the words and numbers of a name: the same for `generations-0-rating` and `generations0Rating`.
    """
    return tuple(WORD.findall(HUMP.sub(" ", name).casefold()))


@lru_cache(maxsize=4096)
def side_of(name: str) -> str | None:
    """Return the part of a response's name that tells its side: `b` in `answer_b`, `0` in `generations-0`."""
    spelt = RESPONSE.fullmatch(normalised(name))
    return (spelt["before"] or spelt["after"]) if spelt else None


def _place(side: str | None) -> int:
    if side is None:
        return 0
    return PLACES[side] if side in PLACES else int(side)


def _style(side: str | None) -> str | None:
    """Return how a side is named: by number, by letter, or by one of two pairs of words."""
    if side is None:
        return None
    if side.isdigit() or len(side) == 1:
        return "number" if side.isdigit() else "letter"
    return "left" if side in ("left", "right") else "first"


def _stands_in(name: tuple[str, ...], question: tuple[str, ...]) -> bool:
    """True if the words of a name are side by side in a question's."""
    return any(question[i:i + len(name)] == name for i in range(len(question) - len(name) + 1))
