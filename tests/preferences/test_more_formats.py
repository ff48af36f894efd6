"""Two responses with a verdict, rankings and trees: read where the verdict is beyond doubt, else set aside, and why."""

import json

import pytest

from plumbline.errors import UserError
from plumbline.preferences.reading.conversations import Unusable
from plumbline.preferences.reading.formats import RECOGNISED, Reading, parse
from plumbline.preferences.reading.read import UndecidableFile, import_records
from plumbline.preferences.reading.results import Unread
from plumbline.preferences.types import Demonstration, Message
from testing.format_fixtures import EVAL, EXAMPLES
from testing.more_format_fixtures import (
    ARENA,
    ARENA_140K,
    ASK,
    ASKED,
    BAD,
    GOOD,
    HELPSTEER,
    HELPSTEER_3,
    LMSYS,
    MORE_EXAMPLES,
    MT_BENCH,
    NECTAR,
    OPENAI,
    PKU,
    QUESTION,
    TALK,
    TREE,
    reply,
    said,
)

LETTERS = {"prompt": QUESTION, "response_a": GOOD, "response_b": BAD}
FROM_1 = {"prompt": QUESTION, "response_1": GOOD, "response_2": BAD}
FROM_0 = {"prompt": QUESTION, "answer_0": GOOD, "answer_1": BAD}
ABSENT = object()


def only(record, how=RECOGNISED):
    (judged,) = parse(record, "file", how)
    return judged


@pytest.mark.parametrize("name", MORE_EXAMPLES)
def test_every_field_of_the_data_set_is_used_or_left_alone_by_name(name):
    unread = Unread()
    _, record, _ = MORE_EXAMPLES[name]
    parse(record, "file", RECOGNISED, unread)
    assert not unread.unknown


@pytest.mark.parametrize(("winner", "label"), [
    ("model_a", "A"), ("model_b", "B"), ("tie", "tie"), ("tie (bothbad)", "tie"), ("both_bad", "tie")])
def test_the_winners_of_the_arena(winner, label):
    assert only(ARENA | {"winner": winner}).label == label


@pytest.mark.parametrize(("fields", "spelt", "label"), [
    *[(LETTERS, spelt, "A") for spelt in ("a", "A", "response_a", "Response A", "model_a", "[[A]]", "left", "first",
                                          "A is better")],
    *[(LETTERS, spelt, "B") for spelt in ("b", "B", "response_b", "assistant_b", "right", "second", "model-b")],
    *[(FROM_1, spelt, "A") for spelt in (1, "1", 1.0, "1.0", "response_1", "Response 1", "A", "left")],
    *[(FROM_1, spelt, "B") for spelt in (2, "2", "response_2", "model_2", "option 2", "b")],
    *[(FROM_0, spelt, "A") for spelt in (0, "0", 0.0, "answer_0", "a")],
    *[(FROM_0, spelt, "B") for spelt in (1, "1", "answer_1", "model 1", "B")],
    *[(FROM_1, spelt, "tie") for spelt in ("tie", "Tie", "draw", "equal", "same", "both", "neither", "both bad")]])
def test_a_verdict_that_names_a_side(fields, spelt, label):
    for name in ("preference", "winner", "label", "choice", "better"):
        assert only(fields | {name: spelt}).label == label


@pytest.mark.parametrize(("fields", "spelt"), [
    (LETTERS, 1), (LETTERS, 0), (LETTERS, "1"), (LETTERS, "c"), (LETTERS, "response_1"), (LETTERS, "-"),
    (FROM_1, 3), (FROM_1, -1), (FROM_1, "-1"), (FROM_1, 1.5), (FROM_1, "1.5"), (FROM_1, True), (FROM_1, "yes"),
    (FROM_1, ["response_1"]), (FROM_1, "response_3"), (FROM_0, "response_2"), (FROM_0, -1), (FROM_1, "+1")])
def test_a_verdict_that_leaves_a_doubt_is_set_aside_with_its_value(fields, spelt):
    problem = only(fields | {"preference": spelt})
    assert isinstance(problem, Unusable)
    assert problem.field == "preference"
    assert ("a list" if isinstance(spelt, list) else str(spelt)) in problem.reason


def test_the_name_of_a_model_is_a_verdict_unless_it_names_both():
    named = LETTERS | {"model_a": "gpt-4", "model_b": "llama", "winner": "llama"}
    assert only(named).label == "B"
    assert isinstance(only(named | {"model_a": "llama"}), Unusable)


@pytest.mark.parametrize(("fields", "first", "second"), [(FROM_1, 1, 0), (FROM_0, 1, 2)])
def test_a_file_whose_numbers_may_count_from_0_or_from_1_is_refused_whole(fields, first, second):
    records = enumerate([fields | {"label": first}, fields | {"label": second}], start=1)
    with pytest.raises(UndecidableFile, match=r"line 2, field `label`: it is . beside .* Write .* or tie"):
        list(import_records(records, "file.jsonl", "file"))


