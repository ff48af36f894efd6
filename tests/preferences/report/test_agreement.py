"""Agreement: the published example, closed forms, and annotators about whom we know what they did."""

import math
import random

import numpy as np
import pytest

from plumbline.preferences.report.agreement import ENOUGH_TO_TELL_FROM_CHANCE, coincidences, ordinal_alpha
from plumbline.preferences.report.intervals import estimate
from plumbline.preferences.types import Origin, Ranking
from testing.reported import judged, prompt, reported

# Krippendorff 2011, section C: four observers, twelve units, values 1 to 5; a dot is missing.
PUBLISHED = ("1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 .")


def published_counts():
    counts = np.zeros((12, 5), int)
    for observer in PUBLISHED:
        for unit, value in enumerate(observer.split()):
            if value != ".":
                counts[unit, int(value) - 1] += 1
    return counts


def agreement(rows):
    return reported(rows)["agreement"]


def judgements(annotators, pairs, decide):
    """`decide(annotator, pair)` is a label."""
    return [judged(decide(who, i), who, (f"one {i}", f"two {i}"), f"Q{i}") for i in range(pairs) for who in annotators]


def test_the_published_example_has_the_published_coincidences_and_alpha():
    found = coincidences(published_counts())
    third = 1 / 3
    assert found == pytest.approx(np.array([
        [7, 4 * third, third, third, 0], [4 * third, 10, 4 * third, third, 0], [third, 4 * third, 8, third, 0],
        [third, third, third, 4, 0], [0, 0, 0, 0, 3]]))
    assert ordinal_alpha(found) == pytest.approx(0.815, abs=5e-4)


def test_two_annotators_have_the_alpha_of_the_closed_form():
    # N pairs without ties, agreeing on a share a: D_o = 1 - a, and with as many of either label D_e = N / (2N - 1).
    found = agreement(judgements(("ada", "ben"), 100, lambda who, i: "B" if who == "ben" and i % 5 == 0 else "A"))
    expected = 1 - (1 - 0.8) * (2 * 100 - 1) / 100
    assert found["alpha"]["value"] == pytest.approx(expected)
    assert found["by_pair"][0]["alpha"]["value"] == pytest.approx(expected)
    assert found["by_annotator"]["ada"]["alpha"]["value"] == pytest.approx(expected)
    assert found["overall"]["share"] == found["by_pair"][0]["share"] == pytest.approx(0.8)
    assert found["alpha"]["low"] < expected < found["alpha"]["high"]


def test_a_tie_is_a_smaller_disagreement_than_the_opposite():
    def alpha(ben_says):
        return agreement(judgements(("ada", "ben"), 100, lambda who, i: ben_says if who == "ben" and i % 5 == 0 else "A"
                                    ))["alpha"]["value"]

    assert alpha("A") == 1 > alpha("tie") > alpha("B")


def test_perfect_agreement_is_one_and_opposition_below_zero():
    assert agreement(judgements("ab", 40, lambda who, i: "A"))["alpha"]["value"] == 1.0
    assert agreement(judgements("ab", 40, lambda who, i: "AB"[who == "b"]))["alpha"]["value"] < -0.9


def test_the_order_in_which_responses_were_shown_changes_nothing():
    rng = random.Random(0)
    rows = judgements(("ada", "ben", "cleo"), 60, lambda who, i: rng.choice(("A", "A", "B", "tie")))
    assert agreement([row.swap() if rng.random() < 0.5 else row for row in rows]) == agreement(rows)


def test_missing_judgements_leave_the_others_as_they_are():
    rows = judgements(("ada", "ben"), 50, lambda who, i: "A" if i % 4 else "AB"[who == "ben"])
    alone = judgements(("cleo",), 1, lambda who, i: "A")[0]
    unknown = [judged("B", None, ("one 7", "two 7"), "Q7")]
    extra = judged(alone.label, "cleo", ("new", "pair"), "Only cleo")
    assert agreement([*rows, extra, *unknown])["alpha"] == agreement(rows)["alpha"]


def test_whoever_judges_again_counts_once():
    rows = [judged("A", "ada"), judged("B", "ben"), judged("B", "ada"), judged("tie", "cleo")]
    found = agreement(rows)
    assert (found["overall"]["share"], found["overall"]["n"]) == (0.0, 3)


def test_agreement_is_counted_for_each_annotator_and_each_two():
    rows = [judged("A", "ada"), judged("A", "ben"), judged("B", "cleo", ("two", "one")), judged("B", "dov")]
    found = agreement(rows)
    assert (found["overall"]["share"], found["overall"]["n"]) == (0.5, 6)
    assert (found["by_annotator"]["dov"]["share"], found["by_annotator"]["dov"]["n"]) == (0.0, 3)
    assert found["by_annotator"]["ada"]["share"] == pytest.approx(2 / 3)
    two = {tuple(pair["annotators"]): (pair["share"], pair["n"]) for pair in found["by_pair"]}
    assert two["ada", "cleo"] == (1.0, 1)
    assert two["ben", "dov"] == (0.0, 1)
    assert len(two) == 6


def test_rankings_agree_pair_by_pair():
    one = Ranking(prompt(), ("a", "b", "c"), (1, 2, 3), Origin("house", "ada"))
    other = Ranking(prompt(), ("c", "b", "a"), (2, 1, 3), Origin("house", "ben"))  # b, c, a
    overall = agreement([one, other])["overall"]
    assert (overall["share"], overall["n"]) == (pytest.approx(1 / 3), 3)


def test_without_a_second_opinion_agreement_is_absent():
    found = agreement([judged("A", "ada"), judged("B", None)])
    assert not {"overall", "alpha", "near_chance"} & set(found)
    assert found["by_annotator"] == {}


def test_someone_who_tosses_a_coin_is_near_chance_and_the_others_are_not():
    rng = random.Random(1)
    truth = [rng.choice("AB") for _ in range(300)]

    def decide(who, i):
        return rng.choice("AB") if who == "coin" or rng.random() < 0.3 else truth[i]

    near = agreement(judgements(("ada", "ben", "coin"), 300, decide))["near_chance"]
    assert near == {"measured": 3, "enough_pairs": 50, "annotators": ["coin"]}


def test_too_few_shared_pairs_say_nothing_about_anyone():
    found = agreement(judgements(("ada", "ben"), ENOUGH_TO_TELL_FROM_CHANCE - 1, lambda who, i: "AB"[who == "ben"]))
    assert "near_chance" not in found


def test_enough_pairs_are_enough_for_an_annotator_of_ordinary_agreement():
    n, p = ENOUGH_TO_TELL_FROM_CHANCE, 0.726
    told = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1) if estimate(k, n)["low"] > 0.5)
    assert told == pytest.approx(0.94, abs=0.01)
