"""Two responses to one prompt and a verdict in a field of its own: Chatbot Arena and MT-bench, LMSYS's
columns, HelpSteer, PKU-SafeRLHF, OpenAI's preference fine-tuning, and columns that people name themselves.

A verdict counts only where its words leave no doubt which side they mean; anything else is set aside, with
the value.
"""

import json
import re
from collections.abc import Sequence

from plumbline.preferences.reading.conversations import (
    Undecidable,
    Unusable,
    any_answer,
    any_prompt,
    as_messages,
    as_prompt,
    as_text,
    plain_text,
    prompt_and_answer,
    shown,
)
from plumbline.preferences.reading.formats.asked import PROMPTS, with_the_rest
from plumbline.preferences.reading.formats.fields import (
    TIES,
    as_list,
    as_number,
    as_thumb,
    as_whole,
    chosen_pair,
    different,
    is_number,
    normalised,
    optional_number,
    origin_of,
)
from plumbline.preferences.reading.formats.record import Record
from plumbline.preferences.types import Comparison, Label, Message, Prompt, Row, label_of

STEMS = ("response", "answer", "output", "completion")
JOINTS = ("_", "")
COUNTS = (("1", "2"), ("0", "1"), ("a", "b"), ("A", "B"))
SIDES = tuple((f"{stem}{joint}{one}", f"{stem}{joint}{other}") for stem in STEMS for joint in JOINTS
              for one, other in COUNTS)
"""What the two responses may be called."""
VERDICTS = ("preference", "winner", "label", "choice", "better", "preferred", "better_response")
TALKS = ("messages", "conversations", "conversation", "context")
CALLED = ("", "model", "response", "assistant", "answer", "option", "output", "completion", "candidate",
          "chatbot", "conversation")
PLACES: tuple[tuple[Label, frozenset[str]], ...] = (
    ("A", frozenset({"first", "left", *(f"{name}a" for name in CALLED)})),
    ("B", frozenset({"second", "right", *(f"{name}b" for name in CALLED)})))
COUNTED = re.compile(r"([0-9])(\.0*)?")
LETTER = re.compile(r"[^\W\d_]")
STRENGTHS, STRONGEST = ("preference_strength", "overall_preference"), 3
WINNERS: tuple[tuple[str, Label], ...] = (("winner_model_a", "A"), ("winner_model_b", "B"),
                                          ("winner_tie", "tie"))
HELPSTEER_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")


def two_responses(record: Record, source: str) -> Row:
    """Return the comparison of `response_1` and `response_2`, or such names, by verdicts that must agree."""
    sides = _sides(record)
    prompt, texts = _asked(record), _texts(record, sides)
    told = [name for name in VERDICTS if record.holds(name)]
    if not told:
        raise Unusable(next((name for name in VERDICTS if name in record.names), VERDICTS[0]),
                       "it is missing")
    labels = [_verdict(record, name, sides) for name in told]
    if len(set(labels)) > 1:
        raise Unusable(told[1], f"it says otherwise than {told[0]}, {shown(record.get(told[0]))}: "
                                f"{shown(record.get(told[1]))}")
    return Comparison(prompt, texts, labels[0], origin_of(record, source),
                      optional_number(record, "strength"))


def arena(record: Record, source: str) -> Row:
    """Return the comparison of the `turn`-th answers of two conversations (Chatbot Arena, MT-bench)."""
    names = ("conversation_a", "conversation_b")
    turn = record.get("turn")
    first, second = (_until(as_messages(as_list(record.get(name), name), name), turn, name) for name in names)
    judge = record.get("judge")
    machine = judge.startswith("gpt") if isinstance(judge, str) else False
    origin = origin_of(record, source, annotator=judge, machine=machine, time=record.get("tstamp"))
    prompt, texts = _compared(record, first, second, names)
    return Comparison(prompt, texts, _verdict(record, "winner", names), origin)


