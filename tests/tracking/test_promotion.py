"""When a policy becomes champion: each rule, what a missing figure means, and what is said."""

from dataclasses import dataclass
from typing import Any

import pytest

from plumbline.config import PromoteParams, load_params
from plumbline.tracking.promotion import (
    Circumstances,
    Decision,
    as_markdown,
    decide,
    kept_out,
    postponed,
    rules_of,
    was_overtaken,
)
from testing.fake_project import CHECKOUT

GATE = {"passed": True, "reasons": []}
DEFAULTS = load_params(CHECKOUT).promote


@dataclass(frozen=True)
class Rate:
    """An interval of a win rate."""

    value: float
    low: float
    high: float

    def under(self, key: str) -> dict[str, Any]:
        return {key: self.value, f"{key}_low": self.low, f"{key}_high": self.high, f"{key}_n": 400}


def measured(sft_low: float = 0.7, champion_low: float | None = None, **more: object) -> dict[str, Any]:
    found = {**Rate(0.8, sft_low, 0.9).under("win_rate_vs_sft"),
             **Rate(0.75, 0.65, 0.8).under("win_rate_vs_sft_greedy"), "judge": "gold", "kl_policy": 3.0,
             "characters_policy": 120.0, "characters_sft": 100.0}
    if champion_low is not None:
        found |= Rate(0.6, champion_low, 0.65).under("win_rate_vs_champion")
    return {**found, **more}


def params(**given: object) -> PromoteParams:
    return PromoteParams.model_validate({**DEFAULTS.model_dump(), **given})


def decided(figures: dict[str, Any], champion: int | None = None, gate: dict[str, Any] | None = None,
            lost_rows: int = 0, second: dict[str, Any] | None = None, **given: object) -> Decision:
    return decide(figures, Circumstances(champion, gate or GATE, second or {}, lost_rows), params(**given))


def verdicts(decision: Decision) -> dict[str, str]:
    return {rule.name: rule.verdict for rule in decision.rules}


def test_a_first_policy_that_beats_sft() -> None:
    decision = decided(measured(), min_win_rate_greedy=None)
    assert decision.promoted
    assert decision.reasons == ["win rate against SFT 0.800 [0.700, 0.900], n = 400: lower end above 0.5",
                                "there was no champion to compare with"]


@pytest.mark.parametrize(("sft_low", "champion_low", "promoted"),
                         [(0.7, 0.51, True), (0.7, 0.5, False), (0.7, 0.4, False), (0.5, 0.6, False)])
def test_both_intervals_must_lie_above(sft_low: float, champion_low: float, promoted: bool) -> None:
    assert decided(measured(sft_low, champion_low), 3).promoted is promoted


def test_greedy_answers_count_where_they_are_asked_for() -> None:
    lost = measured(**Rate(0.55, 0.45, 0.65).under("win_rate_vs_sft_greedy"))
    asked = decided(lost, min_win_rate_greedy=0.5)
    assert not asked.promoted
    assert ("win rate against SFT, both greedy 0.550 [0.450, 0.650], n = 400; required is lower end above 0.5"
            in asked.reasons)
    assert decided(lost, min_win_rate_greedy=None).promoted


def test_a_kind_that_is_surely_lost_is_named() -> None:
    kinds = {**Rate(0.9, 0.85, 0.95).under("win_rate_vs_sft_kind_fact"),
             **Rate(0.3, 0.2, 0.42).under("win_rate_vs_sft_kind_howto_low"),  # a kind may be called anything
             **Rate(0.4, 0.3, 0.5).under("win_rate_vs_sft_kind_compare")}
    decision = decided(measured(**kinds), max_kind_loss=0.05)
    assert not decision.promoted
    assert [rule.measured for rule in decision.rules if "kind" in rule.name] == ["howto_low 0.300 [0.200, 0.420]"]
    assert decided(measured(**kinds), max_kind_loss=0.1).promoted  # 0.42 is not below 0.4
    assert decided(measured(**kinds), max_kind_loss=None).promoted


def test_without_kinds_no_kind_is_lost() -> None:
    decision = decided(measured())
    assert decision.promoted and verdicts(decision)["win rate of each kind of prompts"] == "not measured"


@pytest.mark.parametrize(("figure", "value", "limit", "promoted"), [
    ("characters_policy", 150.0, {"max_length_growth": 1.5}, True),
    ("characters_policy", 151.0, {"max_length_growth": 1.5}, False),
    ("characters_policy", 900.0, {"max_length_growth": None}, True),
    ("kl_policy", 10.0, {"max_kl": 10.0}, True),
    ("kl_policy", 10.1, {"max_kl": 10.0}, False),
    ("kl_policy", 99.0, {"max_kl": None}, True)])
def test_length_and_kl_have_limits(figure: str, value: float, limit: dict[str, Any], promoted: bool) -> None:
    assert decided(measured(**{figure: value}), **limit).promoted is promoted


def test_the_reward_model_that_ppo_optimised_never_promotes() -> None:
    decision = decided(measured(judge="reward"))
    assert not decision.promoted
    assert "judge the reward model, which PPO optimised; required is none that PPO optimised" in decision.reasons
    assert decided(measured(judge="gold")).promoted


def test_a_rule_that_ppo_optimised_never_promotes_either() -> None:
    decision = decided(measured(judge="no_lists", judge_optimised=1))
    assert not decision.promoted
    assert "judge no_lists, which PPO optimised; required is none that PPO optimised" in decision.reasons
    assert decided(measured(judge="no_lists")).promoted


