"""Intervals against closed forms and against exact coverage, computed here and not by the code under test."""

from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline import statistics

outcomes = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=60)


def binomial(n, p):
    return [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


def test_the_mean_of_normal_values_has_the_interval_of_the_normal_law():
    values = np.random.default_rng(1).normal(3.0, 2.0, 2000).tolist()
    found = statistics.mean(values, range(2000))
    half = 1.959964 * np.std(values) / sqrt(2000)
    assert found.value == pytest.approx(np.mean(values))
    assert found.low == pytest.approx(np.mean(values) - half, abs=0.06 * half)
    assert found.high == pytest.approx(np.mean(values) + half, abs=0.06 * half)


def test_whole_prompts_are_resampled():
    """Ten copies of each outcome say no more than one: the interval must not shrink by the square root of ten."""
    values = [float(i % 3 == 0) for i in range(200)]
    once = statistics.mean(values, range(200))
    copied = statistics.mean(values * 10, [*range(200)] * 10)
    assert (copied.n, copied.prompts) == (2000, 200)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


def test_prompts_with_more_values_weigh_more():
    """Two prompts, three values of 1 and one of 0: residuals 3/4 and -3/4, error 3/4 * sqrt(2 * 2) / 4 = 3/8."""
    found = statistics.mean([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"])
    student_of_one = 12.706205  # tables: 0.975 with one degree of freedom
    assert (found.value, found.n, found.prompts) == (0.75, 4, 2)
    assert (found.low, found.high) == pytest.approx((0.75 - 0.375 * student_of_one, 0.75 + 0.375 * student_of_one))


def test_one_prompt_does_not_show_how_prompts_differ():
    found = statistics.mean([1.0, 3.0], ["a", "a"])
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)


def test_training_seeds_have_the_interval_of_student():
    """Three runs: 4.302653 standard errors (tables, two degrees of freedom)."""
    found = statistics.over_seeds([0.70, 0.80, 0.84])
    half = 4.302653 * sqrt(((0.08) ** 2 + 0.02**2 + 0.06**2) / 2) / sqrt(3)
    assert (found.value, found.n) == (pytest.approx(0.78), 3)
    assert (found.low, found.high) == pytest.approx((0.78 - half, 0.78 + half))
    with pytest.raises(ValueError, match="at least two"):
        statistics.over_seeds([0.7])


def test_ten_equal_outcomes_of_a_prompt_say_no_more_than_one():
    once = statistics.share([float(i % 3 == 0) for i in range(40)], range(40))
    copied = statistics.share([float(i % 3 == 0) for i in range(40)] * 10, [*range(40)] * 10)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    assert (once.low, once.high) == pytest.approx(statistics.wilson(14 / 40, 40)), "won or lost once: Wilson's of n"


def test_ties_and_several_outcomes_of_a_prompt_are_worth_more_than_one():
    ties = statistics.share([0.0, 0.5, 0.5, 1.0] * 25, range(100))
    lost_or_won = statistics.share([0.0, 0.0, 1.0, 1.0] * 25, range(100))
    assert ties.high - ties.low < 0.75 * (lost_or_won.high - lost_or_won.low), "half the variance: 0.71 of the width"
    four_of_each = statistics.share(([0.0, 1.0] * 2) * 100, [i // 4 for i in range(400)])
    assert four_of_each.high - four_of_each.low < 0.3 * (lost_or_won.high - lost_or_won.low)
    assert four_of_each.high > four_of_each.low, "that all prompts are alike is not certain of a hundred"


@pytest.mark.parametrize(("truth", "n"), [(0.98, 193), (0.5, 30), (0.8, 96), (0.95, 20)])
def test_exact_coverage_of_a_share(truth, n):
    """The chance of each number of wins is the binomial's; the bootstrap held 0.98 of 193 in 0.884."""
    held = 0.0
    for wins, chance in enumerate(binomial(n, truth)):
        found = statistics.share([1.0] * wins + [0.0] * (n - wins), range(n))
        held += chance * (found.low <= truth <= found.high)
    assert 0.92 <= held <= 0.98


def test_paired_outcomes_of_two_sides_add_up_to_one():
    values = np.random.default_rng(0).choice([0.0, 0.5, 1.0], 300).tolist()
    ours = statistics.share(values, range(300))
    theirs = statistics.share([1 - value for value in values], range(300))
    assert (ours.value + theirs.value, ours.low + theirs.high, ours.high + theirs.low) == pytest.approx((1, 1, 1))


@given(outcomes)
def test_an_interval_lies_around_its_value_and_in_range(values):
    for found in (statistics.share(values, range(len(values))),
                  statistics.share(values, [i // 2 for i in range(len(values))])):
        assert 0.0 <= found.low <= found.value <= found.high <= 1.0
        assert found.value == pytest.approx(sum(values) / len(values))
        assert found.n == len(values)


@given(st.floats(-1e6, 1e6), st.integers(1, 50))
def test_equal_values_give_exactly_that_value(value, n):
    found = statistics.mean([value] * n, range(n))
    assert (found.value, found.low, found.high) == (value, value, value)


def test_wilson_is_where_the_score_test_rejects():
    """Its ends solve |value - p| = z sqrt(p (1 - p) / n) (Wilson 1927)."""
    for value, n in ((0.9, 10), (0.5, 7), (0.31, 100)):
        for end in statistics.wilson(value, n):
            assert abs(value - end) == pytest.approx(1.959963985 * sqrt(end * (1 - end) / n))
    assert statistics.wilson(1.0, 10) == (pytest.approx(10 / (10 + 1.959963985**2)), 1.0)


def test_winning_nearly_every_time_does_not_make_a_few_prompts_certain():
    assert statistics.share([1.0] * 9 + [0.0], range(10)).low == pytest.approx(0.5958, abs=1e-4)
    assert statistics.share([1.0] * 5, range(5)).low == pytest.approx(0.5655, abs=1e-4)
    assert statistics.share([1.0] * 400, range(400)).low == pytest.approx(0.9905, abs=1e-4)


@pytest.mark.parametrize(("values", "prompts"), [([], []), ([1.0], [1, 2]), ([1.5], [1])])
def test_impossible_outcomes_are_refused(values, prompts):
    with pytest.raises(ValueError, match=r"expected as many|out of the range"):
        statistics.share(values, prompts)
