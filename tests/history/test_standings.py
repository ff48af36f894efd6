"""Ratings of versions from what was recorded of their evaluations, and how the command lists them."""

import math
from dataclasses import replace

import pytest

from plumbline.commands.versions import listed
from plumbline.history.history import History, Run
from plumbline.history.standings import standings
from plumbline.project.home import Home
from testing.made_up import fill, run, step, version

ELO = 173.71779276130074


def measured(number: int, sft: float, champion: float | None = None, facts: dict[str, str] | None = None,
             **given: object) -> Run:
    """A run that measured win rates in 400 prompts, a little unsure."""
    metrics: dict[str, float] = {}
    for key, rate in (("sft", sft), ("champion", champion)):
        if rate is not None:
            half = 1.96 * math.sqrt(rate * (1 - rate) / 400)
            metrics |= {f"win_rate_vs_{key}": rate, f"win_rate_vs_{key}_low": rate - half,
                        f"win_rate_vs_{key}_high": rate + half, f"win_rate_vs_{key}_n": 400.0}
    one = step("preference_eval", metrics=metrics, facts=facts or {}, **given)
    return run(id=f"2026112{number}-100000-aaaaaa", steps={"preference_eval": one})


@pytest.fixture
def history(home: Home) -> History:
    """Three versions: the second met the first, the third was judged by its own reward model."""
    runs = [measured(1, 0.7), measured(2, 0.75, 0.55, {"judge": "second"}), measured(3, 0.95, 0.9, {"judge": "reward"})]
    versions = [version(1, runs[0], "previous"), replace(version(2, runs[1], "champion"), compared_with=1),
                replace(version(3, runs[2], "challenger"), compared_with=2)]
    found = History(home)
    fill(found, runs, versions)
    return found


def test_versions_are_rated_by_all_their_matches(history: History) -> None:
    found = standings(history)
    assert list(found) == [2, 1]  # the third has judged itself
    by_sft = {number: ELO * math.log(rate / (1 - rate)) for number, rate in ((1, 0.7), (2, 0.75))}
    assert found[1].value < found[2].value
    for number, value in by_sft.items():
        assert found[number].value == pytest.approx(value, abs=12)  # moved a little by the match between them
        assert found[number].low < value < found[number].high
    assert found[2].value - found[1].value == pytest.approx(ELO * math.log(0.55 / 0.45), abs=8)


def test_a_judge_of_the_version_before_is_among_its_parameters(home: Home) -> None:
    made = measured(1, 0.9, params={"preference_eval.judge": "reward"})
    found = History(home)
    fill(found, [made], [version(1, made)])
    assert standings(found) == {}


def test_a_match_judged_by_what_ppo_optimised_rates_nobody(home: Home) -> None:
    made = measured(1, 0.9, facts={"judge": "no_lists"})
    made.steps["preference_eval"].metrics["judge_optimised"] = 1.0
    found = History(home)
    fill(found, [made], [version(1, made)])
    assert standings(found) == {}


def test_what_was_never_measured_has_no_rating(home: Home) -> None:
    found = History(home)
    fill(found, [], [version(1, run(), "champion")])
    assert standings(found) == {}
    assert listed(found, None, {})[0].rating is None


def test_the_command_lists_them(history: History) -> None:
    third, second, first = listed(history, None, {})
    assert (third.version, third.aliases, third.rating) == (3, ("challenger",), None)
    assert second.win_rate_vs_champion is not None and second.win_rate_vs_champion[0] == 0.55
    assert second.rating == standings(history)[2] and first.win_rate_vs_champion is None
    assert len(listed(history, 2, {})) == 2
