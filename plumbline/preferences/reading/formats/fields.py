"""Fields that many formats share: numbers, thumbs, times, lists of responses, and where a judgement came
from.

Data sets fill absent fields with null, and CSV with nothing: both count as absent in what is optional.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import lru_cache

from plumbline.preferences.reading.conversations import Unusable, any_answer, as_text, plain_text, shown
from plumbline.preferences.reading.formats.record import Record
from plumbline.preferences.types import Comparison, Origin, Prompt, Row


class TakenBack(Unusable):
    """A judgement that its annotator has taken back: it is set aside, and a correction removes what it had
    been."""

    def __init__(self, field: str, reason: str, row: Row) -> None:
        super().__init__(field, reason)
        self.row = row


Judgement = Row | Unusable
Judgements = Sequence[Judgement]

FIRST_YEAR, LAST_YEAR = 1970, 2100
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?")
MILLISECONDS_FROM = 1e11  # as seconds this is the year 5138, as milliseconds 1973
TIES = frozenset({"tie", "ties", "tied", "draw", "equal", "same", "both", "neither", "nopreference",
                  "bothgood",
                  "bothbad", "tiebothbad", "tiebothgood", "tieinconsistent", "equallygood", "equallybad"})
"""What says that neither response is better, as `normalised` spells it: plain words, Arena's two, and
MT-bench's judge that contradicted itself."""
FLAGS = {"true": True, "false": False}
THUMBS: Mapping[str, bool] = {
    **dict.fromkeys(("true", "1", "1.0", "+1", "up", "thumbs_up", "thumbsup", "thumb_up", "👍", "like", "yes",
                     "good", "positive"), True),
    **dict.fromkeys(("false", "0", "0.0", "-1", "down", "thumbs_down", "thumbsdown", "thumb_down", "👎",
                     "dislike", "no", "bad", "negative"), False),
}


def origin_of(record: Record, source: str, *, annotator: object = None, machine: bool | None = None,
              part: object = None, time: object = None) -> Origin:
    """Return the origin of a record's judgement.

    The record's own `source`, `annotator`, `time` and `machine` take precedence. `part` is the data set's
    name for the part that the prompt comes from; it is added to the source so that reports show it. Raises
    Unusable.
    """
    own, who, when, program = (record.get(field) for field in ("source", "annotator", "time", "machine"))
    if isinstance(own, list):  # Nectar's
        own = "+".join(as_text(name, f"source[{i}]") for i, name in enumerate(own))
    if own is not None and own != "":
        source = as_text(own, "source")
    elif part is not None and part != "":
        source = f"{source}/{as_text(part, 'the part of the data set')}"
    if who is None or who == "":
        who = annotator
    if when is None or when == "":
        when = time
    if program is not None and program != "":
        machine = _as_flag(program, "machine")
    return Origin(source, None if who is None else as_name(who, "annotator"),
                  None if when is None else as_time(when, "time"), machine)


