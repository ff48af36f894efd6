"""The chat template: a model's own, settled where it leaves open what the model learns.

Three things are settled, in the template itself. It is saved with every model that is made, so that any
server renders the prompts that the policy was trained on.

- A date: `strftime_now` would give the same prompt other tokens each day, so it becomes a fixed date.
- Thinking: answers here are plain, so a block of thoughts that the prompt opens, or that the template would
  put before a plain answer, is closed within the prompt. Otherwise answers would be learnt as thoughts that
  never end.
- `enable_thinking`, if a template has it, is false, for the same reason.

A system message that the template does not take goes before the first user's text (`arranged`).
"""

import re
from collections.abc import Sequence
from datetime import date
from functools import lru_cache

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from plumbline.errors import UserError
from plumbline.preferences.types import Message, Prompt

FIXED_DATE = date(2024, 7, 26)
"""The date that Llama's templates use where there is no clock."""
CLOCK = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
OTHER_CLOCK = re.compile(r"strftime_now\b(?!\s+is\b)")
NO_THINKING = "{%- set enable_thinking = false %}"
OPEN_THOUGHT = re.compile(r"([<\[])((?:\w+:)?\w*(?:think|reason)\w*)([>\]])\s*\Z", re.IGNORECASE)
"""A tag at the very end that begins thoughts: `<think>`, `[THINK]`, `<seed:think>`."""
ASKED, ANSWERED = "asked", "answered"
Turn = dict[str, str]


def settled(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the tokenizer's default chat template, settled; unchanged if it leaves nothing open.

    Raises UserError if there is none, or if it refuses a conversation of one question and one answer.
    """
    if not tokenizer.chat_template:
        raise UserError("The model has no chat template, so there is no telling how it marks turns. Choose "
                        "an instruction-tuned model, or add a chat_template.jinja to its folder.")
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        raise UserError(f"The model has several chat templates ({', '.join(tokenizer.chat_template)}) and "
                        "none of them is called `default`, so there is no telling which one marks the turns "
                        "of a conversation. Save the one to use as chat_template.jinja in its folder.")
    return _settled(tokenizer.get_chat_template(), tokenizer)


def settle(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the settled template the tokenizer's own, so that it is saved with the tokenizer."""
    template = settled(tokenizer)
    if isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = {**tokenizer.chat_template, "default": template}
    else:
        tokenizer.chat_template = template


def arranged(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> Prompt:
    """Return the prompt in roles that the template takes.

    Without a system role, the system's text goes before the first user's.
    """
    if prompt[0].role != "system" or takes_system(tokenizer):
        return prompt
    system, first, *rest = prompt
    return (Message("user", f"{system.content}\n\n{first.content}"), *rest)


def rearranged(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> int:
    """Count the prompts whose system message goes into the first user's text; see `arranged`."""
    return sum(arranged(tokenizer, prompt) != prompt for prompt in prompts)


def takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """True if the template writes a system message; some templates refuse one, and others leave it out."""
    return _takes(settled(tokenizer), tokenizer, ("system", "user"))


def notes(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return what was settled, and what the template does not take, a sentence each."""
    own, used = tokenizer.get_chat_template(), settled(tokenizer)
    found = []
    if CLOCK.search(own):
        found.append(f"The chat template writes today's date; it is fixed at {FIXED_DATE:%d %B %Y}, so that "
                     "the same prompt has the same tokens on any day.")
    if _without_date(own) != used:
        found.append("The chat template leaves room for thoughts before an answer; the prompt closes it, "
                     "since answers here are plain.")
    if not takes_system(tokenizer):
        found.append("The chat template takes no system message; its text goes before the first user's.")
    return found


def require_usable(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise UserError unless the template renders a whole conversation, and the same on any day.

    `name` is the model's, for the message.
    """
    try:
        template = settled(tokenizer)
        if not _takes(template, tokenizer, ("user", "assistant", "user")):
            raise UserError("Its chat template does not write all of a conversation of a user, the assistant "
                            "and the user again, so the model would not see what came before the last turn. "
                            "Choose another model, or put a chat_template.jinja that does into its folder.")
        if OTHER_CLOCK.search(template):
            raise UserError("Its chat template computes with today's date, so the same prompt would have "
                            "other tokens tomorrow. Put a chat_template.jinja with a fixed date into its "
                            "folder.")
    except UserError as error:
        raise UserError(f"The model {name} cannot be used. {error}") from None


def render(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> str:
    """Return a prompt as text, up to where the assistant's answer begins.

    Raises UserError if the template refuses the turns.
    """
    return _render(settled(tokenizer), tokenizer, turns)


@lru_cache(maxsize=8)
def _settled(template: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the template with a fixed date, without thinking, and with any block of thoughts closed."""
    template = _without_date(template)
    if re.search(r"\benable_thinking\b", template) and not template.startswith(NO_THINKING):
        template = NO_THINKING + template
    asked = [{"role": "user", "content": ASKED}]
    prompt = _render(template, tokenizer, asked)
    whole = _render(template, tokenizer, [*asked, {"role": "assistant", "content": ANSWERED}], answer=False)
    # `between` is what the template itself writes between the prompt and a plain answer, such as an empty
    # block of thoughts. It becomes part of the prompt, with an end to a block that it or the prompt leaves
    # open.
    between = whole[len(prompt) :].partition(ANSWERED)[0] if whole.startswith(prompt) else ""
    if opened := OPEN_THOUGHT.search(prompt + between):
        between += "\n{}/{}{}\n\n".format(*opened.groups())
    if not between.strip():
        return template
    closed = template + "{%- if add_generation_prompt %}{{ " + repr(between) + " }}{% endif %}"
    if _render(closed, tokenizer, asked) != prompt + between:
        raise UserError(f"Its chat template lets an answer begin with {between.strip()!r}, which cannot be "
                        "written at the end of the prompt. Put a chat_template.jinja that leaves answers "
                        "plain into its folder.")
    return closed


def _without_date(template: str) -> str:
    return CLOCK.sub(lambda call: repr(FIXED_DATE.strftime(call[2])), template)


@lru_cache(maxsize=32)
def _takes(template: str, tokenizer: PreTrainedTokenizerBase, roles: tuple[str, ...]) -> bool:
    """True if the template writes a turn of each of these roles, in their order."""
    turns = [{"role": role, "content": f"text{i}"} for i, role in enumerate(roles)]
    try:
        rendered = _render(template, tokenizer, turns, answer=roles[-1] == "user")
    except UserError:
        return False
    return re.search(".*".join(turn["content"] for turn in turns), rendered, re.DOTALL) is not None


def _render(
    template: str, tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], answer: bool = True
) -> str:
    try:
        return str(tokenizer.apply_chat_template(list(turns), chat_template=template, tokenize=False,
                                                 add_generation_prompt=answer))
    except (TemplateError, TypeError) as error:
        raise UserError("Its chat template refuses a conversation of the turns "
                        f"{', '.join(turn['role'] for turn in turns)}: "
                        f"{' '.join(str(error).split())[:200]}.") from None
