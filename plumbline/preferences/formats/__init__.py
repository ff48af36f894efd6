"""Import formats: from one record of somebody else's file to rows of ours, recognised by the record's field names.

`parse` is the whole of it: a record gives one judgement or, from the annotation tools, several, each a row or what is
wrong with it. `FORMATS` lists the formats with their names for `--format`, in the order in which they are tried; the
more telling names come first, because data sets carry extra columns. docs/data-formats.md describes them all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache

from plumbline.errors import UserError
from plumbline.preferences.conversations import Unusable
from plumbline.preferences.formats import demonstrations, pairs, plain, research
from plumbline.preferences.formats.argilla import argilla, is_argilla
from plumbline.preferences.formats.fields import Judgement, Judgements, Record
from plumbline.preferences.formats.label_studio import label_studio
from plumbline.preferences.types import Row

__all__ = ["EXPECTED", "FIELDS", "FORMATS", "Format", "Judgement", "Reading", "parse"]

SHOWN_KEYS = 12
SHARED_FIELDS = frozenset({"prompt", "instruction", "response", "completion", "output", "messages", "conversations",
                           "question", "info", "data"})
"""Fields that tell little: a record that lacks something beside one of these may be of another format."""
EXPECTED = ("our own schema (kind, prompt, response or responses), pairs (chosen and rejected, with prompt, "
            "conversations or neither), rankings (prompt, responses, ranks), ratings (prompt, response, score or "
            "thumb), AlpacaEval annotations (instruction, output_1, output_2, preference), conversations (messages), "
            "Alpaca instructions (instruction, output), or another format of docs/data-formats.md")
FIELDS = ("prompt", "chosen", "rejected", "response", "responses", "ranks", "score", "thumb", "completion", "messages",
          "instruction", "input", "output", "system", "label", "strength", "shown_first", "kind", "source", "annotator",
          "time", "machine")
"""The fields of ours that a column can be mapped to."""


@dataclass(frozen=True)
class Format:
    """One import format: its name for `--format`, what it is, and the field names that tell it (any of the sets)."""

    name: str
    description: str
    tells: tuple[frozenset[str], ...]
    parse: Callable[[Record, str], Judgements]
    unless: frozenset[str] = frozenset()
    """Field names that tell that it is something else, though they hold nothing in this record."""


@dataclass(frozen=True)
class Reading:
    """How to read a file: in which format (None: recognise it), and which of its columns hold which field of ours."""

    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UserError for a format or a field that there is not."""
        if self.format is not None and self.format not in FORMATS:
            raise UserError(f"There is no format {self.format!r}.{closest(self.format, FORMATS)} Known formats: "
                            f"{', '.join(FORMATS)}.")
        for name in self.columns:
            if name not in FIELDS:
                raise UserError(f"There is no field {name!r} to map a column to.{closest(name, FIELDS)} Known fields: "
                                f"{', '.join(FIELDS)}.")


