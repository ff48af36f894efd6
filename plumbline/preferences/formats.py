"""Import formats: from one record of somebody else's file to one row of ours, recognised by the record's keys.

| format | keys |
|---|---|
| ours | `kind`, `prompt`, `response` or `responses`: see types.py |
| AlpacaEval annotations | `instruction`, `output_1`, `output_2`, `preference` from 1.0 to 2.0 |
| ShareGPT pairs | `conversations`, `chosen`, `rejected`, with `from` and `value` in each message |
| TRL, explicit prompt | `prompt`, `chosen`, `rejected`: texts or lists of messages |
| TRL, implicit prompt | `chosen`, `rejected`: lists of messages that differ in the last one |
| Anthropic HH | `chosen`, `rejected`: texts `\\n\\nHuman: ...\\n\\nAssistant: ...` that differ in the last turn |
| conversations | `messages` or `conversations`: the last answer is the demonstration |
| Alpaca | `instruction`, `output`, sometimes `input` |

A record that cannot be used raises Unusable with the field and the reason. Data sets fill absent fields with null, so a
null counts as absent everywhere.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from plumbline.preferences.conversations import (
    Unusable,
    as_message,
    as_messages,
    as_prompt,
    as_text,
    as_transcript,
    common_prompt,
    user_prompt,
)
from plumbline.preferences.types import Comparison, Demonstration, Message, Origin, Prompt, Ranking, Row

Record = Mapping[str, object]
EXPECTED = ("our own schema (kind, prompt, response or responses), AlpacaEval annotations (instruction, output_1, "
            "output_2, preference), pairs (chosen and rejected, with prompt, conversations or neither), conversations "
            "(messages), or Alpaca instructions (instruction, output)")
TIE = 1.5  # AlpacaEval: the middle between 1.0 for the first output and 2.0 for the second
SHOWN_KEYS = 12


def parse(record: object, source: str) -> Row:
    """The row that `record` says, from a source of this name. Raises Unusable."""
    if not isinstance(record, dict):
        raise Unusable("-", f"expected an object with named fields, found {type(record).__name__}")
    known = {name: value for name, value in record.items() if value is not None}
    for keys, parser in PARSERS:
        if keys <= known.keys():
            return parser(known, source)
    found = ", ".join(sorted(map(str, known))[:SHOWN_KEYS]) or "no fields"
    raise Unusable("-", f"expected {EXPECTED}; found {found}")


def _ours(record: Record, source: str) -> Row:
    prompt = as_prompt(as_messages(record["prompt"], "prompt"), "prompt")
    origin = Origin(_optional_text(record, "source") or source, _optional_text(record, "annotator"),
                    _optional_text(record, "time"))
    kind = record["kind"]
    if kind == "demonstration":
        return Demonstration(prompt, as_text(record.get("response"), "response"), origin)
    if kind not in ("comparison", "ranking"):
        raise Unusable("kind", f"expected demonstration, comparison or ranking, found {kind!r:.80}")
    responses = _responses(record.get("responses"))
    if kind == "ranking":
        return Ranking(prompt, responses, _ranks(record.get("ranks"), len(responses)), origin)
    if len(responses) != 2:
        raise Unusable("responses", f"expected two responses in a comparison, found {len(responses)}")
    label = record.get("label")
    if label not in ("A", "B", "tie"):
        raise Unusable("label", f"expected A, B or tie, found {label!r:.80}")
    strength = _number(record["strength"], "strength") if "strength" in record else None
    return Comparison(prompt, (responses[0], responses[1]), label, origin, strength)


def _responses(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) < 2:
        raise Unusable("responses", "expected a list of two or more texts")
    texts = tuple(as_text(text, f"responses[{i}]") for i, text in enumerate(value))
    if len(set(texts)) < len(texts):
        raise Unusable("responses", "two of the responses are the same text")
    return texts


def _ranks(value: object, count: int) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != count:
        raise Unusable("ranks", f"expected a list of {count} ranks, one a response")
    ranks = tuple(rank for rank in value if isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1)
    if len(ranks) < count:
        raise Unusable("ranks", "expected whole numbers from 1 for the best")
    return ranks


def _alpaca_eval(record: Record, source: str) -> Row:
    preference = _number(record["preference"], "preference")
    if not 1.0 <= preference <= 2.0:
        raise Unusable("preference", f"expected a number from 1.0 to 2.0, found {preference}")
    # The benchmark mixes prompts of several data sets: naming them gives every report its slices.
    part = _optional_text(record, "dataset")
    origin = Origin(f"{source}/{part}" if part else source, _optional_text(record, "annotator"))
    first, second = _different(record, "output_1", "output_2")
    return Comparison(user_prompt(as_text(record["instruction"], "instruction")), (first, second),
                      "tie" if preference == TIE else "B" if preference > TIE else "A", origin,
                      strength=2 * abs(preference - TIE))


def _sharegpt_pair(record: Record, source: str) -> Row:
    turns = as_messages(record["conversations"], "conversations")
    if "system" in record:
        turns = [Message("system", as_text(record["system"], "system")), *turns]
    prompt = as_prompt(turns, "conversations")
    return _pair(prompt, _last_answer(record["chosen"], "chosen"), _last_answer(record["rejected"], "rejected"), source)


def _explicit_pair(record: Record, source: str) -> Row:
    chosen, rejected = record["chosen"], record["rejected"]
    if isinstance(chosen, list) and len(chosen) > 1:
        return _implicit_pair(record, source)  # UltraFeedback repeats the prompt within the responses' messages
    given = record["prompt"]
    if isinstance(given, str):
        turns = as_transcript(given)
        prompt = as_prompt(turns, "prompt") if turns else user_prompt(as_text(given, "prompt"))
    else:
        prompt = as_prompt(as_messages(given, "prompt"), "prompt")
    return _pair(prompt, _last_answer(chosen, "chosen"), _last_answer(rejected, "rejected"), source)


def _implicit_pair(record: Record, source: str) -> Row:
    chosen, rejected = (_turns(record[name], name) for name in ("chosen", "rejected"))
    prompt, better, worse = common_prompt(chosen, rejected)
    return _pair(prompt, better, worse, source)


def _turns(value: object, field: str) -> Sequence[Message]:
    """A list of messages, or a transcript in the manner of Anthropic HH."""
    if not isinstance(value, str):
        return as_messages(value, field)
    if turns := as_transcript(value):
        return turns
    raise Unusable(field, "expected a transcript that starts with `\\n\\nHuman:`, a list of messages, or a text beside "
                          "a field `prompt`")


def _last_answer(value: object, field: str) -> str:
    """A response given as a text, as a message, or as a list of one message."""
    if isinstance(value, list):
        messages = as_messages(value, field)
    elif isinstance(value, dict):
        messages = [as_message(value, field)]
    else:
        return as_text(value, field)
    if len(messages) != 1 or messages[0].role != "assistant":
        raise Unusable(field, f"expected one message of the assistant, found {[turn.role for turn in messages]}")
    return messages[0].content


def _conversation(record: Record, source: str) -> Row:
    name = "messages" if "messages" in record else "conversations"
    turns = as_messages(record[name], name)
    if "system" in record:
        turns = [Message("system", as_text(record["system"], "system")), *turns]
    if not turns or turns[-1].role != "assistant":
        raise Unusable(name, "expected a conversation that ends with the assistant's turn")
    return Demonstration(as_prompt(turns[:-1], name), turns[-1].content, Origin(source))


def _alpaca(record: Record, source: str) -> Row:
    instruction = as_text(record["instruction"], "instruction")
    more = record.get("input", "")
    if not isinstance(more, str):
        raise Unusable("input", f"expected a text, found {type(more).__name__}")
    request = f"{instruction}\n\n{as_text(more, 'input')}" if more.strip() else instruction
    return Demonstration(user_prompt(request), as_text(record["output"], "output"), Origin(source))


def _pair(prompt: Prompt, chosen: str, rejected: str, source: str) -> Comparison:
    if chosen == rejected:
        raise Unusable("rejected", "it is the same text as chosen")
    return Comparison(prompt, (chosen, rejected), "A", Origin(source))


def _different(record: Record, first: str, second: str) -> tuple[str, str]:
    texts = as_text(record[first], first), as_text(record[second], second)
    if texts[0] == texts[1]:
        raise Unusable(second, f"it is the same text as {first}")
    return texts


def _optional_text(record: Record, field: str) -> str | None:
    return as_text(record[field], field) if field in record else None


def _number(value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Unusable(field, f"expected a number, found {value!r:.80}")
    return float(value)


# The first whose keys are all there; the more telling keys come first, because data sets carry extra columns.
PARSERS: Sequence[tuple[frozenset[str], Callable[[Record, str], Row]]] = (
    (frozenset({"kind", "prompt"}), _ours),
    (frozenset({"instruction", "output_1", "output_2", "preference"}), _alpaca_eval),
    (frozenset({"conversations", "chosen", "rejected"}), _sharegpt_pair),
    (frozenset({"prompt", "chosen", "rejected"}), _explicit_pair),
    (frozenset({"chosen", "rejected"}), _implicit_pair),
    (frozenset({"messages"}), _conversation),
    (frozenset({"conversations"}), _conversation),
    (frozenset({"instruction", "output"}), _alpaca),
)
