"""Two policies are compared on the prompts that both were asked, and nobody's rewards are mixed up."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from plumbline.evaluation.samples import Sample, SampleAnswer, write_samples
from plumbline.history.history import History, Run
from plumbline.history.reports import Reports
from plumbline.preferences.batches.manifest import Batch
from plumbline.preferences.types import Message, Prompt
from plumbline.project.home import Home
from plumbline.web.views.compare import arranged, batches, match, stages
from plumbline.web.views.sides import Side, choices, side, usual_sides
from testing.made_up import run, step, version

CHECKOUT = Path(__file__).parents[3]


def prompt(i: int) -> Prompt:
    return (Message("user", f"Question {i}"),)


def answer(text: str, reward: float, gold: float | None = None) -> SampleAnswer:
    return SampleAnswer(text, True, {"reward": reward} | ({"gold": gold} if gold is not None else {}))


def sample(i: int, policy: SampleAnswer, champion: SampleAnswer | None = None, outcome: float = 0.5) -> Sample:
    answers = {"policy": policy, "sft": answer("sft", 0.0)} | ({"champion": champion} if champion else {})
    return Sample(prompt(i), answers, {"sft": 0.5} | ({"champion": outcome} if champion else {}))


@pytest.fixture
def reports(empty: Home) -> Reports:
    return Reports(History(empty))


@pytest.fixture
def made(empty: Home):
    """Makes a policy with a workspace that holds the answers of its evaluation."""

    def make(number: int, samples: list[Sample], reward_model: str = "r1", compared_with: int | None = None) -> Side:
        name = f"2026112{number}-100000-aaaaaa"
        folder = empty.runs / name
        (folder / "reports/preference/report").mkdir(parents=True)
        (folder / "dvc.yaml").write_text((CHECKOUT / "dvc.yaml").read_text())
        write_samples(folder / "reports/preference/report/samples.jsonl", samples)
        steps = {"preference_eval": step("preference_eval", mlflow_run=None, made_by=name,
                                         inputs={"models/reward/model": reward_model},
                                         params={"preference_eval.judge": "gold"})}
        of = run(name, folder=folder, steps=steps)
        return Side(str(number), of, replace(version(number, of), compared_with=compared_with))

    return make


def test_where_they_met_the_judge_has_the_word(reports: Reports, made) -> None:
    new = made(2, [sample(0, answer("good", 1.0), answer("bad", 2.0), 1.0),
                   sample(1, answer("bad", 0.0), answer("good", 3.0), 0.0),
                   sample(2, answer("same", 0.5), answer("same", 0.5), 0.5)], compared_with=1)
    old = made(1, [sample(0, answer("something else", 9.0))], reward_model="r0")
    found = match(reports, new, old)
    assert found.counts() == {"a": 1, "tie": 1, "b": 1}
    assert [pair.b.text for pair in found.pairs] == ["bad", "good", "same"]
    assert [pair.disagreement for pair in found.pairs] == [1.0, 0.0, 0.0]  # the reward would have chosen the other
    assert "gold" in found.verdicts and "scored both" in found.rewards
    turned = match(reports, old, new)
    assert turned.counts() == {"a": 1, "tie": 1, "b": 1} and turned.pairs[0].a.text == "bad"
    assert turned.pairs[0].outcome == 0.0 and turned.pairs[0].reward_gap == 1.0


def test_apart_the_gold_reward_decides_and_other_rewards_are_not_compared(reports: Reports, made) -> None:
    a = made(2, [sample(i, answer(f"a{i}", 5.0, gold=float(i))) for i in range(3)], "r2")
    b = made(1, [sample(i, answer(f"b{i}", -5.0, gold=1.0)) for i in (2, 1, 0, 9)], "r1")
    found = match(reports, a, b)
    assert [pair.better for pair in found.pairs] == ["b", "tie", "a"]
    assert all(pair.reward_gap is None for pair in found.pairs)
    assert "cannot be compared" in found.rewards and "gold" in found.verdicts
    assert found.means() == [("gold", 1.0, 1.0)]


def test_apart_one_reward_model_decides_where_there_is_no_gold(reports: Reports, made) -> None:
    a, b = made(2, [sample(0, answer("a", 2.0))]), made(1, [sample(0, answer("b", 0.5))])
    found = match(reports, a, b)
    assert found.pairs[0].better == "a" and found.pairs[0].reward_gap == 1.5
    assert "reward model that scored both" in found.verdicts


def test_apart_and_nothing_in_common_nobody_decides(reports: Reports, made) -> None:
    found = match(reports, made(2, [sample(0, answer("a", 2.0))], "r2"), made(1, [sample(0, answer("b", 1.0))], "r1"))
    assert found.pairs[0].better is None and found.rate() is None and "nothing measured" in found.verdicts
    assert match(reports, made(3, [sample(5, answer("a", 2.0))]), made(4, [])).pairs == []


def test_order_and_filters(reports: Reports, made) -> None:
    a = made(2, [sample(i, answer(f"text {i}", 0.0, gold=gold)) for i, gold in enumerate((1.5, -4.0, 3.0, 0.0))], "r2")
    b = made(1, [sample(i, answer("text 3", 0.0, gold=0.0)) for i in range(4)], "r1")
    found = match(reports, a, b)

    def order(sort: str, better: str = "", text: str = "") -> list[str]:
        return [pair.prompt[0].content[-1] for pair in arranged(found, sort, better, text)]

    assert order("difference") == ["1", "2", "0", "3"]
    assert order("a") == ["2", "0", "3", "1"] and order("b") == ["1", "3", "0", "2"]
    assert order("prompt") == ["0", "1", "2", "3"]
    assert order("prompt", "a") == ["0", "2"] and order("prompt", "tie") == ["3"]
    assert order("prompt", "different") == ["0", "1", "2"]
    assert order("prompt", text="QUESTION 2") == ["2"]


def test_what_differs_in_code_and_data() -> None:
    sft = step("sft", mlflow_run="x", code="c1")
    one = run("1", steps={"sft": sft, "ppo": step("ppo", mlflow_run="y", code="c1")})
    other = run("2", steps={"sft": sft, "ppo": step("ppo", mlflow_run="z", code="c2")},
                batches=(*one.batches, Batch("f" * 32, "new.jsonl", 7, {"comparison": 7}, 0, False)))
    assert [(found.stage, found.same_result, found.same_code) for found in stages(one, other)] == [
        ("sft", True, True), ("ppo", False, False)]
    assert batches(one, other) == ([], ["new.jsonl (7 rows)"])


def test_a_policy_is_named_by_number_alias_or_run(empty: Home) -> None:
    history, of = History(empty), run()
    history.runs, history.versions = {of.id: of}, {3: version(3, of, "champion")}
    found = [side(history, name) for name in ("3", "champion", of.id)]
    assert [one.name if one else None for one in found] == ["3", "3", "3"]
    assert side(history, "nonsense") is None
    assert isinstance(of, Run) and json.dumps(found[0].label if found[0] else "") == '"version 3"'


RUN = "20261120-100000-aaaaaa"


@pytest.fixture
def compared(empty: Home) -> History:
    """A run that registered version 1, and set the candidate `near` beside its PPO."""
    folder = empty.runs / RUN
    near = {"models/candidates/near/model": "n" * 32}
    steps = {"sft": step("sft", outputs={"models/sft/model": "s" * 32}),
             "ppo": step("ppo", outputs={"models/policy/model": "p" * 32}),
             "candidate@near": step("candidate@near", outputs=near)}
    for stage, name, said in (("preference_eval", "preference", "ppo"),
                              ("candidate_eval@near", "candidates/near", "near")):
        (folder / "reports" / name / "report").mkdir(parents=True)
        answers = [{"policy": answer(f"{said} {i}", 1.0 + i, gold=float(i)), "sft": answer(f"sft {i}", 0.0, gold=0.5)}
                   for i in range(3)]
        write_samples(folder / "reports" / name / "report/samples.jsonl",
                      [Sample(prompt(i), both, {"sft": float(said == "near")}) for i, both in enumerate(answers)])
        steps[stage] = step(stage, mlflow_run=None, made_by=RUN, facts={"judge": "gold"}, metrics={"kl_policy": 2.0,
                            "kl_sft": 0.0}, inputs={"models/reward/model": "r1", "models/sft/model": "s" * 32})
    (folder / "dvc.yaml").write_text((CHECKOUT / "dvc.yaml").read_text())
    of = run(RUN, folder=folder, steps=steps, compare=("near",), params={
        "ppo.kl_coef": "0.055", "compare.near": "ppo", "candidates.near.method": "ppo",
        "candidates.near.kl_coef": "0.02", "candidates.dpo.method": "dpo"})
    history = History(empty)
    history.runs, history.versions = {of.id: of}, {1: version(1, of, "champion")}
    return history


def chosen(history: History, name: str) -> Side:
    found = side(history, name)
    assert found
    return found


def test_after_a_first_run_its_policy_meets_what_it_started_from(compared: History) -> None:
    assert usual_sides(compared) == ("1", f"{RUN}:sft")
    found = match(Reports(compared), chosen(compared, "1"), chosen(compared, f"{RUN}:sft"))
    assert [(pair.a.text, pair.b.text, pair.better) for pair in found.pairs] == [
        (f"ppo {i}", f"sft {i}", "b") for i in range(3)]
    assert "Version 1 was evaluated against SFT" in found.verdicts and "gold" in found.verdicts


def test_a_candidate_meets_sft_in_its_own_evaluation_and_the_policy_by_the_gold_reward(compared: History) -> None:
    near = chosen(compared, f"{RUN}:candidate@near")
    against = match(Reports(compared), chosen(compared, f"{RUN}:sft"), near)
    assert [(pair.a.text, pair.better) for pair in against.pairs] == [(f"sft {i}", "b") for i in range(3)]
    apart = match(Reports(compared), near, chosen(compared, "1"))
    assert [(pair.a.text, pair.b.text, pair.better) for pair in apart.pairs] == [
        (f"near {i}", f"ppo {i}", "tie") for i in range(3)]
    assert "gold reward" in apart.verdicts and apart.rewards == "One reward model scored both."


def test_a_candidates_parameters_stand_under_the_names_of_the_policys(compared: History) -> None:
    assert chosen(compared, f"{RUN}:candidate@near").params == {"ppo.kl_coef": "0.02", "method": "ppo"}
    assert chosen(compared, "1").params == {"ppo.kl_coef": "0.055", "method": "ppo"}
    assert chosen(compared, f"{RUN}:sft").figure("preference_eval", "kl_policy") == 0.0


def test_a_win_rate_is_the_policys_and_none_of_those_that_it_met(compared: History) -> None:
    for stage in ("preference_eval", "candidate_eval@near"):
        compared.runs[RUN].steps[stage].metrics["win_rate_vs_sft"] = 0.75  # type: ignore[index]
    rates = [chosen(compared, name).figure("preference_eval", "win_rate_vs_sft")
             for name in ("1", f"{RUN}:candidate@near", f"{RUN}:sft", f"{RUN}:champion")]
    assert rates == [0.75, 0.75, None, None]


def test_everything_that_was_judged_can_be_chosen_once(compared: History) -> None:
    again = replace(compared.runs[RUN], id="20261121-100000-bbbbbb")
    compared.runs = {again.id: again, RUN: compared.runs[RUN]}
    offered = dict(choices(compared))
    assert [value for value, _ in offered["Versions"]] == ["1"]
    assert [value for value, _ in offered["Candidates"]] == [f"{again.id}:candidate@near"]
    assert [value for value, _ in offered["SFT models"]] == [f"{again.id}:sft"]
    assert side(compared, f"{RUN}:candidate@far") is None and side(compared, "nowhere:sft") is None


def test_a_policy_that_another_run_evaluated_anew_is_offered_as_its_version_alone(compared: History) -> None:
    steps = {**compared.runs[RUN].steps, "ppo": step("ppo", outputs={"models/policy/model": "9" * 32 + ".dir"})}
    first, second = (replace(compared.runs[RUN], id=id, steps=steps) for id in (RUN, "20261121-100000-bbbbbb"))
    compared.runs = {second.id: second, first.id: first}
    assert [value for value, _ in dict(choices(compared))["Policies without a version"]] == [second.id]
    compared.versions = {1: replace(version(1, second), md5="9" * 32 + ".dir", tags={"registered_by": RUN})}
    assert "Policies without a version" not in dict(choices(compared))


def test_a_version_that_no_run_evaluated_is_not_offered(compared: History) -> None:
    alone = replace(version(2, compared.runs[RUN], "champion"), run="dvc repro")
    compared.versions = {2: alone, **compared.versions}
    assert [value for value, _ in dict(choices(compared))["Versions"]] == ["1"]
    assert usual_sides(compared) == ("1", f"{RUN}:sft")


@pytest.mark.parametrize("stage", ["ppo", "preference_eval", "candidate_eval@near", "policy"])
def test_a_stage_that_makes_no_candidate_names_no_policy(compared: History, stage: str) -> None:
    assert side(compared, f"{RUN}:{stage}") is None
