"""Pairs with a better side: TRL with the prompt apart or inside, Anthropic HH, ShareGPT, UltraFeedback binarized.

The better side is `chosen`. Which of the two was shown first is not known, unless `shown_first` says `chosen` or
`rejected`; responses stand in that order in the row, and the chosen one first where nothing is known.
"""

from plumbline.preferences.conversations import (
    Unusable,
    any_answer,
    any_conversation,
    any_prompt,
    as_messages,
    as_prompt,
    as_text,
    common_prompt,
    user_prompt,
)
from plumbline.preferences.formats.fields import Record, as_number, chosen_pair, label_of, origin_of, two_texts
from plumbline.preferences.types import Comparison, Message, Prompt, Row

ALPACA_TIE = 1.5  # the middle between 1.0 for the first output and 2.0 for the second


def pair(record: Record, source: str) -> Comparison:
    """TRL and Anthropic HH: `chosen` and `rejected`, with or without `prompt`."""
    prompt, chosen, rejected = _sides(record)
    return chosen_pair(record, prompt, chosen, rejected, origin_of(record, source))


def ultrafeedback_binarized(record: Record, source: str) -> Row:
    """The pairs that were drawn from UltraFeedback's scores; equal scores are a tie."""
    prompt, chosen, rejected = _sides(record)
    scores = [as_number(record.get(field), field) for field in ("score_chosen", "score_rejected")]
    origin = origin_of(record, source, annotator="gpt-4", machine=True)
    row = chosen_pair(record, prompt, chosen, rejected, origin, strength=abs(scores[0] - scores[1]))
    if label_of(*scores) == "B":
        raise Unusable("score_rejected", f"expected at most score_chosen, {scores[0]}, found {scores[1]}")
    if scores[0] == scores[1]:
        return Comparison(row.prompt, row.responses, "tie", row.origin, row.strength)
    return row


def sharegpt_pair(record: Record, source: str) -> Row:
    """A conversation up to the user's turn, and the two answers to it."""
    turns = with_system(record, as_messages(record.get("conversations"), "conversations"))
    return chosen_pair(record, as_prompt(turns, "conversations"), any_answer(record.get("chosen"), "chosen"),
                       any_answer(record.get("rejected"), "rejected"), origin_of(record, source))


def alpaca_eval(record: Record, source: str) -> Row:
    """A real-valued preference between two outputs, given by a model."""
    preference = as_number(record.get("preference"), "preference")
    if not 1.0 <= preference <= 2.0:
        raise Unusable("preference", f"expected a number from 1.0 to 2.0, found {preference}")
    origin = origin_of(record, source, machine=True, part=record.get("dataset"))
    return Comparison(user_prompt(as_text(record.get("instruction"), "instruction")),
                      two_texts(record, ("output_1", "output_2")),
                      label_of(ALPACA_TIE, preference), origin, strength=2 * abs(preference - ALPACA_TIE))


def with_system(record: Record, turns: list[Message]) -> list[Message]:
    """The turns after the system message that stands in a field of its own, if one does."""
    system = record.get("system")
    if system is None or system == "":
        return turns
    return [Message("system", as_text(system, "system")), *turns]


def _sides(record: Record) -> tuple[Prompt, str, str]:
    given, chosen, rejected = (record.get(field) for field in ("prompt", "chosen", "rejected"))
    # UltraFeedback repeats the prompt within the responses' messages.
    if given is None or (isinstance(chosen, list) and len(chosen) > 1):
        return common_prompt(any_conversation(chosen, "chosen"), any_conversation(rejected, "rejected"))
    return any_prompt(given, "prompt"), any_answer(chosen, "chosen"), any_answer(rejected, "rejected")