@pytest.mark.parametrize("fields", [FROM_1, FROM_0])
@pytest.mark.parametrize("proof", [3, 5, 7, -1, -2, "4", "-2", "+1", 4.0, 1.5, "1.5", 0.5, "2.5e0"])
def test_a_file_whose_numbers_are_a_scale_is_refused_whole(fields, proof):
    records = enumerate([fields | {"preference": value} for value in (1, 1, proof, 1)], start=1)
    with pytest.raises(UndecidableFile, match=r"line 3, field `preference`: it is .* are a scale.* Write .* or tie"):
        list(import_records(records, "file.jsonl", "file"))


THUMB = {"prompt": QUESTION, "response": GOOD, "label": 1}


@pytest.mark.parametrize(("record", "proof"), [
    (PKU, {"better_response_id": 2}), (HELPSTEER, {"preference_strength": 5}),
    (HELPSTEER_3, {"overall_preference": "4"}), (EVAL, {"preference": 4}), (EVAL, {"preference": -1}),
    (EVAL, {"preference": 0.5}), (EXAMPLES["tl;dr"][1], {"choice": 2}), (THUMB, {"label": 5}), (THUMB, {"label": "2"}),
    (THUMB, {"label": 0.5}), ({"messages": [ASKED, said(GOOD)], "feedback": 1}, {"feedback": 3})])
def test_a_number_that_is_not_on_the_scale_of_its_format_refuses_the_file_whole(record, proof):
    (field,) = proof
    records = enumerate([record, record | proof], start=1)
    with pytest.raises(UndecidableFile, match=f"line 2, field `{field}`: .* 1 (may mean either|need not be up)"):
        list(import_records(records, "file.jsonl", "file"))


@pytest.mark.parametrize("record", [
    HELPSTEER | {"preference_strength": -100}, PKU | {"better_response_id": None}, EVAL | {"preference": None},
    THUMB | {"label": "sideways"}, FROM_1 | {"preference": float("inf")}, LETTERS | {"preference": 1.5}])
def test_what_proves_nothing_of_the_other_rows_is_set_aside_alone(record):
    assert type(only(record)) is Unusable


def test_two_verdicts_must_agree():
    assert only(FROM_1 | {"preference": 2, "winner": "response_2"}).label == "B"
    assert "says otherwise than preference" in only(FROM_1 | {"preference": 2, "winner": "response_1"}).reason


def test_chosen_beside_two_responses_is_not_overruled_by_a_verdict_that_it_does_not_read():
    assert only(FROM_1 | {"chosen": GOOD, "rejected": BAD, "preference": 2}).field == "preference"


def test_the_conversation_before_two_answers_is_their_prompt_and_a_system_prompt_its_beginning():
    history = [ASKED, said(GOOD), {"role": "user", "content": "Until when?"}]
    record = {"messages": history, "system": "Be brief.", "output_1": "Noon.", "output_2": "Late.", "winner": "1"}
    assert only(record).prompt == (Message("system", "Be brief."), *TALK)
    record = LETTERS | {"winner": "a", "system_prompt": "Be brief."}
    assert only(record).prompt == (Message("system", "Be brief."), *ASK)


def test_answers_may_be_messages_or_parts():
    record = FROM_1 | {"response_1": [said(GOOD)], "response_2": [{"type": "text", "text": BAD}], "label": "tie"}
    assert only(record).responses == (GOOD, BAD)


PARTS = [{"type": "text", "text": QUESTION}]


@pytest.mark.parametrize("record", [
    {"prompt": PARTS, "chosen": [{"type": "text", "text": GOOD}], "rejected": [{"type": "text", "text": BAD}]},
    {"prompt": [{"role": "user", "content": PARTS}], "chosen": said([{"type": "text", "text": GOOD}]),
     "rejected": [said([{"type": "text", "text": BAD}])]},
    {"chosen": [{"role": "user", "content": PARTS}, said([{"type": "text", "text": GOOD}])],
     "rejected": [{"role": "user", "content": PARTS}, said([{"type": "text", "text": BAD}])]},
    {"messages": [{"role": "user", "content": PARTS}], "chosen": [{"type": "text", "text": GOOD}],
     "rejected": [{"type": "text", "text": BAD}]}])
def test_parts_that_are_texts_are_read_wherever_they_stand(record):
    row = only(record)
    assert (row.prompt, row.responses, row.label) == (ASK, (GOOD, BAD), "A")


def test_parts_that_are_texts_are_read_in_a_completion_and_a_ranking():
    assert isinstance(only({"prompt": PARTS, "completion": [{"type": "text", "text": GOOD}]}), Demonstration)
    record = {"prompt": PARTS, "responses": [[said(GOOD)], [{"type": "text", "text": BAD}]], "ranks": [1, 2]}
    assert only(record).responses == (GOOD, BAD)


