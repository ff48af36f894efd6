"""Each format's records, in that format's own field names, become the rows that a person would expect."""

import math

import pytest

from plumbline.preferences.conversations import Unusable
from plumbline.preferences.formats import parse
from plumbline.preferences.types import Comparison, Demonstration, Message, Origin, Ranking, Row, from_json, to_json

ASK = (Message("user", "Why is the sky blue?"),)
LONGER = (Message("system", "Be brief."), Message("user", "Hello"), Message("assistant", "Hi."),
          Message("user", "Why?"))
TURNS = [{"role": "user", "content": "Why is the sky blue?"}]


def pair(prompt=ASK, annotator=None):
    return Comparison(prompt, ("Scattering.", "Paint."), "A", Origin("file", annotator))


FORMATS = {
    "trl explicit texts": (
        {"prompt": "Why is the sky blue?", "chosen": "Scattering.", "rejected": "Paint."}, pair()),
    "trl explicit messages": (
        {"prompt": TURNS, "chosen": [{"role": "assistant", "content": "Scattering."}],
         "rejected": [{"role": "assistant", "content": "Paint."}]}, pair()),
    "trl implicit": (
        {"chosen": [*TURNS, {"role": "assistant", "content": "Scattering."}],
         "rejected": [*TURNS, {"role": "assistant", "content": "Paint."}]}, pair()),
    "ultrafeedback binarized": (
        {"prompt": "Why is the sky blue?", "prompt_id": "1", "score_chosen": 8.0, "score_rejected": 2.0,
         "messages": [*TURNS, {"role": "assistant", "content": "Scattering."}],
         "chosen": [*TURNS, {"role": "assistant", "content": "Scattering."}],
         "rejected": [*TURNS, {"role": "assistant", "content": "Paint."}]}, pair()),
    "anthropic hh": (
        {"chosen": "\n\nHuman: Why is the sky blue?\n\nAssistant: Scattering.",
         "rejected": "\n\nHuman: Why is the sky blue?\n\nAssistant: Paint."}, pair()),
    "anthropic hh, several turns": (
        {"chosen": "\n\nHuman: Hello\n\nAssistant: Hi.\n\nHuman: Why?\n\nAssistant: Scattering.",
         "rejected": "\n\nHuman: Hello\n\nAssistant: Hi.\n\nHuman: Why?\n\nAssistant: Paint."}, pair(LONGER[1:])),
    "hh with its prompt apart": (
        {"prompt": "\n\nHuman: Why is the sky blue?\n\nAssistant:", "chosen": "Scattering.", "rejected": "Paint."},
        pair()),
    "sharegpt pair": (
        {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hello"},
                           {"from": "gpt", "value": "Hi."}, {"from": "human", "value": "Why?"}],
         "chosen": {"from": "gpt", "value": "Scattering."}, "rejected": {"from": "gpt", "value": "Paint."}},
        pair(LONGER)),
    "sharegpt pair, system apart": (
        {"system": "Be brief.", "conversations": [{"from": "human", "value": "Why is the sky blue?"}],
         "chosen": {"from": "gpt", "value": "Scattering."}, "rejected": {"from": "gpt", "value": "Paint."}},
        pair((Message("system", "Be brief."), *ASK))),
    "alpaca": (
        {"instruction": "Why is the sky blue?", "input": "", "output": "Scattering."},
        Demonstration(ASK, "Scattering.", Origin("file"))),
    "alpaca with input": (
        {"instruction": "Translate.", "input": "Himmel", "output": "Sky."},
        Demonstration((Message("user", "Translate.\n\nHimmel"),), "Sky.", Origin("file"))),
    "messages": (
        {"messages": [*TURNS, {"role": "assistant", "content": "Scattering."}]},
        Demonstration(ASK, "Scattering.", Origin("file"))),
    "sharegpt conversation": (
        {"conversations": [{"from": "human", "value": "Why is the sky blue?"},
                           {"from": "gpt", "value": "Scattering."}]},
        Demonstration(ASK, "Scattering.", Origin("file"))),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_record_becomes_the_row_that_it_says(name):
    record, expected = FORMATS[name]
    assert parse(record, "file") == expected


@pytest.mark.parametrize(("preference", "label", "strength"), [
    (1.0, "A", 1.0), (1.25, "A", 0.5), (1.5, "tie", 0.0), (1.75, "B", 0.5), (2, "B", 1.0)])
