"""What an annotation tool showed: which of a task's fields is the prompt, and which are the responses to judge.

Tools leave the names to their users, so they are guessed from what their own templates and documents use.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plumbline.preferences.conversations import Unusable, any_answer, any_prompt
from plumbline.preferences.formats.asked import with_the_rest
from plumbline.preferences.formats.fields import normalised
from plumbline.preferences.formats.record import Record
from plumbline.preferences.types import Label, Prompt

PROMPTS = ("prompt", "instruction", "question", "query", "input", "messages", "conversation", "chat", "context", "task")
RESPONSE = re.compile(r"(response|answer|completion|output|reply|generation|chosen|rejected|text|option|summary)"
                      r"[-_ ]?([0-9]+|[a-h])?", re.IGNORECASE)
SIDES: Mapping[str, Label] = {"left": "A", "right": "B", "a": "A", "b": "B", "1": "A", "2": "B", "first": "A",
                              "second": "B", "tie": "tie", "equal": "tie", "same": "tie", "both": "tie",
                              "neither": "tie"}


@dataclass(frozen=True)
class Task:
    """The fields of a task by their role. Texts are checked when they are asked for."""

    fields: Record
    place: str
    prompt_name: str
    responses: Sequence[str]

    def prompt(self) -> Prompt:
        """The prompt, with the context, the input or the system prompt that the annotator saw. Raises Unusable."""
        place = f"{self.place}.{self.prompt_name}"
        return with_the_rest(self.fields, any_prompt(self.fields.get(self.prompt_name), place), place)

    def text(self, name: str) -> str:
        """The response in this field. Raises Unusable."""
        return any_answer(self.fields.get(name), f"{self.place}.{name}")

    def only(self, field: str) -> str:
        """The response, where there is one. Raises Unusable, naming `field`, which judges it."""
        if len(self.responses) != 1:
            raise Unusable(field, f"expected one response in {self.place} to judge, found "
                                  f"{', '.join(self.responses)[:200] or 'none'}")
        return self.text(self.responses[0])

    def rated(self, question: str, field: str) -> str:
        """The response that a question's name names, or else the only one. Raises Unusable."""
        about = [name for name in self.responses if normalised(name) in normalised(question)]
        return self.text(about[0]) if len(about) == 1 else self.only(field)

    def named(self, name: object) -> str | None:
        """The response field that an answer names, however it spells it."""
        if not isinstance(name, str):
            return None
        return next((known for known in self.responses if normalised(known) == normalised(name)), None)


def task_of(fields: Record, place: str) -> Task:
    """The roles of a task's fields, which `place` holds. Raises Unusable if none of them can be the prompt."""
    prompt = next((name for name in PROMPTS if name in fields), None)
    if prompt is None:
        found = ", ".join(sorted(fields))[:200] or "no fields"
        raise Unusable(place, f"expected a field {', '.join(PROMPTS[:-1])} or {PROMPTS[-1]}, found {found}")
    responses = [name for name in fields if name != prompt and RESPONSE.fullmatch(name)]
    return Task(fields, place, prompt, responses)


def named_side(answer: str, task: Task) -> Label | None:
    """The side of two responses that an answer names, if it names one."""
    if len(task.responses) != 2:
        return None
    name = task.named(answer)
    if name is not None:
        return "A" if name == task.responses[0] else "B"
    return SIDES.get(answer.strip().lower())
