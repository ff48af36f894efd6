"""Argilla and Label Studio: which question judges, what is left alone, and which response was the left one."""

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.errors import UserError
from plumbline.preferences.reading.conversations import Unusable
from plumbline.preferences.reading.formats import RECOGNISED, Reading, parse
from plumbline.preferences.reading.formats.fields import TakenBack
from plumbline.preferences.reading.read import read_file
from plumbline.preferences.reading.results import Unread
from plumbline.preferences.types import Comparison, Demonstration, Ranking, Rating, Row
from testing.depth import examples

ASK = "How long do eggs boil?"
SOFT, HARD = "Four minutes.", "Half a day."


def argilla(responses, **fields):
    answers = {name: [{"value": value, "user_id": "ada", "status": "submitted"}] for name, value in responses.items()}
    return {"id": "r", "fields": {"prompt": ASK, **fields}, "responses": answers, "suggestions": {}, "vectors": {},
            "metadata": {}, "status": "completed", "_server_id": "s"}


def one(**more):
    return {"response": SOFT, **more}


def two(first="response_1", second="response_2"):
    return {first: SOFT, second: HARD}


def result(kind, value, from_name="judge", to_name="response", **more):
    return {"id": "x", "from_name": from_name, "to_name": to_name, "type": kind, "origin": "manual",
            "value": {"selected" if kind == "pairwise" else kind: value}, **more}


def studio(data, *results, **more):
    annotation = {"id": 7, "completed_by": 3, "was_cancelled": False, "ground_truth": False, "lead_time": 2.5,
                  "created_at": "2026-03-01T10:00:00Z", "updated_at": "2026-03-01T10:00:00Z", "task": 1, "project": 2,
                  "result": list(results), **more}
    return {"id": 1, "data": {"prompt": ASK, **data}, "annotations": [annotation], "predictions": [], "drafts": [],
            "meta": {}, "project": 2, "total_annotations": 1, "file_upload": "a.json", "inner_id": 4}


def rows(record, question=None, unread=None):
    """What the record says, each row in short."""
    judged = parse(record, "file", Reading(question=question), unread)
    problems = [problem for problem in judged if isinstance(problem, Unusable)]
    assert not problems, problems
    return [short(row) for row in judged]


def short(row):
    match row:
        case Rating():
            return row.response, row.score
        case Comparison():
            return "tie" if row.label == "tie" else (row.chosen, "over", row.rejected)
        case Ranking():
            return [text for _, text in sorted(zip(row.ranks, row.responses, strict=True))]
        case Demonstration():
            return row.response


def aside(record, question=None):
    (problem,) = parse(record, "file", Reading(question=question))
    assert isinstance(problem, Unusable), problem
    return problem.reason


# Which response a question is about, and which fields are responses


@pytest.mark.parametrize(("first", "second"), [
    ("generations-0", "generations-1"), ("response_1_text", "response_2_text"), ("completion-a", "completion-b"),
    ("responseA", "responseB"), ("Answer 1", "Answer 2"), ("model_a_response", "model_b_response"),
    ("first_reply", "second_reply"), ("left text", "right text"), ("candidate-9", "candidate-10"),
    ("chosen_response", "rejected_response")])
def test_responses_are_found_by_their_names(first, second):
    assert rows(argilla({"preference": first}, **two(first, second))) == [(SOFT, "over", HARD)]
    ratings = argilla({f"{first}-rating": 4, f"{second}-rating": 2, f"{first}-rationale": "Right and short."},
                      **two(first, second))
    assert rows(ratings) == [(SOFT, 4.0), (HARD, 2.0)]


def test_a_question_may_name_the_response_by_its_end_or_by_a_field_of_any_name():
    assert rows(argilla({"quality_1": 4, "quality_2": 1}, **two())) == [(SOFT, 4.0), (HARD, 1.0)]
    assert rows(argilla({"claude-rating": 4, "gpt-rating": 1}, claude=SOFT, gpt=HARD)) == [(SOFT, 4.0), (HARD, 1.0)]
    assert rows(argilla({"order": [{"value": "gpt", "rank": 2}, {"value": "claude", "rank": 1}]}, claude=SOFT,
                        gpt=HARD)) == [(SOFT, "over", HARD)]


@pytest.mark.parametrize("question", ["prompt_quality", "prompt-rating", "context_relevance", "instruction quality"])
def test_what_is_said_of_the_prompt_is_said_of_no_response(question):
    assert "which response" in aside(argilla({question: 4}, **one(context="Eggs are boiled.")))
    assert rows(argilla({question: 4, "quality": 2}, **one())) == [(SOFT, 2.0)]