def as_name(value: object, field: str) -> str:
    """Return a name given as text or as a whole number, also as a float, which data frames make of it.

    Raises Unusable.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
        return str(value)
    return as_text(value, field)


def as_number(value: object, field: str) -> float:
    """Return a finite number, or the number that a text spells. Raises Unusable."""
    if value is None:
        raise Unusable(field, "it is missing")
    number = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)
    if not math.isfinite(number):
        raise Unusable(field, f"expected a finite number, found {shown(value)}")
    return number


def is_number(value: object) -> bool:
    """Return True for a finite number, and for a text that spells one."""
    try:
        as_number(value, "")
    except Unusable:
        return False
    return True


def optional_number(record: Mapping[str, object], field: str) -> float | None:
    """Return the number in a field, or None if the field is absent. Raises Unusable."""
    value = record.get(field)
    return None if value is None or value == "" else as_number(value, field)


def as_whole(value: object) -> int | None:
    """Return the whole number that a value is or spells; None for others."""
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 10:
        return int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def as_thumb(value: object, field: str) -> bool:
    """Return True for up and False for down, in any spelling. Raises Unusable."""
    if isinstance(value, bool):
        return value
    spelt = str(value) if isinstance(value, str | float) or value in (0, 1, -1) else ""
    spelt = spelt.strip().lower()
    up = THUMBS.get(spelt, THUMBS.get(spelt.replace(" ", "_").replace("-", "_")))
    if up is None:
        raise Unusable(field, "it is missing" if value is None else
                       "expected up or down (true, 1, up, thumbs_up; false, 0, down, thumbs_down), found "
                       f"{shown(value)}")
    return up


def _as_flag(value: object, field: str) -> bool:
    flag = FLAGS.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(flag, bool):
        raise Unusable(field, f"expected true or false, found {shown(value)}")
    return flag


def as_time(value: object, field: str) -> str:
    """Return a moment as ISO 8601, from ISO 8601, or seconds or milliseconds since 1970. Raises Unusable.

    A moment with a time zone is given in UTC; one without stays without, and a date stays a date.
    """
    try:
        moment = _moment(value)
    except (ValueError, OverflowError, OSError):
        moment = None
    if moment is None:
        raise Unusable(field, "expected ISO 8601, or seconds or milliseconds since 1970, found "
                              f"{shown(value)}")
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise Unusable(field, f"expected a year from {FIRST_YEAR} to {LAST_YEAR}, found {moment.year}")
    return moment.isoformat().replace("+00:00", "Z")


def _moment(value: object) -> date | None:
    if isinstance(value, str):
        spelt = value.strip()
        if len(spelt) in (len("2026-11-21"), len("20261121")):
            with suppress(ValueError):
                return date.fromisoformat(spelt)
        return _epoch(float(spelt)) if NUMBER.fullmatch(spelt) else _in_utc(datetime.fromisoformat(spelt))
    if isinstance(value, datetime):
        return _in_utc(value)
    if isinstance(value, date):
        return value
    return _epoch(float(value)) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _epoch(number: float) -> datetime:
    seconds = number / 1000 if abs(number) >= MILLISECONDS_FROM else number
    if not seconds >= 0:  # also what is not a number
        raise ValueError
    return datetime.fromtimestamp(seconds, UTC)


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is None else moment.astimezone(UTC)


def as_list(value: object, field: str) -> list[object]:
    """Return a list, also one that a text spells in JSON, as in a cell of CSV. Raises Unusable."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unusable(field,
                           f"expected a list, found a text that is not valid JSON: {shown(value)}") from None
    if not isinstance(value, list):
        raise Unusable(field, "it is missing" if value is None else f"expected a list, found {shown(value)}")
    return value


def as_responses(value: object, field: str,
                 answer: Callable[[object, str], str] = any_answer) -> tuple[str, ...]:
    """Return two or more different texts, each as `answer` reads it. Raises Unusable."""
    given = as_list(value, field)
    if len(given) < 2:
        raise Unusable(field, f"expected two or more texts, found {len(given)}")
    texts = tuple(answer(text, f"{field}[{i}]") for i, text in enumerate(given))
    if len(set(texts)) < len(texts):
        raise Unusable(field, "two of the responses are the same text")
    return texts


def different(first: str, second: str, names: tuple[str, str]) -> tuple[str, str]:
    """Return the two texts. Raises Unusable if they are equal."""
    if first == second:
        raise Unusable(names[1], f"it is the same text as {names[0]}")
    return first, second


def two_texts(record: Record, names: tuple[str, str]) -> tuple[str, str]:
    """Return the two different texts in these fields. Raises Unusable."""
    return different(plain_text(record.get(names[0]), names[0]), plain_text(record.get(names[1]), names[1]),
                     names)


def ranks_by(scores: Sequence[float]) -> tuple[int, ...]:
    """Return ranks by score: 1 for the highest. Equal scores share a rank: 1, 1, 3."""
    place = {score: i for i, score in reversed(list(enumerate(sorted(scores, reverse=True), start=1)))}
    return tuple(place[score] for score in scores)


def distance(first: float, second: float) -> float | None:
    """Return how far apart two scores are; None where that is more than a number can hold."""
    apart = abs(first - second)
    return apart if math.isfinite(apart) else None


def chosen_pair(record: Record, prompt: Prompt, chosen: str, rejected: str, origin: Origin,
                strength: float | None = None) -> Comparison:
    """Return the comparison of a chosen and a rejected response, in the order of `shown_first`.

    Raises Unusable.
    """
    different(chosen, rejected, ("chosen", "rejected"))
    first = record.get("shown_first")
    if first not in (None, "", "chosen", "rejected"):
        raise Unusable("shown_first", f"expected chosen or rejected, found {shown(first)}")
    if strength is None:
        strength = optional_number(record, "strength")
    if first == "rejected":
        return Comparison(prompt, (rejected, chosen), "B", origin, strength)
    return Comparison(prompt, (chosen, rejected), "A", origin, strength)


@lru_cache(maxsize=4096)
def normalised(name: str) -> str:
    """Return a field's name so that `response-1`, `Response 1` and `response_1` are the same."""
    return "".join(letter for letter in name.lower() if letter.isalnum())
