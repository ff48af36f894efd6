"""The import formats that are known: by which field names each is told, what reads it, and what it leaves alone.

They are tried in this order; the more telling names come first, because data sets carry extra columns.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

from plumbline.preferences.formats import demonstrations, pairs, plain, research
from plumbline.preferences.formats.argilla import argilla, is_argilla
from plumbline.preferences.formats.asked import PROMPTS
from plumbline.preferences.formats.fields import Judgements
from plumbline.preferences.formats.label_studio import flat, label_studio
from plumbline.preferences.formats.record import Record
from plumbline.preferences.types import Row

VERDICTS = (*plain.THUMB_FIELDS, *plain.SCORES)
SHARED_FIELDS = frozenset({"prompt", "instruction", "response", "completion", "output", "messages", "conversations",
                           "question", "query", "info", "data"})
"""Fields that tell little: a record that lacks something beside one of these may be of another format."""


@dataclass(frozen=True)
class Format:
    """One import format: its name for `--format`, what it is, and the field names that tell it (any of the sets)."""

    name: str
    description: str
    tells: tuple[frozenset[str], ...]
    parse: Callable[[Record, str], Judgements]
    unless: frozenset[str] = frozenset()
    """Field names that tell that it is something else, though they hold nothing in this record."""
    leaves: frozenset[str] = frozenset()
    """Fields of this format that say nothing about which answer is better; `info.id` lies in the object `info`."""

    def is_told_by(self, filled: frozenset[str], names: frozenset[str]) -> bool:
        """Whether all fields that tell it hold something, or all are there and one that only it has does."""
        if self.name == "argilla":
            return is_argilla(tuple(filled))
        return any(keys <= filled or (keys <= names and (keys - SHARED_FIELDS) & filled) for keys in self.tells) \
            and not self.unless & (filled | names)


def _one(parser: Callable[[Record, str], Row]) -> Callable[[Record, str], Judgements]:
    return lambda record, source: (parser(record, source),)


def _keys(*names: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(words.split()) for words in names)


def _each(*fields: tuple[str, ...]) -> tuple[frozenset[str], ...]:
    """Every choice of one name for each field."""
    return tuple(frozenset(names) for names in product(*fields))


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


_LISTED = (
    Format("plumbline", "our own schema: kind, prompt, response or responses", _keys("kind prompt"), _one(plain.ours)),
    Format("alpaca-eval", "AlpacaEval annotations: a model's preference between two outputs",
           _keys("instruction output_1 output_2 preference"), _one(pairs.alpaca_eval),
           leaves=_names("generator_1 generator_2 raw_completion raw_preference date version price_per_example "
                         "time_per_example referenced_models")),
    Format("tldr", "OpenAI's TL;DR comparisons", _keys("info summaries choice"), _one(research.tldr),
           leaves=_names("info.id info.site info.title info.subreddit batch extra summaries.policy summaries.note")),
    Format("tldr-axis", "OpenAI's TL;DR evaluations by axis", _keys("info summary"), _one(research.tldr_axis),
           leaves=_names("info.id info.site info.title info.subreddit batch summary.policy summary.note summary.axes")),
    Format("webgpt", "OpenAI's WebGPT comparisons", _keys("question answer_0 answer_1 score_0 score_1"),
           _one(research.webgpt), leaves=_names("quotes_0 quotes_1 tokens_0 tokens_1 question.id")),
    Format("shp", "Stanford Human Preferences", _keys("history human_ref_A human_ref_B labels"), _one(research.shp),
           leaves=_names("post_id upvote_ratio c_root_id_A c_root_id_B created_at_utc_A created_at_utc_B score_A "
                         "score_B seconds_difference")),
    Format("ultrafeedback", "UltraFeedback: completions scored by GPT-4", _keys("instruction completions"),
           _one(research.ultrafeedback),
           leaves=_names("correct_answers incorrect_answers completions.model completions.principle "
                         "completions.custom_system_prompt completions.critique completions.annotations "
                         "completions.overall_score completions.fine-grained_score")),
    Format("label-studio", "Label Studio's JSON export", _keys("data annotations"), label_studio,
           leaves=_names("predictions drafts project file_upload inner_id total_annotations cancelled_annotations "
                         "total_predictions comment_count unresolved_comment_count comment_authors "
                         "last_comment_updated_at updated_by is_labeled overlap allow_skip storage_filename "
                         "annotators agreement reviewed data.id")),
    Format("label-studio-min", "Label Studio's JSON_MIN and CSV exports, which are refused",
           _keys("annotation_id annotator lead_time"), flat),
    Format("argilla", "Argilla's exports, nested or flattened", (), argilla,
           leaves=_names("suggestions vectors status _server_id inserted_at dataset_id dataset")),
    Format("sharegpt", "pairs with ShareGPT conversations", _keys("conversations chosen rejected"),
           _one(pairs.conversation_pair)),
    Format("ultrafeedback-binarized", "pairs drawn from UltraFeedback",
           _keys("prompt prompt_id chosen rejected score_chosen score_rejected"), _one(pairs.ultrafeedback_binarized),
           leaves=_names("messages")),
    Format("trl", "TRL's pairs, the prompt apart or inside; texts or messages",
           _each(PROMPTS, ("chosen",), ("rejected",)), _one(pairs.pair)),
    Format("messages-pair", "a conversation in messages, and the two answers to it",
           _keys("messages chosen rejected"), _one(pairs.conversation_pair)),
    Format("messages-rejected", "ms-swift: a conversation, and the answer that was rejected",
           _keys("messages rejected_response"), _one(pairs.conversation_and_rejected)),
    Format("hh", "Anthropic HH: two dialogues with a common prompt", _keys("chosen rejected"), _one(pairs.pair)),
    Format("hh-chosen", "the chosen side of Anthropic HH as demonstrations; only by name", (),
           _one(demonstrations.chosen_side), leaves=_names("rejected")),
    Format("ranking", "rankings of K responses: prompt, responses, ranks",
           _each(PROMPTS, ("responses",), plain.RANKS), _one(plain.ranking)),
    Format("rating", "scalar ratings: prompt, response, score", _each(PROMPTS, plain.RESPONSES, plain.SCORES),
           _one(plain.rating)),
    Format("thumbs", "thumbs up and down: prompt, response, thumb; also TRL's unpaired preference",
           _each(PROMPTS, plain.RESPONSES, plain.THUMB_FIELDS), _one(plain.rating)),
    Format("messages", "conversations, the last answer being the demonstration, or rated",
           _keys("messages", "conversations"), _one(demonstrations.conversation)),
    Format("alpaca", "Alpaca instructions: instruction, input, output; the output may be rated",
           _keys("instruction output"), _one(demonstrations.instruction)),
    Format("completion", "TRL's prompt and completion as demonstrations", _keys("prompt completion"),
           _one(demonstrations.completion), frozenset(VERDICTS)),
)

FORMATS: Mapping[str, Format] = {known.name: known for known in _LISTED}
"""The formats by their names, in the order in which they are tried."""