@pytest.mark.parametrize("names", [{"response": SOFT, "response_2": HARD}, {"chosen": SOFT, "rejected": HARD}])
def test_what_names_no_place_says_nothing_of_left_and_right(names):
    assert aside(argilla({"preference": "left"}, **names))
    first = next(iter(names))
    assert rows(argilla({"preference": first}, **names)) == [(SOFT, "over", HARD)]


@pytest.mark.parametrize(("label", "better"), [
    ("Response 0", 0), ("generations-1", 1), ("1", 1), ("0", 0), ("second", 1), ("B", 1), ("left", 0)])
def test_a_number_is_that_of_the_response_also_where_counting_starts_at_zero(label, better):
    texts = [SOFT, HARD]
    assert rows(argilla({"preference": label}, **two("generations-0", "generations-1"))) == [
        (texts[better], "over", texts[1 - better])]
    assert aside(argilla({"preference": "2"}, **two("generations-0", "generations-1")))


# Which question judges


@pytest.mark.parametrize(("others", "judged"), [
    ({"rationale": "Because.", "comment": "Nice.", "language": "en"}, 5.0),
    ({"contains_personal_data": "no"}, 5.0), ({"is_harmful": True, "refusal": "no"}, 5.0),
    ({"confidence": 2, "difficulty": 4, "toxicity": 1}, 5.0), ({"corrected_response": "Six minutes."}, 5.0),
    ({"tags": ["short", "true"]}, 5.0), ({"topics": []}, 5.0)])
def test_only_the_question_that_judges_is_a_judgement(others, judged):
    unread = Unread()
    assert rows(argilla({"quality": 5, **others}, **one()), unread=unread) == [(SOFT, judged)]
    assert {f"responses.{name}" for name, value in others.items() if value != []} <= unread.left_alone.keys()
    assert not unread.unknown


@pytest.mark.parametrize("others", [{"response_1_quality": 1, "response_2_quality": 5}, {"helpful": "yes"},
                                    {"worse": "response_1"}, {"which_contains_errors": "response_1"}])
def test_what_compares_goes_before_what_judges_a_response_alone(others):
    assert rows(argilla({"preference": "response_1", **others}, **two())) == [(SOFT, "over", HARD)]


@pytest.mark.parametrize(("answers", "fields", "named"), [
    ({"quality": 5, "fluency": 2}, one(), ["quality", "fluency"]),
    ({"quality": 5, "helpful": "no"}, one(), ["quality", "helpful"]),
    ({"like": True, "is_acceptable": "no"}, one(), ["like", "is_acceptable"]),
    ({"more_helpful": "response_1", "more_polite": "response_2"}, two(), ["more_helpful", "more_polite"]),
    ({"response_1_tone": 4, "response_1_facts": 1}, two(), ["response_1_tone", "response_1_facts"]),
    ({"response": SOFT, "answer": HARD}, {}, ["response", "answer"])])
def test_where_several_could_be_the_judgement_the_import_asks(answers, fields, named):
    reason = aside(argilla(answers, **fields))
    assert all(name in reason for name in named)
    assert "could be the judgement" in reason
    assert "--question NAME" in reason
    assert rows(argilla(answers, **fields), named[0]) != rows(argilla(answers, **fields), named[1])


def test_the_named_question_alone_judges_also_by_what_it_asks_of_every_response():
    record = argilla({"response_1_tone": 4, "response_1_facts": 1, "response_2_tone": 2, "response_2_facts": 5},
                     **two())
    assert rows(record, "facts") == [(SOFT, 1.0), (HARD, 5.0)]
    assert rows(record, "response_2_tone") == [(HARD, 2.0)]
    reason = aside(record, "style")
    assert "'style'" in reason
    assert "response_2_facts" in reason


@pytest.mark.parametrize("name", ["safe", "contains_code", "is_english", "unhelpful", "not_helpful", "is_harmful"])
@pytest.mark.parametrize("value", ["yes", "no", True, False])
def test_a_yes_is_no_thumb_up_unless_the_question_asks_for_one(name, value):
    assert f"whether {name} says" in aside(argilla({name: value}, **one()))
    assert rows(argilla({name: value}, **one()), name) == [(SOFT, float(value in ("yes", True)))]


@pytest.mark.parametrize(("name", "value", "score"), [
    ("helpful", "yes", 1), ("is_the_answer_good", "no", 0), ("like", True, 1), ("thumbs", False, 0), ("q", "👎", 0),
    ("verdict_of_ada", "thumbs-up", 1), ("label", "bad", 0), ("quality", "1", 1), ("quality", "4", 4)])