def test_a_reward_model_that_failed_its_examination() -> None:
    decision = decided(measured(), gate={"passed": False, "reasons": ["probe `repeated` wins in 0.9"]})
    assert not decision.promoted
    assert any("probe `repeated` wins in 0.9" in reason for reason in decision.reasons)


@pytest.mark.parametrize("key", ["win_rate_vs_sft", "win_rate_vs_sft_low", "win_rate_vs_champion_low", "kl_policy",
                                 "characters_sft", "win_rate_vs_sft_greedy", "judge"])
def test_a_figure_that_is_missing_blocks_and_is_named(key: str) -> None:
    figures = measured(champion_low=0.55)
    del figures[key]
    decision = decided(figures, 3, min_win_rate_greedy=0.5)
    assert not decision.promoted
    assert list(verdicts(decision).values()).count("not measured") == 2  # and the kinds, of which there are none
    assert any("not measured; required is" in reason for reason in decision.reasons)


def test_what_the_version_before_measured_is_no_crash() -> None:
    old = {**Rate(0.8, 0.7, 0.9).under("win_rate_vs_sft"), "kl_policy": True}
    decision = decide(old, Circumstances(None, {}, {}), params())
    assert not decision.promoted and "not measured" in verdicts(decision).values()


@pytest.mark.parametrize(("low", "lost_rows", "margin", "promoted"),
                         [(0.46, 12, 0.05, True), (0.45, 12, 0.05, False), (0.46, 0, 0.05, False),
                          (0.46, 12, None, False)])
def test_after_removals_not_worse_is_enough(low: float, lost_rows: int, margin: float | None, promoted: bool) -> None:
    figures = measured(**Rate(0.52, low, 0.58).under("win_rate_vs_champion"))
    decision = decided(figures, 3, lost_rows=lost_rows, non_inferior_by=margin)
    assert decision.promoted is promoted
    assert any("12 of whose rows were removed" in rule.name for rule in decision.rules) == bool(lost_rows and margin)


def test_approval_lets_a_person_decide() -> None:
    waits = decided(measured(), approval=True)
    assert (waits.promoted, waits.awaiting) == (False, True)
    assert waits.reasons[-1] == "every rule passed, and promote.approval asks for a person's word"
    refused = decided(measured(sft_low=0.4), approval=True)
    assert (refused.promoted, refused.awaiting) == (False, False)


def test_every_rule_is_told_with_requirement_measurement_and_verdict() -> None:
    decision = decided(measured(kl_policy=12.5, judge="a|b"), max_kl=10.0)
    assert {"rule": "KL to SFT", "required": "at most 10 nats a response", "measured": "12.50 nats",
            "verdict": "failed"} in [rule.plain() for rule in decision.rules]
    text = as_markdown(4, decision)
    assert text.startswith("# Version 4 stays challenger\n")
    assert "| KL to SFT | at most 10 nats a response | 12.50 nats | failed |" in text
    assert "a\\|b" in text
    assert "`plumbline promote 4`" in as_markdown(4, decided(measured(), approval=True))


@pytest.mark.parametrize(("second", "verdict"), [
    (Rate(0.64, 0.51, 0.75).under("heldout_accuracy"), "passed"),
    (Rate(0.64, 0.50, 0.76).under("heldout_accuracy"), "failed"),
    ({"pairs": 12}, "not measured")])
def test_a_second_reward_model_decides_only_if_it_is_surely_better_than_chance(second, verdict) -> None:
    decision = decided(measured(judge="second"), second=second)
    name = "second reward model, right on held-out comparisons:"
    assert verdicts(decision)[name] == verdict
    assert decision.promoted is (verdict == "passed")
    assert any(reason.startswith(name) for reason in decision.reasons) is (verdict != "passed")
    assert name not in verdicts(decided(measured(judge="gold"), second=second)), "there it decides nothing"


def test_a_parameter_that_is_null_asks_nothing() -> None:
    nothing = params(min_win_rate_greedy=None, max_kind_loss=None, max_length_growth=None, max_kl=None)
    names = [rule.name for rule in rules_of(measured(), Circumstances(None, GATE, {}), nothing)]
    assert names == ["win rate against SFT", "judge", "examination of the reward model"]


@pytest.mark.parametrize(("compared_with", "champion_now", "overtaken"),
                         [(1, 2, True), (None, 2, True), (1, 1, False), (None, None, False), (1, 3, False)])
def test_a_newer_champion_overtakes(compared_with: int | None, champion_now: int | None, overtaken: bool) -> None:
    assert was_overtaken(compared_with, champion_now, version=3) is overtaken


def test_a_champion_that_it_was_not_compared_with_stays() -> None:
    decision = postponed(Decision(True, ["it won"]), compared_with=1, champion_now=2)
    assert not decision.promoted
    assert decision.reasons == ["it won", "it was compared with version 1, but version 2 has become champion since: "
                                          "run again to compare it with that one"]


def test_a_version_that_was_rolled_back_stays_out_of_use() -> None:
    decision = kept_out(Decision(True, ["it won"]), 3, "it swears")
    assert not decision.promoted
    assert decision.reasons == ["it won", "version 3 was rolled back (it swears): `plumbline promote 3` puts it into "
                                          "use again"]
