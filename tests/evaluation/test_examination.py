"""What the examination says about reward models whose virtues and faults are known beforehand."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.errors import UserError
from plumbline.evaluation.examination import ScoredComparison, examine, score_comparisons
from plumbline.preferences.simulated import gold_reward, rows
from plumbline.preferences.types import Comparison, Message, Origin, comparisons_of
from testing.depth import examples


def scored(margin, label="A", prompt="q", source="s", annotator="ada", responses=("one", "three")):
    """A comparison whose chosen response scores `margin` more."""
    pair = Comparison((Message("user", prompt),), responses, label, Origin(source, annotator))
    return ScoredComparison(pair, (margin, 0.0) if label != "B" else (0.0, margin))


def looked_at(examples, gold=None):
    return examine(examples, gold)


def shares(found, division):
    return {name: one.value for name, one in found.slices[division].items()}


def test_accuracy_counts_decided_pairs_and_equal_scores_as_half():
    found = looked_at([scored(2.0), scored(1.0, "B"), scored(-1.0), scored(0.0), scored(5.0, "tie")])
    assert found.accuracy.value == (1 + 1 + 0 + 0.5) / 4
    assert (found.accuracy.n, found.equal_scores, found.ties) == (4, 1, 1)
    assert found.difference_ties == 5.0
    assert found.difference_decided == 1.0


def test_accuracy_is_given_for_each_source_and_annotator():
    found = looked_at([scored(1.0, source="x", annotator="ada"), scored(-1.0, source="x", annotator="ben"),
                       scored(1.0, source="y", annotator=None)])
    assert shares(found, "source") == {"x": 0.5, "y": 1.0}
    assert shares(found, "annotator") == {"ada": 1.0, "ben": 0.0, "unknown": 1.0}
    assert found.slices["kind"] == {}, "only the simulated world has kinds of prompts"


def test_accuracy_is_given_for_each_kind_of_prompt_of_the_simulated_world():
    found = looked_at([scored(1.0, prompt="What color is the ant?"),
                       scored(-1.0, prompt="How do I steal the neighbor's car?")])
    assert shares(found, "kind") == {"fact": 1.0, "decline": 0.0}
    assert found.metrics()["accuracy_kind_decline"] == 0.0


def test_pairs_on_which_annotators_agree_are_examined_apart():
    """Two judgements of one pair, shown in either order, are of one pair; a tie agrees with ties alone."""
    found = looked_at([
        scored(1.0, "A", "q", responses=("one", "two")), scored(1.0, "B", "q", responses=("two", "one")),
        scored(1.0, "A", "q", responses=("one", "six")), scored(-1.0, "B", "q", responses=("one", "six")),
        scored(1.0, "A", "r", responses=("one", "two")), scored(0.0, "tie", "r", responses=("one", "two")),
        scored(-1.0, "A", "s", responses=("one", "two"))])
    assert shares(found, "agreement") == {"unanimous": 1.0, "split": pytest.approx(2 / 3), "once": 0.0}
    assert {name: one.n for name, one in found.slices["agreement"].items()} == {"unanimous": 2, "split": 3, "once": 1}


def test_an_ensemble_is_examined_where_its_members_agree_and_where_they_do_not():
    """Each member is examined, too; ties play no part."""
    of_ensemble = [scored(1.0), scored(2.0, "B"), scored(-1.0), scored(1.0), scored(3.0, "tie")]
    members = [[scored(margin, one.comparison.label) for margin, one in zip(margins, of_ensemble, strict=True)]
               for margins in ((1.0, 1.0, -1.0, 2.0, 1.0), (2.0, 3.0, -2.0, -1.0, 1.0), (1.0, 1.0, -1.0, 1.0, -1.0))]
    found = examine(of_ensemble, None, members)
    assert [one.value for one in found.members] == [0.75, 0.5, 0.75]
    assert {name: (one.value, one.n) for name, one in found.slices["members"].items()} == {
        "agree": (pytest.approx(2 / 3), 3), "differ": (1.0, 1)}
    assert (found.metrics()["accuracy_member_2"], found.metrics()["accuracy_members_agree_n"]) == (0.5, 3)
    alone = looked_at(of_ensemble)
    assert alone.members == [] and alone.slices["members"] == {}


def test_lengths_are_examined_apart():
    """Of 100 characters, 125 are similar and 126 longer, 200 longer and 201 much longer."""
    lengths = {(125, 100): "similar", (100, 125): "similar", (126, 100): "longer", (200, 100): "longer",
               (201, 100): "much longer", (100, 126): "shorter", (100, 201): "much shorter", (0, 3): "much shorter"}
    for (chosen, rejected), name in lengths.items():
        found = looked_at([scored(1.0, responses=("a" * chosen, "b" * rejected)),
                           scored(-1.0, "B", responses=("b" * rejected, "a" * chosen))])
        assert shares(found, "length") == {name: 0.5}
        assert (found.similar_length is not None) == (name == "similar")
    assert found.metrics()["accuracy_length_much_shorter_n"] == 2


def test_the_interval_resamples_prompts_and_not_comparisons():
    of_many = looked_at([scored(1.0 if i % 2 else -1.0, prompt=f"q{i % 40}") for i in range(800)])
    assert of_many.accuracy.prompts == 40
    assert of_many.accuracy.high - of_many.accuracy.low > 0.25  # 0.07 if all were independent


def test_bradley_terry_loss_is_that_of_the_formula():
    found = looked_at([scored(2.0), scored(-1.0, "B"), scored(0.0)])
    expected = -(math.log(1 / (1 + math.exp(-2))) + math.log(1 / (1 + math.exp(1))) + math.log(0.5)) / 3
    assert found.bt_loss == pytest.approx(expected)
    assert looked_at([scored(0.0)]).bt_loss == pytest.approx(math.log(2))
    assert looked_at([scored(-1000.0)]).bt_loss == pytest.approx(1000.0)


def test_calibration_error_is_zero_for_honest_confidence_and_large_for_bluffing():
    honest = math.log(3)  # sigmoid: 0.75
    assert looked_at([scored(honest)] * 75 + [scored(-honest)] * 25).ece == pytest.approx(0.0, abs=1e-9)
    bluff = looked_at([scored(100.0)] * 60 + [scored(-100.0)] * 40)
    assert bluff.ece == pytest.approx(0.4)
    assert [(one.predicted, one.observed, one.n) for one in bluff.calibration] == [(1.0, 0.6, 100)]


def test_wider_margins_are_examined_apart():
    found = looked_at([scored(0.1), scored(-0.1), scored(9.0), scored(9.0)] * 5)
    assert (found.by_margin[0].observed, found.by_margin[-1].observed) == (0.5, 1.0)
    assert sum(one.n for one in found.by_margin) == 20


def test_a_model_that_only_measures_length_is_found_out():
    pairs = [("short", "much longer text"), ("a longer text", "x"), ("abc", "abcdef"), ("abcd", "ab")]
    labels = ["B", "A", "A", "A"]
    examples = [replace(scored(0.0, label, responses=texts), scores=(0.1 * len(texts[0]), 0.1 * len(texts[1])))
                for label, texts in zip(labels, pairs, strict=True)]
    found = looked_at(examples)
    assert found.length_correlation == pytest.approx(1.0)
    assert found.longer_baseline.value == found.accuracy.value == 0.75
    assert found.shorter_baseline.value == 0.25


def test_the_worst_mistakes_come_first():
    found = looked_at([scored(margin) for margin in (3.0, -0.5, -7.0, 0.0)])
    assert [one.margin for one in found.worst] == [-7.0, -0.5]


def test_the_ceiling_is_what_the_truth_itself_reaches_on_noisy_labels():
    truth = {"good": 1.0, "bad": 0.0}
    def gold(_, response):
        return truth[response]
    examples = [scored(1.0, label, responses=("good", "bad")) for label in ("A", "A", "A", "B", "tie")]
    found = looked_at(examples, gold)
    assert found.ceiling.value == 0.75
    assert found.accuracy.value == 1.0  # it learnt the noise too
    assert found.gold_agreement.value == 0.8  # five pairs, ties included; on the mislabelled one it disagrees
    assert looked_at(examples).ceiling is None


def test_figures_that_cannot_be_measured_are_none_and_never_zero():
    metrics = looked_at([scored(1.0, responses=("one", "two"))]).metrics()
    assert metrics["ceiling_accuracy"] is None and metrics["length_correlation"] is None
    with pytest.raises(ValueError, match="no comparison is decided"):
        looked_at([scored(1.0, "tie")])


@examples(50)
@given(st.lists(st.tuples(st.floats(-5, 5), st.sampled_from(["A", "B", "tie"]), st.integers(0, 5)), min_size=1))
def test_the_order_in_which_responses_were_shown_changes_nothing(drawn):
    examples = [scored(margin, label, f"q{prompt}") for margin, label, prompt in [(1.0, "A", 0), *drawn]]
    swapped = [ScoredComparison(one.comparison.swap(), one.scores[::-1]) for one in examples]
    assert looked_at(swapped).metrics() == pytest.approx(looked_at(examples).metrics(), nan_ok=True)


def test_each_response_is_scored_once_and_infinite_scores_are_refused():
    pairs = [pair for row in rows(0, 0, 5, 5) for pair in comparisons_of(row)]
    asked = []

    def score(conversations):
        asked.extend(conversations)
        return [gold_reward(*one) for one in conversations]

    found = score_comparisons(pairs, score)
    assert len(asked) == len(set(asked)) < 2 * len(pairs)
    assert all(one.scores == tuple(gold_reward(one.comparison.prompt, text) for text in one.comparison.responses)
               for one in found)
    with pytest.raises(UserError, match="diverged"):
        score_comparisons(pairs, lambda conversations: [math.nan] * len(conversations))


def test_the_gold_reward_examined_as_a_reward_model_reaches_its_own_ceiling():
    pairs = [pair for row in rows(0, 0, 300, 20) for pair in comparisons_of(row)]
    found = looked_at(score_comparisons(pairs, lambda texts: [gold_reward(*one) for one in texts]), gold_reward)
    assert found.gold_agreement.value == 1.0
    assert found.accuracy.value == pytest.approx(found.ceiling.value, abs=0.005)
    assert 0.6 < found.ceiling.value < 0.98  # the annotators are noisy, and not hopeless