def closest(name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    """A sentence that offers the known name nearest to one that is not known, if any is near."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def parse(record: object, source: str, how: Reading | None = None) -> Judgements:
    """What `record` says, from a source of this name: at least one judgement, each a row or what is wrong with it."""
    try:
        if not isinstance(record, dict):
            raise Unusable("-", f"expected an object with named fields, found {type(record).__name__}")
        if how is not None and how.columns:
            record = _renamed(record, how.columns)
        known = {name: value for name, value in record.items() if value is not None} \
            if None in record.values() else record
        if how is not None and how.format is not None:
            return FORMATS[how.format].parse(known, source)
        return _recognised(tuple(known), tuple(record)).parse(known, source)
    except Unusable as problem:
        return (problem,)


def _renamed(record: Record, columns: Mapping[str, str]) -> dict[str, object]:
    """The record under our names for its mapped columns, which then hide other columns of those names."""
    mapped = {ours: record[theirs] for ours, theirs in columns.items() if theirs in record}
    return {name: value for name, value in record.items() if name not in columns.values()} | mapped


@lru_cache(maxsize=1024)
def _recognised(filled: tuple[str, ...], names: tuple[str, ...]) -> Format:
    """The first format with these field names, of which the `filled` ones hold something. Raises Unusable."""
    for known in FORMATS.values():
        if _tells(known, frozenset(filled), frozenset(names)):
            return known
    empty = [known for known in FORMATS.values() if _tells(known, frozenset(names), frozenset())]
    if empty:  # the one of which most is filled says what it lacks
        return max(empty, key=lambda known: max((len(keys & set(filled)) for keys in known.tells), default=0))
    lacking = _nearly(frozenset(names))
    if lacking is not None:
        raise Unusable(lacking, "it is missing")
    found = ", ".join(sorted(filled)[:SHOWN_KEYS])[:400] or "no fields"
    raise Unusable("-", f"expected {EXPECTED}; found {found}")


def _tells(known: Format, filled: frozenset[str], names: frozenset[str]) -> bool:
    """Whether all fields that tell the format hold something, or all are there and one that only it has does."""
    if known.name == "argilla":
        return is_argilla(tuple(filled))
    return any(keys <= filled or (keys <= names and (keys - SHARED_FIELDS) & filled) for keys in known.tells) \
        and not known.unless & (filled | names)


def _nearly(names: frozenset[str]) -> str | None:
    """The one field that is missing from a format of three or more."""
    missing = [keys - names for known in FORMATS.values() for keys in known.tells if len(keys) > 2]
    return next((next(iter(keys)) for keys in missing if len(keys) == 1), None)


def _one(parser: Callable[[Record, str], Row]) -> Callable[[Record, str], Judgements]:
    return lambda record, source: (parser(record, source),)


def _keys(*names: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(words.split()) for words in names)


def _formats() -> dict[str, Format]:
    responses = plain.RESPONSES
    listed = (
        Format("plumbline", "our own schema: kind, prompt, response or responses", _keys("kind prompt"),
               _one(plain.ours)),
        Format("alpaca-eval", "AlpacaEval annotations: a model's preference between two outputs",
               _keys("instruction output_1 output_2 preference"), _one(pairs.alpaca_eval)),
        Format("tldr", "OpenAI's TL;DR comparisons", _keys("info summaries choice"), _one(research.tldr)),
        Format("tldr-axis", "OpenAI's TL;DR evaluations by axis", _keys("info summary"), _one(research.tldr_axis)),
        Format("webgpt", "OpenAI's WebGPT comparisons", _keys("question answer_0 answer_1 score_0 score_1"),
               _one(research.webgpt)),
        Format("shp", "Stanford Human Preferences", _keys("history human_ref_A human_ref_B labels"),
               _one(research.shp)),
        Format("ultrafeedback", "UltraFeedback: completions scored by GPT-4", _keys("instruction completions"),
               _one(research.ultrafeedback)),
        Format("label-studio", "Label Studio's JSON export", _keys("data annotations"), label_studio),
        Format("argilla", "Argilla's exports, nested or flattened", (), argilla),
        Format("sharegpt", "pairs with ShareGPT conversations", _keys("conversations chosen rejected"),
               _one(pairs.sharegpt_pair)),
        Format("ultrafeedback-binarized", "pairs drawn from UltraFeedback",
               _keys("prompt prompt_id chosen rejected score_chosen score_rejected"),
               _one(pairs.ultrafeedback_binarized)),
        Format("trl", "TRL's pairs, the prompt apart or inside; texts or messages", _keys("prompt chosen rejected"),
               _one(pairs.pair)),
        Format("hh", "Anthropic HH: two dialogues with a common prompt", _keys("chosen rejected"), _one(pairs.pair)),
        Format("hh-chosen", "the chosen side of Anthropic HH as demonstrations; only by name", (),
               _one(demonstrations.chosen_side)),
        Format("ranking", "rankings of K responses: prompt, responses, ranks",
               _keys(*(f"prompt responses {ranks}" for ranks in plain.RANKS)), _one(plain.ranking)),
        Format("rating", "scalar ratings: prompt, response, score",
               _keys(*(f"prompt {text} {score}" for text in responses for score in plain.SCORES)), _one(plain.rating)),
        Format("thumbs", "thumbs up and down: prompt, response, thumb; also TRL's unpaired preference",
               _keys(*(f"prompt {text} {thumb}" for text in responses for thumb in plain.THUMB_FIELDS)),
               _one(plain.thumbs)),
        Format("messages", "conversations, the last answer being the demonstration",
               _keys("messages", "conversations"), _one(demonstrations.conversation)),
        Format("alpaca", "Alpaca instructions: instruction, input, output", _keys("instruction output"),
               _one(demonstrations.instruction)),
        Format("completion", "TRL's prompt and completion as demonstrations", _keys("prompt completion"),
               _one(demonstrations.completion), frozenset({*plain.THUMB_FIELDS, *plain.SCORES})),
    )
    return {known.name: known for known in listed}


FORMATS: Mapping[str, Format] = _formats()