def test_a_part_that_is_an_image_sets_the_row_aside():
    problem = only({"prompt": [*PARTS, {"type": "image_url", "image_url": "x"}], "chosen": GOOD, "rejected": BAD})
    assert "'image_url', which the model cannot be given" in problem.reason


def test_the_second_turn_of_mt_bench_is_compared_only_after_the_same_first_one():
    assert "before the last answer" in only(MT_BENCH | {"turn": 2}).reason
    same = MT_BENCH | {"turn": 2, "conversation_b": [*MT_BENCH["conversation_a"][:3], said("No idea.")]}
    assert (only(same).prompt, only(same).responses) == (TALK, ("Noon.", "No idea."))
    assert only(MT_BENCH | {"turn": 3}).field == "turn"


def test_a_model_that_judges_the_arena_is_a_machine():
    assert only(MT_BENCH | {"judge": "gpt4_pair"}).origin.machine is True


def test_conversations_that_only_differ_in_a_system_prompt_are_set_aside():
    other = [{"role": "system", "content": "Be brief."}, *ARENA_140K["conversation_a"]]
    assert only(ARENA_140K | {"conversation_b": other}).field == "conversation_b"


@pytest.mark.parametrize(("change", "field"), [
    ({"winner_model_b": 1}, "winner_model_a"), ({"winner_model_a": 0}, "winner_model_a"),
    ({"response_b": json.dumps(["one"])}, "response_b"), ({"response_a": json.dumps(["x", None])}, "response_a[1]"),
    ({"response_b": json.dumps(["Other.", "No idea."])}, "response_b")])
def test_lmsys_rows_that_cannot_be_compared(change, field):
    assert only(LMSYS | change).field == field


def test_lmsys_rows_of_one_turn_in_plain_text():
    row = only(LMSYS | {"prompt": "[INST] odd", "response_a": GOOD, "response_b": BAD, "winner_model_a": "0",
                        "winner_tie": "1"})
    assert (row.prompt[0].content, row.responses, row.label) == ("[INST] odd", (GOOD, BAD), "tie")


@pytest.mark.parametrize(("strength", "label"), [(-3, "A"), (-1, "A"), (0, "tie"), (1, "B"), ("3", "B")])
def test_helpsteer_is_negative_where_the_first_response_is_better(strength, label):
    row = only(HELPSTEER | {"preference_strength": strength})
    assert (row.label, row.strength) == (label, abs(float(strength)))


def test_helpsteer_out_of_its_range_is_set_aside():
    assert "from -3 to 3" in only(HELPSTEER_3 | {"overall_preference": 4}).reason


def test_a_verdict_beside_a_strength_is_not_overruled():
    assert only(HELPSTEER | {"preference": "response_1"}).field == "preference"


def test_helpsteers_marks_of_turns_become_turns():
    marked = f"{QUESTION}\n<extra_id_1>Assistant\nSaturday.\n<extra_id_1>User\nUntil when?"
    assert only(HELPSTEER | {"prompt": marked}).prompt == TALK


def test_where_the_safer_response_is_the_other_the_better_one_counts_and_the_safer_is_named():
    unread = Unread()
    (row,) = parse(PKU | {"safer_response_id": 0}, "file", RECOGNISED, unread)
    assert row.label == "B"
    assert unread.left_alone["safer_response_id"] == 1
    parse(PKU, "file", RECOGNISED, unread)
    assert unread.left_alone["safer_response_id"] == 1


def test_the_safer_response_counts_where_it_is_asked_for():
    how = Reading(columns={"label": "safer_response_id"}, leave=frozenset({"better_response_id"}))
    assert only(PKU | {"safer_response_id": 0}, how).label == "A"


def test_tools_set_openais_rows_aside():
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    problem = only(OPENAI | {"input": OPENAI["input"] | {"tools": tools}})
    assert problem.field == "input.tools"
    assert "tools" in problem.reason


def test_openais_system_prompt_is_kept():
    messages = [{"role": "developer", "content": "Be brief."}, ASKED]
    assert only(OPENAI | {"input": {"messages": messages}}).prompt == (Message("system", "Be brief."), *ASK)


@pytest.mark.parametrize(("change", "field", "reason"), [
    ({"rank_2": 2}, "rank", "rank 2 is given twice"), ({"rank_2": None}, "rank_2", "it is missing"),
    ({"response_2": None}, "response_2", "it is missing"), ({"response_2": BAD}, "response_2", "same text"),
    ({"rank_2": "first"}, "rank_2", "finite number"), ({"rank_2": 1.5}, "rank", "whole numbers"),
    ({"rank_2": -1}, "rank", "whole numbers")])
