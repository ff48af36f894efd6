"""Each format's records, in that format's own field names, become the rows that a person would expect."""

import math
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from plumbline.errors import UserError
from plumbline.preferences.reading.conversations import Unusable
from plumbline.preferences.reading.formats import FORMATS, RECOGNISED, Reading, parse
from plumbline.preferences.reading.results import Unread
from plumbline.preferences.types import Comparison, Demonstration, Origin, Ranking, Rating, Row, from_json, to_json
from testing.format_fixtures import (
    ARGILLA,
    ARGILLA_FLAT,
    ASK,
    BINARIZED,
    EVAL,
    EXAMPLES,
    GOOD,
    HH,
    ITEMS,
    LINES,
    LONGER,
    TURNS,
    TWO_ANSWERS,
    ULTRAFEEDBACK,
    annotation,
    demonstration,
    label_studio,
    rating,
)


def only(record, how=RECOGNISED):
    (judged,) = parse(record, "file", how)
    return judged


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_record_becomes_the_rows_that_it_says(name):
    _, record, expected = EXAMPLES[name]
    assert list(parse(record, "file")) == expected


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_format_that_is_named_reads_the_same(name):
    named, record, expected = EXAMPLES[name]
    assert list(parse(record, "file", Reading(named))) == expected


def test_every_format_has_an_example():
    apart = {"plumbline", "hh-chosen", "label-studio-min"}
    assert {named for named, _, _ in EXAMPLES.values()} == FORMATS.keys() - apart


def test_the_documents_table_has_every_format_in_the_order_in_which_they_are_tried():
    text = (Path(__file__).parents[3] / "docs/data-formats.md").read_text(encoding="utf-8")
    table = text.partition("## Formats that can be imported")[2].partition("Notes:")[0]
    assert re.findall(r"^\| `([a-z][a-z-]*)` \|", table, re.MULTILINE) == list(FORMATS)


def test_the_other_axes_of_a_summary_are_known_and_left_alone():
    """As openai/summarize_from_feedback has them."""
    axes = {"overall": 6, "accuracy": 7, "coverage": 5, "coherence": 7, "compatible": None}
    record = {"info": {"post": "Long.", "title": "T", "subreddit": "r"}, "worker": "w", "batch": "b",
              "summary": {"text": "Short.", "policy": "ref", "note": "", "axes": axes}}
    unread = Unread()
    row, = parse(record, "tldr", RECOGNISED, unread)
    assert isinstance(row, Rating)
    assert row.score == 6
    assert (dict(unread.unknown), unread.left_alone["summary.axes.accuracy"]) == ({}, 1)


def test_the_chosen_side_of_hh_is_a_demonstration_when_it_is_asked_for():
    assert only(HH, Reading("hh-chosen")) == Demonstration(ASK, "Scattering.", Origin("file"))


@pytest.mark.parametrize(("preference", "label", "strength"), [
    (1.0, "A", 1.0), (1.25, "A", 0.5), (1.5, "tie", 0.0), (1.75, "B", 0.5), (2, "B", 1.0)])
def test_alpaca_eval_preference_above_the_middle_means_the_second_output(preference, label, strength):
    row = only(EVAL | {"preference": preference})
    assert (row.label, row.strength) == (label, strength)


@pytest.mark.parametrize(("spelt", "score"), [
    (True, 1), (1, 1), ("1", 1), ("true", 1), ("UP", 1), ("thumbs_up", 1), ("Thumbs Up", 1), ("👍", 1),
    (False, 0), (0, 0), ("0", 0), ("False", 0), ("down", 0), ("thumbs-down", 0), (0.0, 0), (-1, 0), ("-1", 0)])
@pytest.mark.parametrize("field", ["thumb", "feedback", "label"])
def test_thumbs_are_spelt_in_several_ways(field, spelt, score):
    assert only(LINES | {field: spelt}) == rating(float(score))


