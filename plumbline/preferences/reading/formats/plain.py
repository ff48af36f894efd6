"""Our own schema, and the plain formats that need no tool: rankings of K, scalar ratings, thumbs up and down.

A rank given twice is more often a mistake than a tie, so only our own schema, which says what it means, may
repeat one.
"""

from collections import Counter
from collections.abc import Sequence

from plumbline.preferences.reading.conversations import Undecidable, Unusable, any_answer, as_text, shown
from plumbline.preferences.reading.formats.asked import asked
from plumbline.preferences.reading.formats.fields import (
    as_list,
    as_number,
    as_responses,
    as_thumb,
    as_whole,
    is_number,
    optional_number,
    origin_of,
)
from plumbline.preferences.reading.formats.record import Record
from plumbline.preferences.types import Comparison, Demonstration, Ranking, Rating, Row

RANKS = ("ranks", "ranking", "rank")
THUMB_FIELDS = ("thumb", "thumbs", "feedback", "label", "kto_tag")
SCORES = ("score", "rating")
RESPONSES = ("response", "completion")


def ours(record: Record, source: str) -> Row:
    """Return a row that `types.to_json` wrote, checked. Raises Unusable."""
    prompt = asked(record)
    origin = origin_of(record, source)
    kind = record.get("kind")
    if kind == "demonstration":
        return Demonstration(prompt, as_text(record.get("response"), "response"), origin)
    if kind == "rating":
        return Rating(prompt, as_text(record.get("response"), "response"),
                      as_number(record.get("score"), "score"), origin)
    if kind not in ("comparison", "ranking"):
        raise Unusable("kind", f"expected demonstration, comparison, ranking or rating, found {shown(kind)}")
    responses = as_responses(record.get("responses"), "responses", _as_written)
    if kind == "ranking":
        return Ranking(prompt, responses, tuple(_numbers(record.get("ranks"), len(responses), "ranks")),
                       origin)
    if len(responses) != 2:
        raise Unusable("responses", f"expected two responses in a comparison, found {len(responses)}")
    label = record.get("label")
    if label not in ("A", "B", "tie"):
        raise Unusable("label", f"expected A, B or tie, found {shown(label)}")
    return Comparison(prompt, (responses[0], responses[1]), label, origin,
                      optional_number(record, "strength"))


def _as_written(value: object, field: str) -> str:
    """Return a response of our own schema, where a text is what it says even if it spells messages."""
    return as_text(value, field) if isinstance(value, str) else any_answer(value, field)


def ranking(record: Record, source: str) -> Row:
    """Return the ranking of K responses with ranks, or in their order, the best first."""
    prompt = asked(record)
    responses = as_responses(record.get("responses"), "responses")
    field = next((name for name in RANKS if record.get(name) is not None), RANKS[0])
    return Ranking(prompt, responses, _ranks(record.get(field), responses, field), origin_of(record, source))


def rating(record: Record, source: str) -> Row:
    """Return a response with a score, more is better, or a thumb: 1 up, 0 down (TRL's unpaired preference).
    """
    prompt, response = asked(record), _response(record)
    score = verdict(record)
    if score is None:
        raise Unusable(SCORES[0], "it is missing")
    return Rating(prompt, response, score, origin_of(record, source))


def verdict(record: Record) -> float | None:
    """Return the score or thumb that a record has for its one response; None if it has no such field.

    A field that is there and empty is no verdict, but does not make the row a demonstration. Raises Unusable,
    and Undecidable for a number that is no thumb: 1 is up beside 0, and the worst of five stars.
    """
    named = [name for name in (*THUMB_FIELDS, *SCORES) if name in record.names]
    if not named:
        return None
    name = next((name for name in named if record.holds(name)), named[0])
    value = record.get(name)
    if name in SCORES:
        return as_number(value, name)
    try:
        return float(as_thumb(value, name))
    except Unusable:
        if not is_number(value):
            raise
        raise Undecidable(name, f"it is {shown(value)}, so that the numbers in this file are a scale, on "
                                f"which 1 need not be up. Read them as scores with --map score={name}"
                          ) from None


def _response(record: Record) -> str:
    field = next((name for name in RESPONSES if record.get(name) is not None), RESPONSES[0])
    return any_answer(record.get(field), field)


def _ranks(value: object, responses: Sequence[str], field: str) -> tuple[int, ...]:
    """Return the ranks, given as ranks, as positions from 0, or as the responses in their order."""
    given = as_list(value, field)
    if given and all(isinstance(text, str) and text in responses for text in given):
        order = [responses.index(text) for text in given if isinstance(text, str)]
    elif 0 in map(as_whole, given):
        order = _numbers(given, len(responses), field, lowest=0)
    else:
        ranks = _numbers(given, len(responses), field)
        _refuse_repeated(ranks, "rank", field)
        return tuple(ranks)
    _refuse_repeated([position + 1 for position in order], "response", field)
    if len(order) < len(responses):
        raise Unusable(field, f"expected all {len(responses)} responses in their order, found {len(order)}")
    return tuple(order.index(i) + 1 for i in range(len(responses)))


def _numbers(value: object, count: int, field: str, lowest: int = 1) -> list[int]:
    given = as_list(value, field)
    if len(given) != count:
        raise Unusable(field, f"expected {count} ranks, one a response, found {len(given)}")
    highest = count - 1 + lowest
    numbers = [number for number in map(as_whole,
                                        given) if number is not None and lowest <= number <= highest]
    if len(numbers) < count:
        raise Unusable(field, f"expected whole numbers from {lowest} for the best to {highest}")
    return numbers


def _refuse_repeated(numbers: Sequence[int], what: str, field: str) -> None:
    number, times = Counter(numbers).most_common(1)[0]
    if times > 1:
        often = "twice" if times == 2 else f"{times} times"
        raise Unusable(field, f"{what} {number} is given {often}; ties are written in our own schema (kind: "
                              "ranking)")
