"""Intervals of shares: right where the answer is known, and wider where judgements resemble each other."""

import numpy as np
import pytest

from plumbline.preferences.report.intervals import estimate, share_by_prompt, shares_by_group


def test_fifty_of_a_hundred_has_the_interval_of_the_textbook():
    found = estimate(50, 100)
    # Wilson 1927: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), by hand with z = 1.959964.
    assert (found["low"], found["high"]) == (pytest.approx(0.40383, abs=1e-5), pytest.approx(0.59617, abs=1e-5))


def test_prompts_judged_once_are_independent():
    won = np.arange(200) % 4 == 0
    assert share_by_prompt(won, np.arange(200)) == pytest.approx(estimate(50, 200))


def test_repeating_every_prompt_adds_nothing_to_what_is_known():
    won, prompts = np.arange(200) % 4 == 0, np.arange(200)
    repeated = share_by_prompt(np.repeat(won, 6), np.repeat(prompts, 6))
    once = share_by_prompt(won, prompts)
    assert repeated["n"] == 6 * once["n"]
    assert (repeated["low"], repeated["high"]) == pytest.approx((once["low"], once["high"]))


def test_few_prompts_count_once_each():
    found = share_by_prompt(np.array([True] * 60), np.repeat(np.arange(3), 20))
    assert found["low"] == pytest.approx(estimate(3, 3)["low"])
    assert found["low"] < 0.5


def test_groups_are_measured_by_themselves_and_the_largest_kept():
    won = np.array([True, True, False, True, False, False])
    found = shares_by_group(won, np.arange(6), np.array([0, 0, 0, 2, 2, 3]), most=2)
    assert {group: (share["share"], share["n"]) for group, share in found.items()} == {
        0: (pytest.approx(2 / 3), 3), 2: (0.5, 2)}


def test_nothing_has_no_share():
    assert share_by_prompt(np.array([], bool), np.array([], int)) is None


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        chance = np.repeat(rng.beta(2, 2, 80), 5)  # prompts differ, their five judgements do not: the mean is one half
        found = share_by_prompt(rng.random(400) < chance, np.repeat(np.arange(80), 5))
        held += found["low"] <= 0.5 <= found["high"]
    assert 0.92 <= held / 400 <= 0.98
