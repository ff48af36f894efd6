"""Import formats: from one record of somebody else's file to rows of ours, recognised by the record's field
names.

`parse` is the whole of it: a record gives one judgement or, from the annotation tools, several, each a row or
what is wrong with it. table.py lists the formats, meaning.py the fields that no row is made without;
docs/data-formats.md describes them all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache

from plumbline.errors import UserError
from plumbline.preferences.reading.conversations import Unusable
from plumbline.preferences.reading.formats.fields import Judgement, Judgements
from plumbline.preferences.reading.formats.meaning import ASKED, changes, is_left_alone
from plumbline.preferences.reading.formats.record import Record
from plumbline.preferences.reading.formats.table import FORMATS, Format
from plumbline.preferences.reading.results import Unread, shown_name
from plumbline.preferences.types import Prompt, Row

__all__ = ["EXPECTED", "FIELDS", "FORMATS", "RECOGNISED", "Format", "Judgement", "Reading", "parse"]

SHOWN_KEYS = 12
EXPECTED = ("our own schema (kind, prompt, response or responses), pairs (chosen and rejected, with prompt, "
            "conversations or neither), rankings (prompt, responses, ranks), ratings (prompt, response, "
            "score or thumb), AlpacaEval annotations (instruction, output_1, output_2, preference), "
            "conversations (messages), Alpaca instructions (instruction, output), or another format of "
            "docs/data-formats.md")
FIELDS = ("prompt", "chosen", "rejected", "response", "response_1", "response_2", "responses", "ranks",
          "score",
          "thumb", "completion", "messages", "instruction", "input", "output", "system", "history", "context",
          "label", "strength", "shown_first", "kind", "source", "annotator", "time", "machine")
"""The fields of ours that a column can be mapped to."""


@dataclass(frozen=True)
class Reading:
    """How to read a file: in which format (None: recognise it), and which of its columns hold which field of
    ours."""

    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    leave: frozenset[str] = frozenset()
    """Fields to leave alone, though they may change what a row says."""
    question: str | None = None
    """The question of an annotation tool whose answers are the judgements, where several could be."""

    def __post_init__(self) -> None:
        """Raise UserError for an unknown format or field."""
        if self.format is not None and self.format not in FORMATS:
            raise UserError(f"There is no format {self.format!r}.{closest(self.format, FORMATS)} Known "
                            f"formats: {', '.join(FORMATS)}.")
        for name in self.columns:
            if name not in FIELDS:
                raise UserError(f"There is no field {name!r} to map a column to.{closest(name, FIELDS)} "
                                f"Known fields: {', '.join(FIELDS)}.")


RECOGNISED = Reading()
"""Everything as its field names tell."""


def closest(name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    """Return a sentence that offers the known name nearest to an unknown one; empty if none is near."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def parse(record: object, source: str, how: Reading = RECOGNISED, unread: Unread | None = None) -> Judgements:
    """Return the judgements of a record from the source of this name: one or more rows or problems.

    Every field of the record is read, or counted in `unread`, or sets the record aside.
    """
    try:
        if not isinstance(record, dict):
            raise Unusable("-", f"expected an object with named fields, found {type(record).__name__}")
        given = Record(_renamed(record, how) if how.columns or how.leave else record, question=how.question)
        known = FORMATS[how.format] if how.format else _recognised(tuple(given), tuple(given.names))
        judged = known.parse(given, source)
        _account_for(given, judged, known, how, unread if unread is not None else Unread())
    except Unusable as problem:
        return (problem,)
    except RecursionError:  # the decoders nest deeper than Python prints or compares
        return (Unusable("-", "nested too deep"),)
    return judged


def _renamed(record: Mapping[str, object], how: Reading) -> dict[str, object]:
    """Return the record with its mapped columns under our names, instead of other columns of those names."""
    mapped = {ours: record[theirs] for ours, theirs in how.columns.items() if theirs in record}
    return {name: value for name, value in record.items()
            if name not in how.columns.values() and name not in how.leave} | mapped


def _account_for(given: Record, judged: Judgements, known: Format, how: Reading, unread: Unread) -> None:
    """Count the fields that were not read. Raises Unusable for one that the row would say something else
    without."""
    if not any(isinstance(row, Row) for row in judged):
        return
    left_alone, unknown = [*given.left()], list[str]()
    for place, value in given.unread():
        if place in how.columns:
            raise Unusable(how.columns[place], f"it is mapped to {place!r}, which the format {known.name} "
                                               "does not read")
        if is_left_alone(place, known.leaves) or place.rpartition(".")[2] in how.leave:
            left_alone.append(place)
        elif (reason := changes(place, value)) is None or (reason == ASKED and _is_said(value, judged)):
            unknown.append(place)
        else:
            raise Unusable(place, f"{reason}. Name a format that reads it, map it, or leave it alone with "
                                  f"--leave {place.rpartition('.')[2]}")
    unread.left_alone.update(map(shown_name, left_alone))
    unread.unknown.update(map(shown_name, unknown))


def _is_said(value: object, judged: Judgements) -> bool:
    """True if the text is in all prompts already, so that leaving the field out loses nothing."""
    prompts = [row.prompt for row in judged if isinstance(row, Row)]
    return isinstance(value, str) and all(_holds(prompt, value.strip()) for prompt in prompts)


def _holds(prompt: Prompt, text: str) -> bool:
    return any(text in turn.content for turn in prompt)


@lru_cache(maxsize=1024)
def _recognised(filled: tuple[str, ...], names: tuple[str, ...]) -> Format:
    """Return the first format that these field names tell, of which `filled` hold a value.

    Raises Unusable.
    """
    for known in FORMATS.values():
        if known.is_told_by(frozenset(filled), frozenset(names)):
            return known
    empty = [known for known in FORMATS.values() if known.is_told_by(frozenset(names), frozenset())]
    if empty:  # the one of which most is filled says what it lacks
        return max(empty, key=lambda known: max((len(keys & set(filled)) for keys in known.tells), default=0))
    lacking = _nearly(frozenset(names))
    if lacking is not None:
        raise Unusable(lacking, "it is missing")
    found = ", ".join(sorted(filled)[:SHOWN_KEYS])[:400] or "no fields"
    raise Unusable("-", f"expected {EXPECTED}; found {found}")


def _nearly(names: frozenset[str]) -> str | None:
    """Return the one field that is missing from a format of three or more fields, if there is one."""
    missing = [keys - names for known in FORMATS.values() for keys in known.tells if len(keys) > 2]
    return next((next(iter(keys)) for keys in missing if len(keys) == 1), None)