def test_a_thumb_is_told_by_its_question_or_by_itself(name, value, score):
    assert rows(argilla({name: value}, **one())) == [(SOFT, float(score))]


def test_a_bare_letter_or_number_names_a_response_only_where_the_question_asks_which():
    group = {"group": "B", "topic": "1"}
    assert "whether group, topic says" in aside(argilla(group, **two()))
    assert rows(argilla(group, **two()), "group") == [(HARD, "over", SOFT)]
    assert rows(argilla({**group, "which_is_better": "A"}, **two())) == [(SOFT, "over", HARD)]
    choice = result("choices", ["2"], "group", "prompt")
    assert "whether group says" in aside(studio(two(), choice))
    assert rows(studio(two(), choice, result("choices", ["1"], "winner", "prompt"))) == [(SOFT, "over", HARD)]


@pytest.mark.parametrize(("digit", "score"), [("1", 1.0), ("4", 4.0)])
def test_labels_that_are_numbers_are_a_scale_and_no_thumbs(digit, score):
    assert rows(argilla({"quality": digit}, **one())) == [(SOFT, score)]
    assert rows(studio(one(), result("choices", [digit], "quality"))) == [(SOFT, score)]


def test_a_rank_given_as_a_number_is_no_score():
    assert "--question" in aside(argilla({"rank_1": 1, "rank_2": 2}, **two()))
    assert rows(argilla({"rank_1": 1, "rank_2": 2, "quality_1": 5, "quality_2": 3}, **two())) == [
        (SOFT, 5.0), (HARD, 3.0)]
    assert rows(argilla({"response_1_quality": "2", "response_2_quality": "1"}, **two())) == [(SOFT, 2.0), (HARD, 1.0)]


@pytest.mark.parametrize("name", ["toxicity", "errors", "confidence", "worst"])
def test_a_number_or_a_side_that_may_mean_the_opposite_is_asked_for(name):
    assert "--question" in aside(argilla({name: 5}, **one()))
    assert "--question" in aside(argilla({name: "response_2"}, **two()))


@pytest.mark.parametrize("value", [["response_1"], ["response_2", "short"]])
def test_labels_rank_nothing(value):
    assert "expected a ranking" in aside(argilla({"labels": value}, **two()))
    assert rows(argilla({"labels": value, "preference": "response_2"}, **two())) == [(HARD, "over", SOFT)]


def test_a_text_is_a_demonstration_only_where_nothing_can_be_judged():
    assert rows(argilla({"answer": SOFT, "why": "So."})) == [SOFT]
    assert "expected a ranking" in aside(argilla({"why": "So."}))
    assert "expected a ranking" in aside(argilla({"corrected_response": SOFT}, **one()))
    assert rows(argilla({"corrected_response": "Six minutes."}, **one()), "corrected_response") == ["Six minutes."]


def test_the_flat_export_and_the_columns_of_argilla_1_leave_the_same_alone():
    flat = {"id": "1", "_server_id": "s", "prompt": ASK, **one(), "metadata.source": "x", "vectors.v": [0.1],
            "quality.responses": [4], "quality.responses.users": ["ada"], "quality.responses.status": ["submitted"],
            "quality.suggestion": 3, "quality.suggestion.score": 0.7, "quality.suggestion.agent": "gpt",
            "score_reason.responses": ["So."], "score_reason.responses.users": ["ada"], "colour": "red"}
    unread = Unread()
    assert rows(flat, unread=unread) == [(SOFT, 4.0)]
    assert unread.unknown == {"colour": 1}
    assert {"quality.suggestion.score", "score_reason.responses", "metadata.source", "vectors.v", "_server_id"} <= set(
        unread.left_alone)
    given = {"user_id": "ada", "status": "submitted"}
    columns = {"prompt": ASK, **one(), "quality": [{"value": 4, **given}], "quality-suggestion": 3,
               "quality-suggestion-metadata": {"score": 0.5, "agent": "gpt"}, "metadata": "{}",
               "response-why": [{"value": "So.", **given}], "response-why-suggestion-metadata": {"score": None}}
    unread = Unread()
    assert rows(columns, unread=unread) == [(SOFT, 4.0)]
    assert not unread.unknown
    assert {"response-why", "quality-suggestion", "quality-suggestion-metadata"} <= unread.left_alone.keys()


# Label Studio


@pytest.mark.parametrize(("to_name", "left"), [
    ("answer_a,answer_b", SOFT), ("answer_b, answer_a", HARD), ("textA,textB", SOFT), ("right_b,left_a", HARD),
    ("answers", SOFT)])