def test_a_ranking_in_columns_that_is_none(change, field, reason):
    record = {"prompt": QUESTION, "response_1": BAD, "rank_1": 2, "response_2": GOOD, "rank_2": 1}
    problem = only(record | change)
    assert (problem.field, reason in problem.reason) == (field, True)


def test_ranks_in_columns_may_start_at_0_and_follow_the_name_of_the_response():
    row = only({"prompt": QUESTION, "answer_a": BAD, "answer_a_rank": 1, "answer_b": GOOD, "answer_b_rank": 0})
    assert (row.responses, row.ranks) == ((BAD, GOOD), (2, 1))


def test_a_list_of_responses_with_ranks_is_a_ranking_too():
    row = only({"prompt": QUESTION, "responses": [{"text": BAD, "rank": 2}, {"text": GOOD, "rank": 1}]})
    assert (row.responses, row.ranks, row.origin.annotator) == ((BAD, GOOD), (2, 1), None)
    answers = [{"answer": BAD, "rank": 1.0}, {"answer": GOOD, "rank": 1.0}]
    assert "rank 1 is given twice" in only(NECTAR | {"answers": answers}).reason


@pytest.mark.parametrize(("change", "field"), [
    ({"tree_state": "halted_by_moderator"}, "tree_state"),
    ({"prompt": reply(QUESTION, None, reply(GOOD, 0), reply(BAD), role="prompter")}, "prompt.replies"),
    ({"prompt": reply(QUESTION, None, role="prompter", deleted=True)}, "prompt"),
    ({"prompt": reply(QUESTION, None, reply(GOOD, 0), reply(BAD, 0), role="prompter")}, "replies.rank"),
    ({"prompt": reply(QUESTION, None, reply(GOOD, 0), reply(GOOD, 1), role="prompter")}, "replies.text"),
    ({"prompt": reply(QUESTION, None, reply(GOOD, 0), reply(BAD, 1), role="wizard")}, "role")])
def test_a_tree_without_a_ranking_says_why(change, field):
    assert only(TREE | change).field == field


def test_one_bad_fork_of_a_tree_does_not_spoil_the_others():
    fork = reply("Until when?", None, reply("Noon.", 0), reply("Late.", 0), role="prompter")
    first, second = parse(TREE | {"prompt": reply(QUESTION, None, reply(GOOD, 0, fork), reply(BAD, 1),
                                                  role="prompter")}, "file")
    assert (first.ranks, second.field) == ((1, 2), "replies.rank")


def test_a_tree_of_any_depth_is_read_without_a_crash():
    deep = reply("last", None, role="prompter")
    for i in range(150):
        deep = reply(f"turn {i}", 0, deep, role="prompter" if i % 2 else "assistant")
    assert only(TREE | {"prompt": deep}).field == "prompt.replies"


def test_columns_of_any_name_are_mapped_to_two_responses_and_a_label():
    how = Reading(columns={"prompt": "q", "response_1": "one", "response_2": "two", "label": "best"})
    assert only({"q": QUESTION, "one": GOOD, "two": BAD, "best": "1"}, how).label == "A"
    with pytest.raises(UserError, match="no field 'response_3'"):
        Reading(columns={"response_3": "three"})


OPENED = "\n\nHuman: Hi?\n\nAssistant: "


@pytest.mark.parametrize("prompt", ["Hi?", "\n\nHuman: Hi?\n\nAssistant:", [{"role": "user", "content": "Hi?"}]])
def test_a_prompt_beside_transcripts_is_not_learnt_as_part_of_the_answers(prompt):
    row = only({"prompt": prompt, "chosen": f"{OPENED}Hello", "rejected": f"{OPENED}No"})
    assert (row.prompt, row.responses) == ((Message("user", "Hi?"),), ("Hello", "No"))


@pytest.mark.parametrize(("record", "field"), [
    ({"prompt": "Why?", "chosen": f"{OPENED}Hello", "rejected": f"{OPENED}No"}, "prompt"),
    ({"prompt": "Hi?", "chosen": f"{OPENED}Hello", "rejected": "No"}, "rejected"),
    ({"prompt": "Hi?", "chosen": "Hello", "rejected": f"{OPENED}No"}, "chosen"),
    ({"prompt": "Hi?", "chosen": f"{OPENED}Hello", "rejected": OPENED.replace("Hi", "Ho") + "No"}, "rejected"),
    ({"prompt": "Hi?", "response_1": f"{OPENED}Hello", "response_2": "No", "winner": "response_1"}, "response_1"),
    ({"prompt": "Hi?", "completion": f"{OPENED}Hello", "label": True}, "completion")])
def test_a_transcript_that_says_otherwise_or_is_no_answer_sets_the_row_aside(record, field):
    assert only(record).field == field
