"""The import formats that are known: by which field names each is told, what reads it, and what it leaves
alone.

They are tried in this order; the more telling names come first, because data sets carry extra columns.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from plumbline.preferences.reading.formats import (
    demonstrations,
    pairs,
    plain,
    rankings,
    research,
    trees,
    two_responses,
)
from plumbline.preferences.reading.formats.annotation_tools.argilla import argilla, is_argilla
from plumbline.preferences.reading.formats.annotation_tools.label_studio import flat, label_studio
from plumbline.preferences.reading.formats.asked import PROMPTS
from plumbline.preferences.reading.formats.fields import Judgements
from plumbline.preferences.reading.formats.record import Record
from plumbline.preferences.types import Row

VERDICTS = (*plain.THUMB_FIELDS, *plain.SCORES)
SHARED_FIELDS = frozenset({"prompt", "instruction", "response", "completion", "output", "messages",
                           "conversations", "question", "query", "info", "data"})
"""Fields that tell little: a record that lacks something beside one of these may be of another format."""


@dataclass(frozen=True)
class Format:
    """One import format: its name for `--format`, what it is, and the field names that tell it (any of the
    sets)."""

    name: str
    description: str
    tells: tuple[frozenset[str], ...]
    parse: Callable[[Record, str], Judgements]
    unless: frozenset[str] = frozenset()
    """Field names that tell that it is something else, though they hold nothing in this record."""
    leaves: frozenset[str] = frozenset()
    """Fields of this format that say nothing about which answer is better; `info.id` lies in the object
    `info`."""

    def is_told_by(self, filled: frozenset[str], names: frozenset[str]) -> bool:
        """True if a set of telling fields is filled, or is there and its unshared fields are filled."""
        if self.name == "argilla":
            return is_argilla(tuple(filled))
        if self.unless & (filled | names):
            return False
        return any(keys <= filled or (keys <= names and (keys - SHARED_FIELDS) & filled)
                   for keys in self.tells)


def _one(parser: Callable[[Record, str], Row]) -> Callable[[Record, str], Judgements]:
    return lambda record, source: (parser(record, source),)


def _keys(*names: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(words.split()) for words in names)


def _each(*fields: tuple[str, ...]) -> tuple[frozenset[str], ...]:
    """Return every choice of one name for each field."""
    return tuple(frozenset(names) for names in product(*fields))


def _sided(*verdicts: str) -> tuple[frozenset[str], ...]:
    """Return the names of two responses and one of these verdicts, in every spelling."""
    return tuple(frozenset((*sides, verdict)) for sides in two_responses.SIDES for verdict in verdicts)


def _columns() -> Iterator[frozenset[str]]:
    """Yield the names of two responses and their ranks, in every spelling."""
    for sides in two_responses.SIDES:
        for spelt in rankings.RANK_OF:
            yield frozenset(sides) | {rankings.rank_of(side, spelt) for side in sides}


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


_OF_TREES = frozenset({"message_tree_id", *(f"{place}.{name}" for place in ("prompt", "replies") for name in (
    "message_id", "parent_id", "user_id", "created_date", "lang", "labels", "emojis", "detoxify",
    "review_count", "review_result", "synthetic", "model_name", "rank", "role", "text"))})
"""What OpenAssistant says of a message. A rank of one of the user's turns compares questions; a text that was
not read is that of an answer that is left out, so that the count says how many."""

_LISTED = (
    Format("plumbline", "our own schema: kind, prompt, response or responses", _keys("kind prompt"),
           _one(plain.ours)),
    Format("alpaca-eval", "AlpacaEval annotations: a model's preference between two outputs",
           _keys("instruction output_1 output_2 preference"), _one(pairs.alpaca_eval),
           leaves=_names("generator_1 generator_2 raw_completion raw_preference date version "
                         "price_per_example time_per_example referenced_models")),
    Format("tldr", "OpenAI's TL;DR comparisons", _keys("info summaries choice"), _one(research.tldr),
           leaves=_names("info.id info.site info.title info.subreddit batch extra summaries.policy "
                         "summaries.note")),
    Format("tldr-axis", "OpenAI's TL;DR evaluations by axis", _keys("info summary"), _one(research.tldr_axis),
           leaves=_names("info.id info.site info.title info.subreddit batch summary.policy summary.note "
                         "summary.axes.accuracy summary.axes.coverage summary.axes.coherence "
                         "summary.axes.compatible")),
    Format("webgpt", "OpenAI's WebGPT comparisons", _keys("question answer_0 answer_1 score_0 score_1"),
           _one(research.webgpt), leaves=_names("quotes_0 quotes_1 tokens_0 tokens_1 question.id")),
    Format("shp", "Stanford Human Preferences", _keys("history human_ref_A human_ref_B labels"),
           _one(research.shp),
           leaves=_names("post_id upvote_ratio c_root_id_A c_root_id_B created_at_utc_A created_at_utc_B "
                         "score_A score_B seconds_difference")),
    Format("ultrafeedback", "UltraFeedback: completions scored by GPT-4", _keys("instruction completions"),
           _one(research.ultrafeedback),
           leaves=_names("correct_answers incorrect_answers completions.model completions.principle "
                         "completions.custom_system_prompt completions.critique completions.annotations "
                         "completions.overall_score completions.fine-grained_score")),
    Format("label-studio", "Label Studio's JSON export", _keys("data annotations"), label_studio,
           leaves=_names("predictions drafts project file_upload inner_id total_annotations "
                         "cancelled_annotations total_predictions comment_count unresolved_comment_count "
                         "comment_authors last_comment_updated_at updated_by is_labeled overlap allow_skip "
                         "storage_filename annotators agreement reviewed data.id")),
    Format("label-studio-min", "Label Studio's JSON_MIN and CSV exports, which are refused",
           _keys("annotation_id annotator lead_time"), flat),
    Format("argilla", "Argilla's exports, nested or flattened", (), argilla,
           leaves=_names("suggestions vectors status _server_id inserted_at dataset_id dataset")),
    Format("arena", "Chatbot Arena and MT-bench: two conversations and the winner",
           _keys("conversation_a conversation_b winner"), _one(two_responses.arena),
           leaves=_names("model_a model_b anony tstamp toxic_chat_tag openai_moderation "
                         "evaluation_session_id evaluation_order full_conversation conv_metadata "
                         "category_tag dedup_tag is_code is_refusal occupational_tags")),
    Format("lmsys", "LMSYS's columns: two responses, and a flag for each outcome",
           _keys("response_a response_b winner_model_a winner_model_b"), _one(two_responses.lmsys),
           leaves=_names("model_a model_b")),
    Format("helpsteer", "HelpSteer2 and 3: two responses, and a preference from -3 to 3",
           _each(("response_1", "response1"), ("response_2", "response2"), two_responses.STRENGTHS),
           _one(two_responses.helpsteer),
           leaves=_names("preference_statement preference_elaboration three_most_similar_preferences "
                         "all_preferences_unprocessed individual_preference")),
    Format("safe-rlhf", "PKU-SafeRLHF: two responses, the better one, and the safer one",
           _keys("response_0 response_1 better_response_id"), _one(two_responses.safe_rlhf),
           leaves=_names("safer_response_id is_response_0_safe is_response_1_safe response_0_source "
                         "response_1_source response_0_harm_category response_1_harm_category "
                         "response_0_severity_level response_1_severity_level response_0_sha256 "
                         "response_1_sha256")),
    Format("openai", "OpenAI's preference fine-tuning", _keys("input preferred_output non_preferred_output"),
           _one(two_responses.openai), leaves=_names("input.parallel_tool_calls")),
    Format("oasst", "OpenAssistant's trees: a ranking for each turn with ranked answers",
           _keys("message_tree_id prompt"), trees.oasst, leaves=_OF_TREES),
    Format("sharegpt", "pairs with ShareGPT conversations", _keys("conversations chosen rejected"),
           _one(pairs.conversation_pair)),
    Format("ultrafeedback-binarized", "pairs drawn from UltraFeedback",
           _keys("prompt prompt_id chosen rejected score_chosen score_rejected"),
           _one(pairs.ultrafeedback_binarized), leaves=_names("messages")),
    Format("trl", "TRL's pairs, the prompt apart or inside; texts or messages",
           _each(PROMPTS, ("chosen",), ("rejected",)), _one(pairs.pair)),
    Format("messages-pair", "a conversation in messages, and the two answers to it",
           _keys("messages chosen rejected"), _one(pairs.conversation_pair)),
    Format("messages-rejected", "ms-swift: a conversation, and the answer that was rejected",
           _keys("messages rejected_response"), _one(pairs.conversation_and_rejected)),
    Format("hh", "Anthropic HH: two dialogues with a common prompt", _keys("chosen rejected"),
           _one(pairs.pair)),
    Format("hh-chosen", "the chosen side of Anthropic HH as demonstrations; only by name", (),
           _one(demonstrations.chosen_side), leaves=_names("rejected")),
    Format("two-responses", "two responses, and which of them is better", _sided(*two_responses.VERDICTS),
           _one(two_responses.two_responses), leaves=_names("model_a model_b model_0 model_1 model_2")),
    Format("ranking-in-columns", "rankings with a column for each response and each rank",
           tuple(_columns()), _one(rankings.ranking_in_columns)),
    Format("ranking", "rankings of K responses: prompt, responses, ranks",
           _each(PROMPTS, ("responses",), plain.RANKS), _one(plain.ranking)),
    Format("ranked-list", "rankings as a list of texts with ranks, such as Nectar",
           _each(PROMPTS, rankings.LISTS), _one(rankings.ranked_list),
           leaves=_names("turns num_responses good_natured")),
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