@pytest.mark.parametrize("data", [{"answer_a": SOFT, "answer_b": HARD}, {"answer_b": HARD, "answer_a": SOFT}])
@pytest.mark.parametrize("selected", ["left", "right"])
@pytest.mark.parametrize("kind", ["pairwise", "choices"])
def test_left_and_right_are_what_to_name_says(to_name, left, data, selected, kind):
    right = HARD if left == SOFT else SOFT
    value = selected if kind == "pairwise" else [selected]
    expected = (left, "over", right) if selected == "left" else (right, "over", left)
    assert rows(studio(data, result(kind, value, to_name=to_name))) == [expected]


@pytest.mark.parametrize(("data", "to_name"), [
    ({"chosen": SOFT, "rejected": HARD}, "answers"), (two(), "summary,question"), (two(), "response_1,other"),
    (two(), "response_1,response_1")])
def test_where_it_is_not_known_which_was_left_the_pair_is_set_aside(data, to_name):
    assert "the left one first" in aside(studio(data, result("pairwise", "left", to_name=to_name)))


def test_two_of_three_responses_and_fields_of_any_name_can_be_a_pair():
    data = {"answer_1": "No.", "answer_2": SOFT, "answer_3": HARD}
    assert rows(studio(data, result("pairwise", "right", to_name="answer_3,answer_2"))) == [(SOFT, "over", HARD)]
    assert rows(studio({"gpt": HARD, "claude": SOFT}, result("pairwise", "left", to_name="claude,gpt"))) == [
        (SOFT, "over", HARD)]


def test_a_rating_is_of_what_to_name_names():
    unread = Unread()
    ratings = [result("rating", 5, "one", "response_1"), result("rating", 2, "two", "response_2"),
               result("textarea", ["So."], "why", "prompt"), result("choices", ["yes"], "is_english", "response_1")]
    assert rows(studio(two(), *ratings), unread=unread) == [(SOFT, 5.0), (HARD, 2.0)]
    assert {"annotations[].result.why", "annotations[].result.is_english"} <= unread.left_alone.keys()
    assert not unread.unknown
    assert "which response" in aside(studio(one(), result("rating", 5, to_name="prompt")))


def test_several_controls_of_a_kind_are_asked_for_by_from_name():
    record = studio(one(), result("rating", 5, "fluency"), result("rating", 1, "facts"))
    assert "each of facts, fluency could be" in aside(record)
    assert rows(record, "facts") == [(SOFT, 1.0)]
    assert "'tone'" in aside(record, "tone")
    pairs = studio(two(), result("pairwise", "left", "better", "response_1,response_2"),
                   result("choices", ["right"], "preferred", "response_1,response_2"))
    assert "could be the judgement" in aside(pairs)
    assert rows(pairs, "preferred") == [(HARD, "over", SOFT)]


@pytest.mark.parametrize("other", [
    result("rating", 1, "part") | {"value": {"start": 0, "end": 4, "rating": 1}},
    result("choices", ["no"], "part") | {"item_index": 0}, result("choices", ["good", "short"], "part"),
    result("number", 3, "difficulty"), result("choices", ["left"], "worse", "response")])
def test_what_is_said_of_a_part_or_of_something_else_is_left_alone(other):
    assert rows(studio(one(), result("rating", 4), other)) == [(SOFT, 4.0)]


def test_of_several_lists_the_one_that_is_named_was_ranked():
    items = [{"id": "a", "body": SOFT}, {"id": "b", "body": HARD}]
    sources = [{"id": "a", "body": "A cook book."}, {"id": "b", "body": "A rumour."}]
    data = {"sources": sources, "items": items, "colour": "red"}
    unread = Unread()
    assert rows(studio(data, result("ranker", ["b", "a"], to_name="items")), unread=unread) == [[HARD, SOFT]]
    assert unread.unknown == {"data.sources": 1, "data.colour": 1}
    assert "to_name" in aside(studio(data, result("ranker", ["b", "a"], to_name="list")))


@pytest.mark.parametrize("name", [None, float("nan"), ""])
def test_a_control_of_label_studio_without_a_name_is_known_by_its_type(name):
    assert rows(studio(one(), result("rating", 4, from_name=name))) == rows(studio(one(), result("rating", 4)))


@pytest.mark.parametrize("more", [{"was_cancelled": True}, {"reviews": [{"accepted": True}, {"accepted": False}]}])
def test_what_was_taken_back_is_set_aside_and_known(more):
    (back,) = parse(studio(one(), result("rating", 4), **more), "file")
    assert isinstance(back, TakenBack)
    assert short(back.row) == (SOFT, 4.0)


