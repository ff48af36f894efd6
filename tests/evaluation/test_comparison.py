"""Candidates beside PPO: paired differences, and who is better than whom only where the interval says so."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from plumbline.evaluation.comparing.comparison import Evaluated, PolicyComparison, compare, paired, verdicts
from plumbline.evaluation.comparing.report import write_comparison_report
from plumbline.evaluation.samples import Sample, SampleAnswer
from plumbline.preferences.types import Message

PROMPTS = 60


def policy(name: str, won: list[float], seconds: float | None = 12.0, judged: int = PROMPTS) -> Evaluated:
    """A policy that won these shares against SFT, on the first prompts, which were judged."""
    answers = {one: SampleAnswer("so", True, {"kl": 1.0}) for one in ("policy", "sft")}
    opponents = ("sft", "sft_greedy", "sft_best_of_8")
    samples = [Sample((Message("user", f"question {i}"),), answers, {"sft": 1.0},
                      dict.fromkeys(opponents, share) if i < judged else {}) for i, share in enumerate(won)]
    rate = float(np.mean(won))
    metrics: dict[str, float | str] = {
        "judge": "gold", "prompts": PROMPTS, "characters_policy": 90.0, "characters_sft": 100.0, "kl_policy": 2.5}
    for opponent in ("sft", "sft_greedy", "best_of_8"):
        metrics |= {f"win_rate_vs_{opponent}{end}": rate + shift
                    for end, shift in (("", 0.0), ("_low", -0.05), ("_high", 0.05))}
        metrics[f"win_rate_vs_{opponent}_n"] = PROMPTS
    metrics["win_rate_vs_best_of_8_by_gold_n"] = PROMPTS
    return Evaluated(name, "dpo", metrics, samples, seconds)


def shares(seed: int, mean: float) -> list[float]:
    drawn = np.random.default_rng(seed).normal(mean, 0.2, PROMPTS)
    return [float(value) for value in np.clip(np.round(drawn * 4) / 4, 0, 1)]


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    one, other = shares(1, 0.7), shares(2, 0.5)
    keys = [str(i) for i in range(PROMPTS)]
    found = paired(dict(zip(keys, one, strict=True)), dict(zip(keys, other, strict=True)))
    expected = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx(
        (np.mean(one) - np.mean(other), expected.low, expected.high))


def test_prompts_that_only_one_was_judged_on_are_left_out() -> None:
    found = paired({"a": 1.0, "b": 0.5, "c": 0.0}, {"b": 0.25, "a": 0.25, "d": 1.0})
    assert found.value == pytest.approx(0.5) and found.prompts == 2


def test_all_pairs_together_hold_at_95_percent() -> None:
    """Of three policies there are three pairs: each interval is one of 1 - 0.05 / 3."""
    won = {name: {str(i): share for i, share in enumerate(shares(seed, mean))}
           for name, seed, mean in (("good", 1, 0.9), ("fair", 2, 0.5), ("poor", 3, 0.2))}
    found = verdicts(won)
    assert [(one.better, one.worse) for one in found] == [("good", "poor"), ("good", "fair"), ("fair", "poor")]
    expected = stats.ttest_rel(list(won["good"].values()), list(won["poor"].values())).confidence_interval(1 - 0.05 / 3)
    assert (found[0].difference.low, found[0].difference.high) == pytest.approx((expected.low, expected.high))


def test_a_few_prompts_tell_nobody_apart() -> None:
    """Eight equal differences have a standard error of 0."""
    few = {str(i): 0.5 for i in range(8)}
    assert verdicts({"one": few, "other": dict.fromkeys(few, 0.25)}) == []
    many = {str(i): 0.5 for i in range(30)}
    assert len(verdicts({"one": many, "other": dict.fromkeys(many, 0.25)})) == 1


def test_alike_policies_are_seldom_told_apart() -> None:
    """Six policies that are equally good: in 200 comparisons of all 15 pairs about 5 % may name one."""
    rng, named = np.random.default_rng(0), 0
    for _ in range(200):
        won = {name: dict(enumerate(rng.integers(0, 5, 40) / 4)) for name in "abcdef"}
        named += bool(verdicts({name: {str(i): float(v) for i, v in one.items()} for name, one in won.items()}))
    assert named <= 20


def test_the_table_says_what_was_measured_and_nothing_that_was_not(tmp_path: Path) -> None:
    found = compare([policy("ppo", shares(1, 0.5)), policy("dpo", shares(2, 0.52)),
                     policy("ipo", shares(3, 0.9), None)])
    assert [row.name for row in found.rows] == ["ppo", "dpo", "ipo"]
    assert found.rows[0].difference is None and found.rows[2].difference is not None
    assert found.opponents == ["sft", "sft_greedy", "best_of_8"]
    assert {(one.better, one.worse) for one in found.verdicts} == {("ipo", "ppo"), ("ipo", "dpo")}
    write_comparison_report(tmp_path, found)
    assert PolicyComparison.from_json((tmp_path / "comparison.json").read_text()) == found
    text = (tmp_path / "comparison.md").read_text()
    assert "against SFT, best of 8" in text and "ipo is better than ppo" in text
    assert "dpo is better" not in text and "ppo is better" not in text
    (said,) = found.sentences()
    assert said.startswith("ipo is better than ppo by +") and "], dpo by +" in said
    assert (tmp_path / "comparison.png").stat().st_size > 1000
    assert json.loads((tmp_path / "comparison.json").read_text())["rows"][2]["seconds"] is None


def test_where_nobody_is_better_that_is_what_is_said() -> None:
    found = compare([policy("ppo", shares(1, 0.5)), policy("dpo", shares(2, 0.5))])
    assert found.sentences() == ["No policy is surely better than another on these prompts."]


def test_prompts_that_nobody_judged_are_not_counted() -> None:
    """An endpoint with a limit is asked about the first ones alone."""
    found = compare([policy("ppo", shares(1, 0.5), judged=40), policy("dpo", shares(2, 0.5), judged=40)])
    assert found.prompts == 40
    assert {rate.prompts for row in found.rows for rate in row.win_rates.values()} == {40}
