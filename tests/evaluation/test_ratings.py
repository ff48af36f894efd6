"""Bradley–Terry ratings against an independent maximum likelihood, closed forms, and a simulation."""

import math
import random

import numpy as np
import pytest
from scipy.optimize import minimize

from plumbline.evaluation.ratings import PlayedMatch, games_of, ratings
from plumbline.statistics import share

ELO = 173.71779276130074
"""400 / ln 10."""


def likely(matches: list[PlayedMatch], anchor: str) -> tuple[dict[str, float], dict[str, float]]:
    """Elo ratings and their standard errors by a general optimiser and a numerical second derivative."""
    names = sorted({str(name) for one in matches for name in (one.first, one.second)} - {anchor})

    def loss(values: np.ndarray) -> float:
        strengths = dict(zip(names, values, strict=True)) | {anchor: 0.0}
        total = 0.0
        for one in matches:
            difference = strengths[str(one.first)] - strengths[str(one.second)]
            won = one.win_rate * one.games + 0.5
            lost = (1 - one.win_rate) * one.games + 0.5
            total += won * math.log1p(math.exp(-difference)) + lost * math.log1p(math.exp(difference))
        return total

    best = minimize(loss, np.zeros(len(names)), method="BFGS", options={"gtol": 1e-9}).x
    size, step = len(names), 1e-3
    second = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                at = best.copy()
                at[i] += a * step
                at[j] += b * step
                second[i, j] += a * b * loss(at) / (4 * step * step)
    errors = np.sqrt(np.diag(np.linalg.inv(second)))
    return ({name: ELO * value for name, value in zip(names, best, strict=True)},
            {name: ELO * error for name, error in zip(names, errors, strict=True)})


def test_they_are_those_of_a_general_optimiser() -> None:
    matches = [PlayedMatch("a", "sft", 0.8, 200), PlayedMatch("b", "sft", 0.75, 150), PlayedMatch("b", "a", 0.55, 190),
               PlayedMatch("c", "sft", 0.9, 60), PlayedMatch("c", "b", 0.52, 40.5), PlayedMatch("a", "b", 0.5, 20)]
    found = ratings(matches, "sft")
    values, errors = likely(matches, "sft")
    assert found.keys() == {"sft", "a", "b", "c"}
    for name, value in values.items():
        assert found[name].value == pytest.approx(value, abs=0.01)
        assert found[name].high - found[name].value == pytest.approx(1.959964 * errors[name], rel=1e-3)
        assert found[name].low + found[name].high == pytest.approx(2 * found[name].value)
    assert (found["sft"].value, found["sft"].low, found["sft"].high) == (0, 0, 0)


def test_one_match_is_the_log_of_the_odds() -> None:
    found = ratings([PlayedMatch("a", "sft", 10 / 11, 1e9)], "sft")
    assert found["a"].value == pytest.approx(400, abs=1e-3)  # 10 of 11 is what 400 Elo means
    turned = ratings([PlayedMatch("sft", "a", 1 / 11, 1e9)], "sft")
    assert turned["a"].value == pytest.approx(400, abs=1e-3)
    assert ratings([PlayedMatch("a", "sft", 0.5, 100)], "sft")["a"].value == pytest.approx(0, abs=1e-9)


def test_a_match_without_a_loss_is_finite_and_its_interval_wide() -> None:
    found = ratings([PlayedMatch("a", "sft", 1.0, 50)], "sft")["a"]
    assert found.value == pytest.approx(ELO * math.log(50.5 / 0.5))
    assert found.low < found.value - 200


def test_a_contestant_far_away_and_a_long_chain_converge() -> None:
    matches = [PlayedMatch(1, 0, 0.9999, 1e6), *(PlayedMatch(i + 1, i, 0.6, 300) for i in range(1, 400))]
    found = ratings(matches, 0)
    assert found[1].value == pytest.approx(ELO * math.log(999900.5 / 100.5))
    one = ELO * math.log(180.5 / 120.5)
    assert found[400].value == pytest.approx(found[1].value + 399 * one)
    widths = [found[i].high - found[i].low for i in range(1, 401)]
    assert widths == sorted(widths)  # each link of the chain adds its uncertainty


def test_who_never_met_the_anchor_has_no_rating() -> None:
    found = ratings([PlayedMatch("a", "sft", 0.6, 10), PlayedMatch("x", "y", 0.6, 10)], "sft")
    assert found.keys() == {"sft", "a"}
    assert ratings([], "sft").keys() == {"sft"}


@pytest.mark.parametrize(("rate", "games"), [(1.1, 10), (-0.1, 10), (0.5, 0)])
def test_what_is_no_match_is_refused(rate: float, games: float) -> None:
    with pytest.raises(ValueError, match="win rate from 0 to 1"):
        ratings([PlayedMatch("a", "sft", rate, games)], "sft")


def test_games_are_the_prompts_where_each_was_answered_once_and_fewer_where_answers_repeat() -> None:
    draw = random.Random(0)
    wins = [float(draw.random() < 0.7) for _ in range(400)]
    once = share(wins, list(range(400)))
    assert games_of(once.value, once.low, once.high, once.n) == pytest.approx(400, rel=0.1)
    four = share([win for win in wins for _ in range(4)], [i for i in range(400) for _ in range(4)])
    assert games_of(four.value, four.low, four.high, four.n) == pytest.approx(400, rel=0.1)
    assert 5 < games_of(1.0, 0.839, 1.0, 20) <= 20


@pytest.mark.slow
def test_the_intervals_hold_the_truth_in_95_of_100(trials: int = 400) -> None:
    truth, games = {"a": 150.0, "b": 190.0, "c": 60.0}, {("a", "sft"): 200, ("b", "sft"): 200, ("b", "a"): 200,
                                                         ("c", "sft"): 200, ("c", "b"): 200}
    draw = np.random.default_rng(0)
    inside = dict.fromkeys(truth, 0)
    for _ in range(trials):
        matches = []
        for (first, second), n in games.items():
            chance = 1 / (1 + 10 ** ((truth.get(second, 0.0) - truth[first]) / 400))
            matches.append(PlayedMatch(first, second, draw.binomial(n, chance) / n, n))
        found = ratings(matches, "sft")
        for name, value in truth.items():
            inside[name] += found[name].low <= value <= found[name].high
    assert all(0.92 <= count / trials <= 0.98 for count in inside.values()), inside
