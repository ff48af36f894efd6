"""Fields that a format does not read: which may be left alone, and which change what the row says.

A field beside a judgement can turn it around (a verdict that the format does not know), change what was asked
(a system prompt, an image) or take it back (a status). A row with such a field that was not read is set
aside; the list is here, with the reasons, and `--leave NAME` says that one may be left alone after all.
"""

from collections.abc import Mapping
from functools import lru_cache

ASKED = "it is part of what was asked, and this format has no place for it"
"""The one reason that does not hold where the prompt says the same already."""
_SEEN = "the answer depends on something that is no text, which the model cannot be given"
_TOOLS = "the answer depends on tools, which the model cannot be given"
_JUDGED = "it may be the judgement, and this format does not read it"
_BEGUN = "the answer was begun for the model, and this format has no place for it"
_BACK = "it may take the judgement back"

CHANGES_MEANING: Mapping[str, str] = {
    **dict.fromkeys(("system", "system_prompt", "system_message", "history", "chat_history",
                     "conversation_history", "context", "input", "passage"), ASKED),
    **dict.fromkeys(("image", "images", "image_url", "pictures", "video", "videos", "audio", "audios",
                     "files", "attachments"), _SEEN),
    **dict.fromkeys(("tools", "functions", "tool_calls", "tool_call", "tool_call_id", "function_call"),
                    _TOOLS),
    **dict.fromkeys(("label", "labels", "kto_tag", "thumb", "thumbs", "feedback", "score", "scores", "rating",
                     "ratings", "reward", "preference", "preferred", "winner", "choice", "verdict",
                     "better_response_id", "ranks", "ranking", "rank", "chosen", "rejected", "is_chosen",
                     "is_correct",
                     "correct", "accepted", "is_accepted", "approved", "rejected_response",
                     "rejected_messages"),
                    _JUDGED),
    **dict.fromkeys(("prefix", "prefill", "response_prefix", "assistant_prefix"), _BEGUN),
    **dict.fromkeys(("deleted", "is_deleted", "was_cancelled", "withdrawn", "discarded", "status"), _BACK),
}
"""Why a row is set aside that holds a field of this name, whatever its case, which its format has not
read."""

STANDS = frozenset({"false", "0", "no", "completed", "complete", "submitted", "done", "finished", "final",
                    "ok", "active", "accepted", "approved", "published", "validated", "unchanged", "swapped"})
"""What a status says of a judgement that stands."""

LEFT_ALONE = frozenset({
    "id", "_id", "uuid", "idx", "index", "row_id", "example_id", "sample_id", "conversation_id",
    "question_id",
    "message_id", "prompt_id", "dialog_id", "record_id", "external_id", "split", "language", "lang", "model",
    "models",
    "generator", "metadata", "meta", "tags", "category", "topic", "task", "domain", "dataset", "url",
    "license", "created_at", "updated_at", "timestamp", "turn",
})
"""Fields of any format that describe a row and say nothing about which answer is better."""


def changes(place: str, value: object) -> str | None:
    """Return why a row cannot be used without this field; None if it can.

    `place` may lead to the field: `messages[].x`.
    """
    reason = CHANGES_MEANING.get(_name(place))
    stands = value is False or (isinstance(value, str) and value.strip().lower() in STANDS)
    return None if reason == _BACK and stands else reason


@lru_cache(maxsize=4096)
def is_left_alone(place: str, of_format: frozenset[str]) -> bool:
    """True if the field is known not to matter; names in `of_format` may be paths."""
    return place in of_format or place.partition(".")[0] in of_format or _name(place) in LEFT_ALONE


@lru_cache(maxsize=4096)
def _name(place: str) -> str:
    return place.rpartition(".")[2].lower().replace("-", "_").replace(" ", "_")
