"""Pairs with a better side: TRL with the prompt apart or inside, Anthropic HH, ShareGPT, UltraFeedback
binarized.

The better side is `chosen`. Which of the two was shown first is not known, unless `shown_first` says `chosen`
or `rejected`; responses stand in that order in the row, and the chosen one first where nothing is known.
Scores of the two sides, where a pair has them, must agree with that, and a pair whose sides are level is a
tie.
"""

from collections.abc import Sequence
from dataclasses import replace

from plumbline.preferences.reading.conversations import (
    Undecidable,
    Unusable,
    any_answer,
    any_conversation,
    any_prompt,
    as_messages,
    common_prompt,
    is_conversation,
    prompt_and_answer,
    written_messages,
)
from plumbline.preferences.reading.formats.asked import asked, prompt_name, with_the_rest
from plumbline.preferences.reading.formats.demonstrations import conversation_name
from plumbline.preferences.reading.formats.fields import (
    as_number,
    chosen_pair,
    distance,
    origin_of,
    two_texts,
)
from plumbline.preferences.reading.formats.record import Record
from plumbline.preferences.types import Comparison, Message, Prompt, Row, label_of

ALPACA_TIE = 1.5  # the middle between 1.0 for the first output and 2.0 for the second
SCORES = tuple((first.format("chosen"), first.format("rejected"))
               for first in ("score_{}", "{}_score", "{}-score", "rating_{}", "{}_rating", "{}-rating"))
WEIGHED = frozenset({"rating", "status", *(name for names in SCORES for name in names)})
STANDING = ("unchanged", "swapped")
"""What distilabel says of a pair whose sides were judged again: chosen is the better one now."""


def pair(record: Record, source: str) -> Comparison:
    """Return a pair of TRL or Anthropic HH: `chosen` and `rejected`, with or without `prompt`."""
    prompt, chosen, rejected = _sides(record)
    return _weighed(record, chosen_pair(record, prompt, chosen, rejected, origin_of(record, source)))


def ultrafeedback_binarized(record: Record, source: str) -> Row:
    """Return a pair that was drawn from UltraFeedback's scores; equal scores are a tie."""
    prompt, chosen, rejected = _sides(record)
    origin = origin_of(record, source, annotator="gpt-4", machine=True)
    for field in SCORES[0]:
        as_number(record.get(field), field)
    return _weighed(record, chosen_pair(record, prompt, chosen, rejected, origin))


def conversation_pair(record: Record, source: str) -> Row:
    """Return the pair of two answers to a conversation, each a text or a message."""
    field = conversation_name(record)
    turns = as_messages(record.get(field), field)
    # Not the prompt, but one side again: what the sides share is the prompt.
    if turns[-1].role == "assistant":
        return pair(record, source)
    prompt = with_the_rest(record, turns, field)
    chosen, rejected = (any_answer(record.get(side), side) for side in ("chosen", "rejected"))
    return _weighed(record, chosen_pair(record, prompt, chosen, rejected, origin_of(record, source)))


def conversation_and_rejected(record: Record, source: str) -> Row:
    """Return ms-swift's pair: a conversation with the chosen answer, and the rejected one apart."""
    turns, chosen = prompt_and_answer(as_messages(record.get("messages"), "messages"), "messages")
    prompt = with_the_rest(record, turns, "messages")
    rejected = any_answer(record.get("rejected_response"), "rejected_response")
    return _weighed(record, chosen_pair(record, prompt, chosen, rejected, origin_of(record, source)))


def alpaca_eval(record: Record, source: str) -> Row:
    """Return a comparison by a model that gives a real-valued preference between two outputs.

    0 is a draw, as in AlpacaEval's own computation of win rates.
    """
    preference = as_number(record.get("preference"), "preference") or ALPACA_TIE
    if not 1.0 <= preference <= 2.0:
        raise Undecidable("preference", f"expected a number from 1.0 to 2.0, found {preference}, so that "
                                        "this file has another scale, on which 1 may mean either output. "
                                        "Bring its numbers onto this one, where 1 is output_1 and 1.5 a tie")
    origin = origin_of(record, source, machine=True, part=record.get("dataset"))
    return Comparison(asked(record), two_texts(record, ("output_1", "output_2")),
                      label_of(ALPACA_TIE, preference), origin, strength=2 * abs(preference - ALPACA_TIE))


def _sides(record: Record) -> tuple[Prompt, str, str]:
    """Return the prompt, the better and the worse response. Raises Unusable.

    Where a side is a whole conversation, its prompt is inside, and one that stands apart must agree.
    """
    name = prompt_name(record)
    given, chosen, rejected = (written_messages(record.get(field), field)
                               for field in (name, "chosen", "rejected"))
    if given is not None and not (is_conversation(chosen) or is_conversation(rejected)):
        return asked(record), any_answer(chosen, "chosen"), any_answer(rejected, "rejected")
    turns, better, worse = common_prompt(any_conversation(chosen, "chosen"),
                                         any_conversation(rejected, "rejected"))
    if given is not None:
        turns = _agreed(any_prompt(given, name), turns, given, name)
    return with_the_rest(record, turns, name), better, worse


def _agreed(apart: Prompt, inside: Prompt, given: object, name: str) -> Prompt:
    """Return the prompt that a record gives twice, apart and within both sides.

    Raises Unusable if the two differ.

    Apart it may be a text, then it is the first or the last user turn, or it may have the system message
    alone.
    """
    if isinstance(given, str) and len(apart) == 1:
        asked_inside = [turn.content for turn in inside if turn.role == "user"]
        if apart[0].content.strip() in (asked_inside[0].strip(), asked_inside[-1].strip()):
            return inside
    elif _spoken(apart) == _spoken(inside) and ((one := _systems(apart)) == (other := _systems(inside))
                                                or not one or not other):
        return max(apart, inside, key=len)
    raise Unusable(name, "it is not what was asked according to chosen and rejected, which repeat the "
                         "conversation")


def _spoken(prompt: Sequence[Message]) -> list[Message]:
    return [turn for turn in prompt if turn.role != "system"]


def _systems(prompt: Sequence[Message]) -> list[Message]:
    return [turn for turn in prompt if turn.role == "system"]


def _weighed(record: Record, row: Comparison) -> Comparison:
    """Return the pair with what the record's other fields say of the sides.

    Raises Unusable if they contradict it.
    """
    if not record.may_hold(WEIGHED):
        return row
    for names in SCORES:
        if not all(record.holds(name) for name in names):
            continue
        better, worse = (as_number(record.get(name), name) for name in names)
        if worse > better:
            raise Unusable(names[1], f"expected at most {names[0]}, {better}, found {worse}")
        row = replace(row, label="tie" if better == worse else row.label,
                      strength=distance(better, worse) if row.strength is None else row.strength)
    ratings = record.peek("rating")
    if isinstance(ratings, list) and len(ratings) == 2:  # distilabel's, in an order of its own
        record.get("rating")
        if ratings[0] == ratings[1]:
            row = replace(row, label="tie")
    status = record.peek("status")
    if isinstance(status, str) and (spelt := status.strip().lower()) in ("tie", *STANDING):
        record.get("status")
        if spelt == "tie":
            row = replace(row, label="tie")
    return row