def test_a_discarded_answer_is_set_aside_and_known():
    record = argilla({"quality": 4}, **one())
    record["responses"]["quality"].append({"value": 2, "user_id": "ben", "status": "discarded"})
    row, back = parse(record, "file")
    assert (short(row), short(back.row), back.row.origin.annotator) == ((SOFT, 4.0), (SOFT, 2.0), "ben")


MIN = {"prompt": ASK, "answer1": SOFT, "answer2": HARD, "id": 1, "annotator": 3, "annotation_id": 7,
       "created_at": "2026-03-01T10:00:00Z", "updated_at": "2026-03-01T10:00:00Z", "lead_time": 2.5, "better": "left"}


@pytest.mark.parametrize("name", ["export.json", "export.csv", "export.tsv"])
def test_a_flat_export_of_label_studio_is_named(tmp_path, name):
    file = tmp_path / name
    with file.open("w", newline="") as opened:
        if name.endswith("json"):
            json.dump([MIN, MIN | {"lead_time": None}], opened)
        else:
            writer = csv.DictWriter(opened, MIN, delimiter="," if name.endswith("csv") else "\t")
            writer.writeheader()
            writer.writerows([MIN, MIN])
    with pytest.raises(UserError, match=r"2 records read, 2 of them.*JSON_MIN or CSV export of Label Studio.*as JSON"):
        list(read_file(file, name))


# Whatever stands beside the judgement

extra = st.dictionaries(st.sampled_from(["colour", "note_id", "Höhe", "x.y", "weight", "seen by"]),
                        st.sampled_from([1, "red", ["a"], {"b": 1}]), max_size=4)
comments = st.dictionaries(st.sampled_from(["why", "comment", "is_english", "difficulty", "tags", "errors"]),
                           st.sampled_from(["So.", "no", 3, ["a", "b"], True]), max_size=4)
order = st.permutations(range(8))


def shuffled(values, places):
    items = list(values.items())
    return dict(sorted(items, key=lambda item: places[items.index(item) % len(places)]))


@examples(150)
@given(extra, extra, comments, order, st.sampled_from(["response_2", "2", "right", "B", "second", "Response 2"]))
def test_argilla_accounts_for_every_field_and_never_flips(fields, more, others, places, label):
    record = argilla({**others, "preference": label}, **shuffled({**two(), **fields}, places)) | more
    unread = Unread()
    assert rows(record, unread=unread) == [(HARD, "over", SOFT)]
    assert unread.unknown.keys() == {f"fields.{name}" for name in fields} | more.keys()
    assert {f"responses.{name}" for name in others} <= unread.left_alone.keys()


@examples(150)
@given(extra, extra, extra, comments, order, st.sampled_from(["answer_a,answer_b", "answer_b,answer_a"]), st.booleans())
def test_label_studio_accounts_for_every_field_and_never_flips(data, more, said, others, places, to_name, first):
    pair = result("pairwise", "left" if first else "right", "pw", to_name) | said
    controls = [result("textarea", [str(value)], name) for name, value in others.items()]
    record = studio(shuffled({"answer_a": SOFT, "answer_b": HARD, **data}, places), *controls, pair, **more)
    unread = Unread()
    assert rows(record, unread=unread) == [
        (SOFT, "over", HARD) if first == to_name.startswith("answer_a") else (HARD, "over", SOFT)]
    assert unread.unknown.keys() == ({f"data.{name}" for name in data} | {f"annotations[].{name}" for name in more}
                                     | {f"annotations[].result[].{name}" for name in said})
    assert {f"annotations[].result.{name}" for name in others} <= unread.left_alone.keys()


def test_a_field_that_may_change_the_judgement_sets_the_record_aside():
    assert "may take the judgement back" in aside(studio(one(), result("rating", 4), withdrawn=True))
    assert "it may be the judgement" in aside(studio(one(), result("rating", 4)) | {"verdict": "bad"})
    assert "no text" in aside(argilla({"quality": 4}, **one(image="cat.png")))
    assert all(isinstance(row, Row) for row in parse(argilla({"quality": 4}, **one()), "file", RECOGNISED))


@pytest.mark.parametrize("answer", ["Tie", "no preference", "Both bad", "tie (bothbad)", "Equally good"])
def test_a_tie_is_spelt_in_several_ways(answer):
    fields = {"prompt": "Why?", "response-1": "Because.", "response-2": "No."}
    (row,) = parse({"fields": fields, "responses": {"preference": [{"value": answer, "user_id": "u"}]}}, "file")
    assert row.label == "tie"
