"""Nothing that a record says is lost in silence: a field is read, left alone by name, counted, or sets it aside."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.errors import UserError
from plumbline.preferences.batches.batch import write_batch
from plumbline.preferences.reading.conversations import Unusable
from plumbline.preferences.reading.formats import FORMATS, Reading, parse
from plumbline.preferences.reading.formats.annotation_tools.tasks import PROMPTS as TASK_PROMPTS
from plumbline.preferences.reading.formats.meaning import CHANGES_MEANING, LEFT_ALONE
from plumbline.preferences.reading.read import read_file
from plumbline.preferences.reading.results import Unread
from plumbline.preferences.types import Comparison, Message, Rating, to_line
from testing.depth import examples
from testing.format_fixtures import ASK, BAD, EXAMPLES, GOOD, TURNS

TOOLS = ("argilla", "label-studio")
PLAIN = sorted(name for name, (known, _, _) in EXAMPLES.items() if known not in TOOLS)
PAIR = {"prompt": "Why is the sky blue?", "chosen": "Scattering.", "rejected": "Paint."}
SYSTEM = Message("system", "Answer like a sailor.")

unknown_names = st.text("abcdefgh", min_size=4, max_size=9).map("x_".__add__)
known_names = st.sampled_from(sorted(LEFT_ALONE - {*TASK_PROMPTS, "dataset", "domain", "turn"}))
somethings = st.sampled_from(["zebra", 7, 0.5, True, ["zebra"], {"inner": 1}])
nothings = st.sampled_from([None, "", " ", [], {}, "[]", "null", float("nan"), [None], {"inner": ""}])


@examples(300)
@given(st.sampled_from(sorted(EXAMPLES)), st.dictionaries(unknown_names, somethings, max_size=3),
       st.dictionaries(known_names, somethings, max_size=3), st.dictionaries(unknown_names.map(str.upper), nothings))
def test_extra_fields_change_no_row_and_are_all_accounted_for(name, unknown, known, empty):
    _, record, expected = EXAMPLES[name]
    known = {field: value for field, value in known.items() if field not in record}
    before, after = Unread(), Unread()
    assert list(parse(record, "file", unread=before)) == expected
    assert list(parse(known | record | unknown | empty, "file", unread=after)) == expected
    assert {field: n for field, n in after.unknown.items() if field not in before.unknown} == dict.fromkeys(unknown, 1)
    assert after.left_alone.keys() - before.left_alone.keys() == known.keys()


@pytest.mark.parametrize("name", PLAIN)
def test_a_field_that_changes_what_a_row_says_is_never_passed_over(name):
    _, record, expected = EXAMPLES[name]
    for field in CHANGES_MEANING.keys() - record.keys():
        for judged in parse(record | {field: "zebra-7"}, "file"):
            assert isinstance(judged, Unusable) or ("zebra-7" in to_line(judged) and judged not in expected), field


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("field", ["system", "system_prompt"])
def test_a_system_prompt_is_never_lost(name, field):
    _, record, expected = EXAMPLES[name]
    for judged, without in zip(parse({field: SYSTEM.content} | record, "file"), expected, strict=True):
        if without.prompt[0].role == "system":  # two that differ: nobody knows which one the answers followed
            assert isinstance(judged, Unusable) or field in record
        else:
            assert judged.prompt == (SYSTEM, *without.prompt)


@pytest.mark.parametrize("name", sorted(name for name, (_, _, rows) in EXAMPLES.items()
                                        if all(isinstance(row, Comparison) for row in rows)))
def test_chosen_and_rejected_stay_where_they_are_whatever_stands_beside_them(name):
    _, record, expected = EXAMPLES[name]
    beside = {"id": 1, "x_comment": "The rejected one is better, in my view.", "x_winner_of": "rejected"}
    for shuffled in (beside | record, record | beside, dict(reversed((beside | record).items()))):
        found = list(parse(shuffled, "file"))
        assert [(row.chosen, row.rejected, row.label == "tie") for row in found] == \
            [(row.chosen, row.rejected, row.label == "tie") for row in expected]


@pytest.mark.parametrize(("record", "score"), [
    ({"messages": [*TURNS, *BAD], "label": False}, 0.0),
    ({"messages": [*TURNS, *GOOD], "kto_tag": True}, 1.0),
    ({"conversations": [{"from": "human", "value": ASK[0].content}, {"from": "gpt", "value": "Paint."}],
      "rating": 2}, 2.0),
    ({"instruction": ASK[0].content, "output": "Paint.", "score": "1.5"}, 1.5),
    ({"instruction": ASK[0].content, "input": "", "output": "Paint.", "feedback": "thumbs_down"}, 0.0),
    ({"prompt": TURNS, "completion": BAD, "kto_tag": "false"}, 0.0),
    ({"query": ASK[0].content, "response": "Paint.", "label": 0}, 0.0),
])
def test_an_answer_with_a_verdict_beside_it_is_rated_and_not_imitated(record, score):
    (row,) = parse(record, "file")
    assert isinstance(row, Rating)
    assert (row.prompt, row.score) == (ASK, score)


@pytest.mark.parametrize("verdict", [{"label": None}, {"score": ""}, {"kto_tag": float("nan")}])
def test_an_answer_whose_verdict_is_empty_is_not_imitated(verdict):
    for record in ({"messages": [*TURNS, *BAD]}, {"instruction": "Why?", "output": "Paint."}):
        (problem,) = parse(record | verdict, "file")
        assert isinstance(problem, Unusable)
        assert problem.field == next(iter(verdict))


def test_two_verdicts_on_one_answer_are_one_too_many():
    (problem,) = parse({"messages": [*TURNS, *GOOD], "label": True, "score": 0.1}, "file")
    assert (problem.field, "may be the judgement" in problem.reason) == ("score", True)
    assert parse({"messages": [*TURNS, *GOOD], "label": True, "score": 0.1}, "file",
                 Reading(leave=frozenset({"label"})))[0].score == 0.1


LONG = (Message("system", "Be brief."), Message("user", "Hello"), Message("assistant", "Hi."), Message("user", "Why?"))


@pytest.mark.parametrize("beside", [
    {"system": "Be brief.", "history": [["Hello", "Hi."]]},
    {"system_message": "Be brief.", "history": [{"role": "user", "content": "Hello"},
                                                {"role": "assistant", "content": "Hi."}]},
    {"chat_history": '[["Hello", "Hi."]]', "system_prompt": "Be brief."},
])
@pytest.mark.parametrize("record", [
    {"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
    {"instruction": "Why?", "output": "Because."},
    {"prompt": [{"role": "user", "content": "Why?"}], "responses": ["Because.", "No."], "ranks": [1, 2]},
    {"question": "Why?", "response": "Because.", "score": 3},
    {"prompt": "Why?", "completion": "Because."},
    {"kind": "rating", "prompt": "Why?", "response": "Because.", "score": 3, "source": "house"},
    {"messages": [{"role": "user", "content": "Why?"}], "chosen": "Because.", "rejected": "No."},
])
def test_what_was_said_before_the_prompt_is_part_of_it(record, beside):
    (row,) = parse(record | beside, "file")
    assert row.prompt == LONG


@pytest.mark.parametrize(("beside", "text"), [
    ({"context": "It is noon."}, "It is noon.\n\nWhy is the sky blue?"),
    ({"context": ["It is noon.", "", "It is hot."]}, "It is noon.\n\nIt is hot.\n\nWhy is the sky blue?"),
    ({"input": "In one word."}, "Why is the sky blue?\n\nIn one word."),
    ({"passage": "Noon.", "input": "Say."}, "Noon.\n\nWhy is the sky blue?\n\nSay."),
    ({"context": "Why is the sky blue?"}, "Why is the sky blue?"),
])
def test_what_stands_around_the_prompt_is_part_of_it(beside, text):
    (row,) = parse(PAIR | beside, "file")
    assert row.prompt == (Message("user", text),)


def test_a_history_that_is_no_history_is_named():
    (problem,) = parse(PAIR | {"history": [["Hello"]]}, "file")
    assert (problem.field, "a question and its answer" in problem.reason) == ("history[0]", True)


@pytest.mark.parametrize(("prompt", "system"), [
    ([{"role": "system", "content": "Be brief."}, *TURNS], True), (TURNS, False), (ASK[0].content, False)])
@pytest.mark.parametrize("inside", [[], [{"role": "system", "content": "Be brief."}]])
def test_a_prompt_apart_and_one_inside_are_one(prompt, system, inside):
    record = {"prompt": prompt, "chosen": [*inside, *TURNS, *GOOD], "rejected": [*inside, *TURNS, *BAD]}
    (row,) = parse(record, "file")
    assert row.prompt == ((Message("system", "Be brief."),) if system or inside else ()) + ASK


@pytest.mark.parametrize("prompt", [
    "Why is the grass green?", [{"role": "user", "content": "Why is the grass green?"}],
    [{"role": "system", "content": "Talk a lot."}, *TURNS]])
def test_a_prompt_that_is_another_than_the_one_inside_sets_the_row_aside(prompt):
    brief = {"role": "system", "content": "Be brief."}
    (problem,) = parse({"prompt": prompt, "chosen": [brief, *TURNS, *GOOD], "rejected": [brief, *TURNS, *BAD]}, "file")
    assert isinstance(problem, Unusable)
    assert problem.field == "prompt"


@pytest.mark.parametrize(("record", "field"), [
    (PAIR | {"images": ["a.png"]}, "images"), (PAIR | {"video": "a.mp4"}, "video"),
    (PAIR | {"tools": '[{"name": "search"}]'}, "tools"),
    ({"messages": [*TURNS, GOOD[0] | {"tool_calls": [{"id": 1}]}]}, "messages[].tool_calls"),
    ({"prompt": TURNS, "chosen": [GOOD[0] | {"function_call": {"name": "f"}}], "rejected": BAD},
     "chosen[].function_call"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "How many?"},
                                                {"type": "image_url", "image_url": {"url": "x"}}]}, *GOOD]},
     "messages[0].content[1].type"),
    ({"messages": [{"role": "system", "content": "One."}, {"role": "system", "content": "Two."}, *TURNS, *GOOD]},
     "messages"),
    (PAIR | {"rejected": "nan"}, "rejected"), (PAIR | {"chosen": "<NA>"}, "chosen"),
    (PAIR | {"is_deleted": True}, "is_deleted"), (PAIR | {"status": "discarded"}, "status"),
    (PAIR | {"winner": "rejected"}, "winner"),
])
def test_what_the_model_cannot_be_given_or_a_judgement_that_is_not_read_sets_the_row_aside(record, field):
    (problem,) = parse(record, "file")
    assert isinstance(problem, Unusable)
    assert problem.field == field


@pytest.mark.parametrize("beside", [{"tools": "[]"}, {"images": []}, {"is_deleted": False}, {"status": "submitted"},
                                    {"system": ""}, {"history": []}, {"function_call": None}])
def test_a_field_that_says_nothing_sets_nothing_aside(beside):
    (row,) = parse(PAIR | beside, "file")
    assert row.prompt == ASK


def test_content_in_parts_is_read_where_all_parts_are_text():
    parts = [{"type": "text", "text": "Why is"}, {"type": "text", "text": "the sky blue?"}]
    (row,) = parse({"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "Scattering."}]},
                   "file")
    assert row.prompt == (Message("user", "Why is\nthe sky blue?"),)


@pytest.mark.parametrize(("beside", "label", "strength"), [
    ({"status": "tie"}, "tie", None), ({"status": "swapped"}, "A", None), ({"rating": [9, 9]}, "tie", None),
    ({"rating": [3, 9], "status": "unchanged"}, "A", None), ({"score_chosen": 4, "score_rejected": 4}, "tie", 0.0),
    ({"chosen_score": "4.5", "rejected_score": "1"}, "A", 3.5), ({"chosen-rating": 5, "rejected-rating": 2}, "A", 3.0),
    ({"score_chosen": 1e308, "score_rejected": -1e308}, "A", None)])
def test_a_pair_is_weighed_by_what_else_its_record_says(beside, label, strength):
    (row,) = parse(PAIR | beside, "file")
    assert (row.chosen, row.label, row.strength) == ("Scattering.", label, strength)


def test_scores_that_contradict_the_pair_set_it_aside():
    (problem,) = parse(PAIR | {"chosen_rating": 1, "rejected_rating": 5}, "file")
    assert (problem.field, problem.reason) == ("rejected_rating", "expected at most chosen_rating, 1.0, found 5.0")


def test_a_mapped_field_that_the_format_has_no_place_for_is_refused():
    (problem,) = parse({"prompt": "Why?", "a": "Because.", "b": "No.", "grade": 3}, "file",
                       Reading(columns={"chosen": "a", "rejected": "b", "score": "grade"}))
    assert (problem.field, "mapped to 'score'" in problem.reason) == ("grade", True)


def test_a_field_can_be_left_alone_by_name_also_within_messages():
    record = {"messages": [*TURNS, GOOD[0] | {"tool_calls": [{"id": 1}]}], "tools": [{"name": "f"}]}
    unread = Unread()
    (row,) = parse(record, "file", Reading(leave=frozenset({"tools", "tool_calls"})), unread)
    assert row.response == "Scattering."
    assert unread.left_alone == {"messages[].tool_calls": 1}


@pytest.mark.parametrize("beside", [{"winner": "s"}, {"label": "Why"}, {"choice": "Paint."}, {"status": "sky"}])
def test_a_verdict_is_not_passed_over_because_its_letters_are_in_the_row(beside):
    (problem,) = parse(PAIR | beside, "file")
    assert isinstance(problem, Unusable)
    assert problem.field == next(iter(beside))


def test_only_the_fields_of_rows_are_counted():
    unread = Unread()
    (problem,) = parse(PAIR | {"x_mood": "glad", "id": 1, "tools": [{"name": "f"}]}, "file", unread=unread)
    assert isinstance(problem, Unusable)
    assert not unread.unknown and not unread.left_alone


def test_every_format_that_leaves_fields_alone_is_among_the_examples():
    leaving = {name for name, known in FORMATS.items() if known.leaves} - {"hh-chosen"}
    assert leaving <= {known for known, _, _ in EXAMPLES.values()}


HALF = "m\ud83d"
NAMED_BY_HALF = {
    "left alone": {"prompt": "Q", "chosen": "a", "rejected": "b", "metadata.": 1, HALF: 1},
    "sets it aside": {"prompt": [{"role": "user", "content": [{"type": HALF}]}], "chosen": "a", "rejected": "b"},
    "in a tool's fields": {"fields": {HALF: "Q"}, "responses": {"better": [{"value": 1}]}},
    "a question of Argilla": {"fields": {"prompt": "Q", "response": "a"}, "responses": {
        HALF: [{"value": 3}], "quality": [{"value": 3}]}},
    "a control of Label Studio": {"data": {"prompt": "Q", "response": "a"}, "annotations": [{"result": [
        {"type": kind, "from_name": name, "to_name": "response", "value": {kind: value}}
        for kind, name, value in (("rating", "quality", 3), ("textarea", HALF, ["x"]), ("rating", HALF * 2, 3))]}]},
    "no known field": {HALF: 1}}


@pytest.mark.parametrize("name", NAMED_BY_HALF)
def test_half_a_surrogate_pair_in_a_field_name_can_be_written_wherever_it_is_told(tmp_path, name):
    good = {"prompt": "Question", "chosen": "yes", "rejected": "no"}
    file = tmp_path / "given.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in (good, NAMED_BY_HALF[name], good)))
    batch = write_batch(tmp_path, "given.jsonl", read_file(file, "given.jsonl"))
    assert batch.rows + batch.quarantined >= 3
    assert json.dumps(asdict(batch), ensure_ascii=False).encode()
    file.write_text(json.dumps(NAMED_BY_HALF[name]) + "\n")
    for how in (Reading(), Reading(columns={"prompt": "asked"})):
        try:
            found = list(read_file(file, "given.jsonl", how))
        except UserError as error:
            assert str(error).encode()
        else:
            assert repr(found).encode()
