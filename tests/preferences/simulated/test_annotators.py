"""Annotators: how often each agrees with the gold reward, by the law that their noise follows."""

import math
import random

import pytest

from plumbline.preferences.simulated import gold_reward, rows
from plumbline.preferences.simulated.annotators import ANNOTATORS, SimulatedAnnotator
from plumbline.preferences.types import Comparison, Demonstration, comparisons_of

RELIABLE = max(ANNOTATORS, key=lambda annotator: annotator.reliability).name
CARELESS = max(ANNOTATORS, key=lambda annotator: annotator.careless).name


@pytest.fixture(scope="module")
def agreement():
    """Share of each annotator's decided pairs in which the better response by gold won."""
    found = {}
    for row in rows(0, 0, 2500, 300):
        for pair in [] if isinstance(row, Demonstration) else comparisons_of(row):
            a, b = (gold_reward(pair.prompt, response) for response in pair.responses)
            if a != b and pair.label != "tie":
                found.setdefault(pair.origin.annotator, []).append((a > b) == (pair.label == "A"))
    return {name: sum(right) / len(right) for name, right in found.items()}


def test_everyone_agrees_with_gold_more_often_than_not_and_nobody_always(agreement):
    assert agreement.keys() == {annotator.name for annotator in ANNOTATORS}
    assert all(0.55 < share < 0.99 for share in agreement.values()), agreement


def test_the_most_reliable_agree_more_often_than_the_careless_one(agreement):
    assert agreement[CARELESS] == min(agreement.values())
    ranked = sorted(ANNOTATORS, key=lambda annotator: annotator.reliability, reverse=True)
    assert all(agreement[annotator.name] > agreement[CARELESS] + 0.1 for annotator in ranked[:3])
    assert agreement[RELIABLE] > 0.85


@pytest.mark.parametrize("reliability", [1.0, 5.0])
@pytest.mark.parametrize("difference", [0.0, 0.2, 0.5])
def test_choices_between_two_follow_bradley_terry(difference, reliability):
    annotator, rng, n = SimulatedAnnotator("test", reliability), random.Random(0), 8000
    wins = sum(annotator.utility(difference, "x", rng) > annotator.utility(0.0, "x", rng) for _ in range(n))
    expected = 1 / (1 + math.exp(-reliability * difference))
    assert wins / n == pytest.approx(expected, abs=4 * (0.25 / n) ** 0.5)


def test_a_taste_for_length_prefers_the_longer_of_two_equal_responses():
    annotator, rng = SimulatedAnnotator("test", 3.0, length_taste=0.1), random.Random(0)
    longer = "a b c d e f g h i j"
    wins = sum(annotator.utility(0.0, longer, rng) > annotator.utility(0.0, "a", rng) for _ in range(2000))
    assert wins / 2000 == pytest.approx(1 / (1 + math.exp(-3.0 * 0.9)), abs=0.04)


def test_there_are_ties_and_both_sides_win_as_often():
    labels = [row.label for row in rows(3, 0, 2000, 0) if isinstance(row, Comparison)]
    assert 0.01 < labels.count("tie") / len(labels) < 0.3
    assert abs(labels.count("A") - labels.count("B")) < 4 * len(labels) ** 0.5


def test_ranks_are_those_of_a_competition():
    for row in rows(0, 0, 0, 100):
        assert row.ranks == tuple(1 + sum(other < own for other in row.ranks) for own in row.ranks)
        assert min(row.ranks) == 1 and max(row.ranks) <= 4
