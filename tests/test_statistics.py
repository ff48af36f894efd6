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
    found = statistics.mean(values, range(2000), 4000, seed=0)
    half = 1.959964 * np.std(values) / sqrt(2000)
    assert found.value == pytest.approx(np.mean(values))
    assert found.low == pytest.approx(np.mean(values) - half, abs=0.06 * half)
    assert found.high == pytest.approx(np.mean(values) + half, abs=0.06 * half)


def test_whole_prompts_are_resampled():
    """Ten copies of each outcome say no more than one: the interval must not shrink by the square root of ten."""
    values = [float(i % 3 == 0) for i in range(200)]
    once = statistics.mean(values, range(200), 4000, seed=0)
    copied = statistics.mean(values * 10, [*range(200)] * 10, 4000, seed=0)
    assert (copied.n, copied.prompts) == (2000, 200)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


def test_prompts_with_more_values_weigh_more():
    found = statistics.mean([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"], 1000, seed=0)
    assert (found.value, found.low, found.high) == (0.75, 0.0, 1.0)


def test_paired_outcomes_of_two_sides_add_up_to_one():
    values = np.random.default_rng(0).choice([0.0, 0.5, 1.0], 300).tolist()
    ours = statistics.share(values, range(300), 2000, seed=5)
    theirs = statistics.share([1 - value for value in values], range(300), 2000, seed=5)
    assert (ours.value + theirs.value, ours.low + theirs.high, ours.high + theirs.low) == pytest.approx((1, 1, 1))


@given(outcomes, st.integers(0, 3))
def test_an_interval_lies_around_its_value_and_in_range(values, seed):
    for found in (statistics.share(values, range(len(values)), 200, seed),
                  statistics.mean(values, [i // 2 for i in range(len(values))], 200, seed)):
        assert 0.0 <= found.low <= found.value <= found.high <= 1.0
        assert found.value == pytest.approx(sum(values) / len(values))
        assert found.n == len(values)


@given(st.floats(-1e6, 1e6), st.integers(1, 50))
def test_equal_values_give_exactly_that_value(value, n):
    found = statistics.mean([value] * n, range(n), 100, seed=0)
    assert (found.value, found.low, found.high) == (value, value, value)


@given(outcomes, st.integers(0, 3))
def test_the_same_seed_gives_the_same_digits(values, seed):
    prompts = range(len(values))
    assert statistics.mean(values, prompts, 100, seed) == statistics.mean(values, prompts, 100, seed)


def test_drawing_in_parts_gives_the_numbers_of_drawing_at_once(monkeypatch):
    values = np.random.default_rng(0).normal(size=50).tolist()
    whole = statistics.mean(values, range(50), 999, seed=0)
    monkeypatch.setattr(statistics, "DRAWS_AT_ONCE", 50 * 7)
    assert statistics.mean(values, range(50), 999, seed=0) == whole


def test_wilson_is_where_the_score_test_rejects():
    """Its ends solve |value - p| = z sqrt(p (1 - p) / n) (Wilson 1927)."""
    for value, n in ((0.9, 10), (0.5, 7), (0.31, 100)):
        for end in statistics.wilson(value, n):
            assert abs(value - end) == pytest.approx(1.959963985 * sqrt(end * (1 - end) / n))
    assert statistics.wilson(1.0, 10) == (pytest.approx(10 / (10 + 1.959963985**2)), 1.0)


def test_of_ten_outcomes_the_bootstrap_promises_too_much_and_wilson_does_not():
    """Exact coverage at a true share of 0.9: the bootstrap of k of n is binomial with share k / n."""
    n, truth = 10, 0.9
    bootstrap = wilson = 0.0
    for k, chance in enumerate(binomial(n, truth)):
        below = np.cumsum(binomial(n, k / n))
        low, high = (int(np.argmax(below >= tail - 1e-12)) / n for tail in (0.025, 0.975))
        bootstrap += chance * (low <= truth <= high)
        low, high = statistics.wilson(k / n, n)
        wilson += chance * (low <= truth <= high)
    assert bootstrap == pytest.approx(0.65, abs=0.005)
    assert wilson == pytest.approx(0.93, abs=0.005)


def test_winning_nearly_every_time_does_not_make_a_few_prompts_certain():
    assert statistics.share([1.0] * 9 + [0.0], range(10), 1000, seed=0).low == pytest.approx(0.5958, abs=1e-4)
    assert statistics.share([1.0] * 5, range(5), 1000, seed=0).low == pytest.approx(0.5655, abs=1e-4)
    assert statistics.share([1.0] * 400, range(400), 1000, seed=0).low == pytest.approx(0.9905, abs=1e-4)


@pytest.mark.parametrize(("values", "prompts"), [([], []), ([1.0], [1, 2]), ([1.5], [1])])
def test_impossible_outcomes_are_refused(values, prompts):
    with pytest.raises(ValueError, match=r"expected as many|out of the range"):
        statistics.share(values, prompts, 100, seed=0)