def lmsys(record: Record, source: str) -> Row:
    """Return LMSYS's comparison: prompt and responses are texts or lists of turns; the winner is a flag."""
    names = ("response_a", "response_b")
    asked, *answered = (_each_turn(record.get(name), name) for name in ("prompt", *names))
    for name, given in zip(names, answered, strict=True):
        if len(given) != len(asked):
            raise Unusable(name, f"expected {len(asked)} answers, as many as the prompt has turns, found "
                                 f"{len(given)}")
    first, second = (_interleaved(asked, given) for given in answered)
    won = [label for name, label in WINNERS if record.holds(name) and as_thumb(record.get(name), name)]
    if len(won) != 1:
        raise Unusable("winner_model_a", f"expected one of {', '.join(name for name, _ in WINNERS)} to be 1, "
                                         f"found {len(won)}")
    prompt, texts = _compared(record, first, second, names)
    return Comparison(prompt, texts, won[0], origin_of(record, source, machine=False))


def helpsteer(record: Record, source: str) -> Row:
    """Return HelpSteer's comparison, from -3 (response 1 is much better) to 3 (Wang et al. 2024, 2410.01257).
    """
    sides = _sides(record)
    field = next((name for name in STRENGTHS if name in record.names), STRENGTHS[0])
    strength = as_number(record.get(field), field)
    if abs(strength) > STRONGEST:
        expected = f"expected a number from -{STRONGEST} to {STRONGEST}, found {strength}"
        if strength < 0:  # on no scale that begins at 1: rather the mark of a pair without a verdict
            raise Unusable(field, expected)
        raise Undecidable(field, f"{expected}, so that this file has another scale, on which 1 may mean "
                                 "either response. Bring its numbers onto this one, where the first response "
                                 "is better below 0")
    return Comparison(_asked(record), _texts(record, sides),
                      label_of(0, strength), origin_of(record, source, machine=False), abs(strength))


def safe_rlhf(record: Record, source: str) -> Row:
    """Return PKU-SafeRLHF's comparison by the better response; the safer one is not used."""
    sides = ("response_0", "response_1")
    label = _verdict(record, "better_response_id", sides)
    if as_whole(record.peek("safer_response_id")) == as_whole(record.get("better_response_id")):
        record.get("safer_response_id")
    return Comparison(_asked(record), _texts(record, sides), label,
                      origin_of(record, source, machine=False, part=record.get("prompt_source")))


def openai(record: Record, source: str) -> Row:
    """Return OpenAI's comparison: `input.messages`, `preferred_output`, `non_preferred_output`."""
    turns = as_messages(record.within("input").get("messages"), "input.messages")
    prompt = with_the_rest(record, turns, "input.messages")
    sides = ("preferred_output", "non_preferred_output")
    chosen, rejected = (any_answer(record.get(name), name) for name in sides)
    return chosen_pair(record, prompt, chosen, rejected, origin_of(record, source))


def _sides(record: Record) -> tuple[str, str]:
    """Return the names of the two responses in this record."""
    return next((sides for sides in SIDES if record.keys() >= set(sides)), SIDES[0])


def _asked(record: Record) -> Prompt:
    """Return the prompt, from a field of its own or the conversation before the two answers."""
    name = next((name for name in (*PROMPTS, *TALKS) if record.holds(name)), PROMPTS[0])
    value = record.get(name)
    if isinstance(value, str) and "<extra_id_1>" in value:
        return with_the_rest(record, as_prompt(_helpsteer_turns(value, name), name), name)
    return with_the_rest(record, any_prompt(value, name), name)


def _helpsteer_turns(text: str, name: str) -> list[Message]:
    """Return the turns that HelpSteer2 joins in one text; the first is the user's, without a marker."""
    first, *later = HELPSTEER_TURN.split(text)
    turns = [("User", first), *zip(later[::2], later[1::2], strict=True)]
    return [Message("user" if who == "User" else "assistant", as_text(said, name)) for who, said in turns]


def _texts(record: Record, sides: tuple[str, str]) -> tuple[str, str]:
    first, second = (any_answer(record.get(name), name) for name in sides)
    return different(first, second, sides)


