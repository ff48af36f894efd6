"""When a policy becomes champion."""

import pytest

from plumbline.errors import UserError
from plumbline.tracking.promotion import Decision, decide, kept_out, postponed, was_overtaken


def measured(sft_low: float = 0.7, champion_low: float | None = None) -> dict[str, object]:
    found: dict[str, object] = {"win_rate_vs_sft": 0.8, "win_rate_vs_sft_low": sft_low, "win_rate_vs_sft_high": 0.9,
                                "win_rate_vs_sft_n": 400}
    if champion_low is not None:
        found |= {"win_rate_vs_champion": 0.6, "win_rate_vs_champion_low": champion_low,
                  "win_rate_vs_champion_high": 0.65, "win_rate_vs_champion_n": 400}
    return found


def test_a_first_policy_that_beats_sft() -> None:
    decision = decide(measured(), None, 0.5)
    assert decision.promoted
    assert decision.reasons == ["win rate against SFT 0.800 [0.700, 0.900], n = 400: lower end above 0.5",
                                "there was no champion to compare with"]


@pytest.mark.parametrize(("sft_low", "champion_low", "promoted"),
                         [(0.7, 0.51, True), (0.7, 0.5, False), (0.7, 0.4, False), (0.5, 0.6, False)])
def test_both_intervals_must_lie_above(sft_low: float, champion_low: float, promoted: bool) -> None:
    assert decide(measured(sft_low, champion_low), 3, 0.5).promoted is promoted


def test_a_missing_measurement_is_an_error_not_a_zero() -> None:
    with pytest.raises(UserError, match="win_rate_vs_champion"):
        decide(measured(), 3, 0.5)


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
