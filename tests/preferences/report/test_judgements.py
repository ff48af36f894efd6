"""What labels say when something that should not matter decides, and when they contradict each other."""

import pytest

from plumbline.preferences.types import Comparison, Origin, Ranking
from testing.reported import judged, prompt, reported


def contradictions(*rows):
    found = reported(rows)["agreement"]
    return tuple(found[name] for name in ("pairs_judged_again", "contradictions", "by_one_annotator",
                                          "between_annotators"))


def test_both_labels_for_one_pair_are_a_contradiction_whatever_the_order_shown():
    assert contradictions(judged("A", "ada"), judged("A", "ben", ("two", "one"))) == (1, 1, 0, 1)
    assert contradictions(judged("A", "ada"), judged("B", "ben", ("two", "one"))) == (1, 0, 0, 0)


def test_contradicting_oneself_is_told_from_contradicting_others():
    assert contradictions(judged("A", "ada"), judged("B", "ada")) == (1, 1, 1, 0)
    assert contradictions(judged("A", "ada"), judged("B", "ada"), judged("A", "ben")) == (1, 1, 1, 1)
    assert contradictions(judged("A", None), judged("B", None)) == (1, 1, 0, 0)
    assert contradictions(judged("A", None), judged("B", "ada")) == (1, 1, 0, 0)


def test_ties_and_other_prompts_contradict_nothing():
    assert contradictions(judged("A", "ada"), judged("tie", "ben")) == (1, 0, 0, 0)
    assert contradictions(judged("A", "ada"), judged("B", "ben", of="Another")) == (0, 0, 0, 0)


def test_a_ranking_can_contradict_a_comparison():
    ranking = Ranking(prompt(), ("one", "three", "two"), (2, 3, 1), Origin("house", "ben"))
    assert contradictions(ranking, judged("A", "ada")) == (1, 1, 0, 1)


def test_the_longer_response_is_counted_in_characters_ties_and_equal_lengths_aside():
    rows = [judged(label, "ada", ("x", "longer"), f"Q{i}") for i, label in enumerate(["B", "B", "A", "tie"])]
    found = reported([*rows, judged("A", "ada", ("xx", "yy"), "Q9")])
    assert (found["judgements"]["longer_wins"]["share"], found["judgements"]["longer_wins"]["n"]) == (
        pytest.approx(2 / 3), 3)
    assert found["judgements"]["ties"]["share"] == pytest.approx(1 / 5)


def test_who_prefers_length_is_seen_by_annotator_and_by_source():
    rows = [judged("B" if who == "dov" or i % 2 else "A", who, ("x", "longer"), f"Q{i}", source)
            for i in range(40) for who, source in (("ada", "left"), ("dov", "right"))]
    bias = reported(rows)["bias"]["longer_wins"]
    assert bias["by_annotator"]["dov"]["share"] == bias["by_source"]["right"]["share"] == 1.0
    assert bias["by_annotator"]["ada"]["share"] == bias["by_source"]["left"]["share"] == 0.5
    assert bias["overall"]["share"] == 0.75


def test_position_is_measured_only_where_either_side_can_win():
    chosen_first = [judged("A", "ada", of=f"Q{i}", source="pairs") for i in range(30)]
    assert "first_shown_wins" not in reported(chosen_first)["judgements"]
    shown = [judged("A" if i % 3 else "B", "ada", of=f"Q{i}", source="screen") for i in range(30)]
    found = reported([*chosen_first, *shown])
    assert found["judgements"]["first_shown_wins"]["n"] == 30
    assert found["judgements"]["first_shown_wins"]["share"] == pytest.approx(2 / 3)
    assert list(found["bias"]["first_shown_wins"]["by_source"]) == ["screen"]


def test_what_is_made_of_ratings_is_judged_but_was_never_shown_side_by_side():
    derived = [Comparison(prompt(f"Q{i}"), ("x", "longer"), "AB"[i % 2], Origin("thumbs", "ada")) for i in range(10)]
    found = reported([], derived)
    assert found["judgements"]["pairs"] == found["judgements"]["longer_wins"]["n"] == 10
    assert "first_shown_wins" not in found["judgements"]
    assert found["by_kind"] == found["by_annotator"] == {}


def test_two_equal_responses_are_no_choice():
    assert reported([judged("A", "ada", ("same", "same"))])["judgements"] == {"pairs": 0}