def _each_turn(value: object, name: str) -> list[str]:
    """Return the texts of the turns: of a list, of a list spelt in JSON, or of a text, which is one turn."""
    if isinstance(value, str) and value.startswith("["):
        try:
            spelt = json.loads(value)
        except (ValueError, RecursionError):
            spelt = None  # a text that only starts so
        value = spelt if isinstance(spelt,
                                    list) and all(isinstance(said, str | None) for said in spelt) else value
    given = value if isinstance(value, list) else [value]
    return [plain_text(said, f"{name}[{i}]" if len(given) > 1 else name) for i, said in enumerate(given)]


def _interleaved(asked: Sequence[str], answered: Sequence[str]) -> list[Message]:
    turns = []
    for question, answer in zip(asked, answered, strict=True):
        turns += [Message("user", question), Message("assistant", answer)]
    return turns


def _until(turns: Sequence[Message], turn: object, name: str) -> Sequence[Message]:
    """Return the conversation up to its `turn`-th answer, or all of it if `turn` is None."""
    if turn is None:
        return turns
    number = as_whole(turn)
    answers = [i for i, message in enumerate(turns) if message.role == "assistant"]
    if number is None or not 1 <= number <= len(answers):
        raise Unusable("turn", f"expected a number from 1 to {len(answers)}, the answers in {name}, found "
                               f"{shown(turn)}")
    return turns[: answers[number - 1] + 1]


def _compared(record: Record, first: Sequence[Message], second: Sequence[Message],
              names: tuple[str, str]) -> tuple[Prompt, tuple[str, str]]:
    """Return the shared prompt of two conversations and their last answers.

    Raises Unusable if they part earlier.
    """
    (shared, one), (other_shared, other) = (prompt_and_answer(turns, name)
                                            for turns, name in zip((first, second), names, strict=True))
    if shared != other_shared:
        raise Unusable(names[1], f"it differs from {names[0]} before the last answer, so that the two "
                                 "answers do not answer the same")
    return with_the_rest(record, shared, names[0]), different(one, other, names)


def _verdict(record: Record, name: str, sides: tuple[str, str]) -> Label:
    """Return the side that the verdict in this field means. Raises Unusable if that is in doubt."""
    value = record.get(name)
    counted = as_whole(value)
    if counted is None and isinstance(value, str) and (found := COUNTED.fullmatch(value.strip())):
        counted = int(found[1])
    if counted is not None or is_number(value):
        return _counted(counted, value, name, sides)
    if isinstance(value, str) and LETTER.search(value):
        spelt = normalised(value).removesuffix("isbetter").removesuffix("wins")
        if spelt in TIES:
            return "tie"
        for (label, words), side in zip(PLACES, sides, strict=True):
            if spelt in words or spelt in (called + side[-1] for called in CALLED[1:] if side[-1].isdigit()):
                return label
        models = [record.get(f"model_{side[-1]}") for side in sides]
        if value in models and models[0] != models[1]:
            return "A" if value == models[0] else "B"
    raise Unusable(name, f"expected {sides[0]}, {sides[1]} or a tie, found {shown(value)}")


def _counted(number: int | None, value: object, name: str, sides: tuple[str, str]) -> Label:
    """Return the side with this number, for numbered fields; None if `value` is another number.

    Raises Undecidable for a number that is no side: the file counts otherwise, or its numbers are a scale.
    """
    marks = [int(side[-1]) for side in sides if side[-1].isdigit()]
    if not marks:
        raise Unusable(name, f"expected {sides[0]}, {sides[1]} or a tie, found {shown(value)}, which names "
                             "neither")
    if number in marks:
        return "A" if number == marks[0] else "B"
    raise Undecidable(name, f"it is {shown(value)} beside {sides[0]} and {sides[1]}, so that the numbers in "
                            "this file count otherwise, or are a scale, and 1 may mean either response. "
                            f"Write {sides[0]}, {sides[1]} or tie instead of the numbers")