def test_alpaca_eval_preference_above_the_middle_means_the_second_output(preference, label, strength):
    row = parse({"instruction": "Hi", "output_1": "one", "output_2": "two", "generator_1": "a", "generator_2": "b",
                 "annotator": "gpt4", "preference": preference}, "file")
    assert isinstance(row, Comparison)
    assert (row.responses, row.label, row.strength) == (("one", "two"), label, strength)
    assert row.origin == Origin("file", "gpt4")


def test_alpaca_eval_keeps_the_origin_of_the_prompt_as_part_of_the_source():
    row = parse(EVAL | {"dataset": "koala"}, "file")
    assert row.origin.source == "file/koala"


OWN: list[Row] = [
    Demonstration(LONGER, "Scattering.", Origin("house", None, "2026-11-21T09:00:00Z")),
    Comparison(ASK, ("one", "two"), "tie", Origin("house", "ada"), 0.25),
    Ranking(ASK, ("one", "two", "three"), (2, 1, 2), Origin("house", "ben")),
]


@pytest.mark.parametrize("row", OWN, ids=lambda row: type(row).__name__)
def test_our_own_schema_survives_the_round_trip(row):
    assert parse(to_json(row), "ignored, the row names its source") == row
    assert from_json(to_json(row)) == row


def test_a_null_counts_as_absent_because_data_sets_fill_columns_with_it():
    record = to_json(OWN[1]) | {"strength": None, "annotator": None, "time": None, "ranks": None}
    assert parse(record, "file") == Comparison(ASK, ("one", "two"), "tie", Origin("house"))


EXPLICIT = {"prompt": "Why?", "chosen": "Scattering.", "rejected": "Paint."}
EVAL = {"instruction": "Hi", "output_1": "one", "output_2": "two", "preference": 1.0}
RANKED = to_json(OWN[2])
BROKEN = [
    (EXPLICIT | {"rejected": "Scattering."}, "rejected", "same text"),
    (EXPLICIT | {"chosen": " \n"}, "chosen", "empty"),
    (EXPLICIT | {"chosen": 3}, "chosen", "expected a text, found int"),
    (EXPLICIT | {"chosen": "a\0b"}, "chosen", "NUL"),
    (EXPLICIT | {"chosen": "a\ud800b"}, "chosen", "surrogate"),
    (EXPLICIT | {"prompt": [{"role": "wizard", "content": "x"}]}, "prompt[0].role", "'wizard'"),
    (EXPLICIT | {"prompt": [*TURNS, *TURNS]}, "prompt", "roles out of order"),
    (EXPLICIT | {"prompt": [*TURNS, {"role": "assistant", "content": "x"}]}, "prompt", "ends with the user's turn"),
    ({"chosen": "just a text", "rejected": "another"}, "chosen", "beside a field `prompt`"),
    ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: other\n\nAssistant: c"}, "rejected",
     "same conversation"),
    ({"chosen": "\n\nHuman: a\n\nAssistant:", "rejected": "\n\nHuman: a\n\nAssistant: c"}, "chosen",
     "assistant's turn"),
    (EVAL | {"preference": 2.5}, "preference", "from 1.0 to 2.0"),
    (EVAL | {"preference": math.nan}, "preference", "number"),
    (EVAL | {"preference": True}, "preference", "number"),
    (EVAL | {"output_2": "one"}, "output_2", "same text"),
    (RANKED | {"ranks": [1, 2]}, "ranks", "3 ranks"),
    (RANKED | {"ranks": [0, 1, 2]}, "ranks", "from 1"),
    (RANKED | {"responses": ["one", "one", "two"]}, "responses", "same text"),
    (to_json(OWN[1]) | {"label": "C"}, "label", "A, B or tie"),
    ({"kind": "poem", "prompt": TURNS}, "kind", "'poem'"),
    ({"messages": TURNS}, "messages", "ends with the assistant's turn"),
    ({"colour": "blue"}, "-", "found colour"),
    ({}, "-", "no fields"),
    (["a list"], "-", "found list"),
]


@pytest.mark.parametrize(("record", "field", "reason"), BROKEN)
def test_an_unusable_record_names_the_field_and_the_reason(record, field, reason):
    with pytest.raises(Unusable) as caught:
        parse(record, "file")
    assert caught.value.field == field
    assert reason in caught.value.reason