@pytest.mark.parametrize(("given", "time"), [
    ("2026-11-21T09:00:00Z", "2026-11-21T09:00:00Z"), ("2026-11-21T10:00:00+01:00", "2026-11-21T09:00:00Z"),
    ("2026-11-21 09:00:00", "2026-11-21T09:00:00"), ("2026-11-21", "2026-11-21"), ("20261121", "2026-11-21"),
    (0, "1970-01-01T00:00:00Z"), (1767225600, "2026-01-01T00:00:00Z"), (1767225600.5, "2026-01-01T00:00:00.500000Z"),
    (1767225600000, "2026-01-01T00:00:00Z"), (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00Z")])
def test_times_are_iso_8601_whatever_they_were(given, time):
    row = only(LINES | {"score": 1, "time": given})
    assert row.origin.time == time
    assert only(to_json(row)) == row


@pytest.mark.parametrize(("given", "reason"), [
    ("9999-12-31", "from 1970 to 2100, found 9999"), ("1969-12-31T23:59:59Z", "found 1969"), (-1, "since 1970"),
    (5e12, "found 2128"), (1e300, "since 1970"), ("yesterday", "found 'yesterday'"), (True, "found True"),
    ([2026], "found a list"), ("1_000", "found '1_000'"), ("2026-13-01", "ISO 8601")])
def test_a_time_that_is_none_is_named(given, reason):
    problem = only(LINES | {"score": 1, "time": given})
    assert isinstance(problem, Unusable)
    assert problem.field == "time"
    assert reason in problem.reason


OWN: list[Row] = [
    Demonstration(LONGER, "Scattering.", Origin("house", None, "2026-11-21T09:00:00Z")),
    Comparison(ASK, ("one", "two"), "tie", Origin("house", "ada", machine=True), 0.25),
    Ranking(ASK, ("one", "two", "three"), (2, 1, 2), Origin("house", "ben")),
    Rating(ASK, "one", 3.5, Origin("house", "ben", machine=False)),
]


@pytest.mark.parametrize("row", OWN, ids=lambda row: type(row).__name__)
def test_our_own_schema_survives_the_round_trip(row):
    assert only(to_json(row)) == row
    assert from_json(to_json(row)) == row


def test_a_null_counts_as_absent_because_data_sets_fill_columns_with_it():
    record = to_json(OWN[1]) | {"strength": None, "annotator": None, "time": None, "ranks": None, "machine": None}
    assert only(record) == Comparison(ASK, ("one", "two"), "tie", Origin("house"))


def test_a_rating_whose_score_is_not_there_is_no_demonstration():
    problem = only({"prompt": "Why?", "completion": "Because.", "label": None})
    assert (problem.field, problem.reason) == ("label", "it is missing")


def test_a_pair_without_its_worse_side_is_no_demonstration_of_its_better_side():
    problem = only(BINARIZED | {"rejected": None, "prompt_id": None})
    assert (problem.field, problem.reason) == ("rejected", "it is missing")


def test_kinds_joined_into_one_table_are_told_apart_by_what_is_filled():
    columns = dict.fromkeys(("messages", "chosen", "rejected", "completion", "response", "responses", "ranks"))
    assert only(columns | {"prompt": "Why is the sky blue?", "completion": "Scattering."}) == demonstration()
    assert only(columns | {"prompt": "Why?", "completion": "Because.", "score": None}).field == "score"
    assert only(columns | {"messages": [*TURNS, *GOOD], "prompt": "Why is the sky blue?"}) == demonstration()
    assert only(columns | LINES | {"score": 2}) == rating(2.0)


EXPLICIT = {"prompt": "Why?", "chosen": "Scattering.", "rejected": "Paint."}
RANKED = to_json(OWN[2])
THREE = {"prompt": "Why?", "responses": ["one", "two", "three"]}
BROKEN = [
    (EXPLICIT | {"rejected": "Scattering."}, "rejected", "same text"),
    (EXPLICIT | {"chosen": " \n"}, "chosen", "empty"),
    (EXPLICIT | {"chosen": None}, "chosen", "it is missing"),
    ({"prompt": "Why?", "rejected": "Paint."}, "chosen", "it is missing"),
    (EXPLICIT | {"chosen": 3}, "chosen", "expected a text, found int"),
    (EXPLICIT | {"chosen": "a\0b"}, "chosen", "NUL"),
    (EXPLICIT | {"chosen": "a\ud800b"}, "chosen", "surrogate"),
    (EXPLICIT | {"prompt": [{"role": "wizard", "content": "x"}]}, "prompt[0].role", "'wizard'"),
    (EXPLICIT | {"prompt": [*TURNS, *TURNS]}, "prompt", "roles out of order"),
    (EXPLICIT | {"prompt": [*TURNS, {"role": "assistant", "content": "x"}]}, "prompt", "ends with the user's turn"),
    (EXPLICIT | {"shown_first": "left"}, "shown_first", "found 'left'"),
    (EXPLICIT | {"strength": "much"}, "strength", "finite number"),
    (EXPLICIT | {"machine": "maybe"}, "machine", "expected true or false, found 'maybe'"),
    (EXPLICIT | {"source": {}}, "source", "found dict"),
    ({"chosen": "just a text", "rejected": "another"}, "chosen", "beside a field `prompt`"),
    ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: other\n\nAssistant: c"}, "rejected",
     "same conversation"),
    ({"chosen": "\n\nHuman: a\n\nAssistant:", "rejected": "\n\nHuman: a\n\nAssistant: c"}, "chosen",
     "assistant's turn"),
    (EVAL | {"preference": 2.5}, "preference", "from 1.0 to 2.0"),
    (EVAL | {"preference": math.nan}, "preference", "it is missing"),
    (EVAL | {"preference": 10**400}, "preference", "a huge number"),
    (EVAL | {"preference": True}, "preference", "number"),
    (EVAL | {"preference": None}, "preference", "it is missing"),
    (EVAL | {"output_2": EVAL["output_1"]}, "output_2", "same text"),
    (RANKED | {"ranks": [1, 2]}, "ranks", "3 ranks"),
    (RANKED | {"ranks": [0, 1, 2]}, "ranks", "from 1"),
    (RANKED | {"ranks": [1, 2, 10**400]}, "ranks", "from 1"),
    (RANKED | {"responses": ["one", "one", "two"]}, "responses", "same text"),
    (THREE | {"ranks": [1, 2, 2]}, "ranks", "rank 2 is given twice; ties are written in our own schema"),
    (THREE | {"ranking": [0, 1, 1]}, "ranking", "response 2 is given twice"),
    (THREE | {"ranking": ["one", "two"]}, "ranking", "all 3 responses"),
    (THREE | {"ranks": "best first"}, "ranks", "expected a list"),
    (to_json(OWN[1]) | {"label": "C"}, "label", "A, B or tie"),
    (to_json(OWN[3]) | {"score": math.inf}, "score", "finite"),
    ({"kind": "poem", "prompt": TURNS}, "kind", "'poem'"),
    ({"messages": TURNS}, "messages", "ends with the assistant's turn"),
    (ULTRAFEEDBACK | {"completions": ULTRAFEEDBACK["completions"][:1]}, "completions", "found 1"),
    (LINES | {"thumb": "sideways"}, "thumb", "found 'sideways'"),
    (ARGILLA | {"responses": {}}, "responses", "nobody"),
    (ARGILLA | {"fields": {"colour": "blue"}}, "fields", "found colour"),
    (ARGILLA_FLAT | {"preference.responses.status": ["discarded"]}, "responses.preference", "not submitted"),
    (label_studio(TWO_ANSWERS), "annotations", "nobody"),
    (label_studio(TWO_ANSWERS, annotation("pairwise", {"selected": "left"}, was_cancelled=True)),
     "annotations[0].was_cancelled", "skipped"),
    (label_studio(TWO_ANSWERS, annotation("textarea", {"text": ["so"]})), "annotations[0].result", "found textarea"),
    (label_studio(ITEMS, annotation("ranker", {"ranker": {"good": ["a"], "bad": ["b"]}})),
     "annotations[0].result[0].value.ranker", "no order"),
    ({"colour": "blue"}, "-", "found colour"),
    ({}, "-", "no fields"),
    (["a list"], "-", "found list"),
]


@pytest.mark.parametrize(("record", "field", "reason"), BROKEN)
def test_an_unusable_record_names_the_field_and_the_reason(record, field, reason):
    problem = only(record)
    assert isinstance(problem, Unusable)
    assert problem.field == field
    assert reason in problem.reason


def test_one_bad_judgement_of_a_record_does_not_spoil_the_others():
    good, bad = annotation("pairwise", {"selected": "left"}), annotation("pairwise", {"selected": "middle"})
    first, second, third = parse(label_studio(TWO_ANSWERS, good, bad, good), "file")
    assert first == third
    assert isinstance(second, Unusable)
    assert second.field == "annotations[1].result[0].value.selected"


@pytest.mark.parametrize(("how", "says"), [
    ({"format": "argila"}, "Did you mean 'argilla'"), ({"columns": {"promt": "x"}}, "Did you mean 'prompt'")])
def test_an_unknown_name_is_answered_with_the_closest(how, says):
    with pytest.raises(UserError, match=says):
        Reading(**how)
