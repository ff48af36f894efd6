"""Win rates are counted as a reader expects, and the report shows what might explain them."""

import pytest

from plumbline.evaluation.judges import LanguageModelJudge, ScoreJudge
from plumbline.evaluation.preference_report import Contestant, evaluate, write_report
from plumbline.evaluation.samples import SampleAnswer, read_samples
from plumbline.preferences.types import Message

PROMPTS = [(Message("user", f"Question {i}"),) for i in range(40)]
JUDGE = ScoreJudge(lambda texts: [float(response.count("good")) for _, response in texts])


def contestant(name, texts, stopped=True, **measured):
    return Contestant(name, texts, [stopped] * len(texts), measured)


@pytest.fixture
def evaluation():
    """Against sft: 20 wins, 10 ties, 10 losses, and every win is by a longer response."""
    policy = contestant("policy", ["good good good"] * 20 + ["good"] * 20, kl=[2.0] * 40, gold=[1.0] * 40)
    sft = contestant("sft", ["good"] * 30 + ["good good"] * 10, stopped=False, gold=[0.0] * 20 + [1.0] * 20)
    champion = contestant("champion", ["bad"] * 40)
    return evaluate(PROMPTS, policy, [sft, champion], JUDGE, samples=500, seed=0)


def test_metrics_hold_the_win_rate_with_its_interval_and_n(evaluation):
    metrics = evaluation.metrics()
    assert metrics["win_rate_vs_sft"] == 0.625
    assert 0.4 < metrics["win_rate_vs_sft_low"] < 0.55 < 0.7 < metrics["win_rate_vs_sft_high"] < 0.8
    assert metrics["win_rate_vs_sft_n"] == 40
    assert metrics["win_rate_vs_champion"] == metrics["win_rate_vs_champion_high"] == 1.0
    assert metrics["win_rate_vs_champion_low"] == pytest.approx(40 / (40 + 1.959964**2))  # Wilson, closed form
    assert (metrics["kl_policy"], metrics["gold_sft"], metrics["stopped_sft"]) == (2.0, 0.5, 0.0)
    assert "kl_sft" not in metrics and "contradictions_vs_sft" not in metrics


def test_wins_are_told_apart_by_length(evaluation):
    by_length = evaluation.matches[0].by_length
    assert {name: (rate.value, rate.n) for name, rate in by_length.items()} == {
        "longer": (1.0, 20), "similar": (0.5, 10), "shorter": (0.0, 10)}


def test_the_report_shows_everything_and_comes_out_the_same(tmp_path, evaluation):
    for name in ("one", "two"):
        write_report(tmp_path / name, evaluation)
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert names == ["report.md", "samples.jsonl", "samples.md", "wins.png"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    report = (tmp_path / "one/report.md").read_text()
    assert "| sft | 62.5 % [" in report and "| 40 | 20 | 10 | 10 |" in report
    assert "not measured" in report
    samples = (tmp_path / "one/samples.md").read_text()
    assert "**policy** (kl 2.00, gold 1.00)" in samples
    assert "**sft** (gold 0.00, did not stop, the policy's is better)" in samples


def test_every_answer_is_kept_as_data(tmp_path, evaluation):
    write_report(tmp_path, evaluation)
    with (tmp_path / "samples.jsonl").open() as lines:
        samples = list(read_samples(lines))
    assert [sample.prompt for sample in samples] == PROMPTS
    assert samples[0].answers["policy"] == SampleAnswer("good good good", True, {"kl": 2.0, "gold": 1.0})
    assert samples[0].answers["champion"] == SampleAnswer("bad", True, {})
    assert [sample.outcomes["sft"] for sample in samples] == [1.0] * 20 + [0.5] * 10 + [0.0] * 10


def test_what_is_no_number_was_not_measured(tmp_path):
    policy, sft = contestant("policy", ["a"], kl=[float("nan")]), contestant("sft", ["b"])
    found = evaluate(PROMPTS[:1], policy, [sft], JUDGE, samples=100, seed=0)
    write_report(tmp_path, found)
    with (tmp_path / "samples.jsonl").open() as lines:
        assert next(read_samples(lines)).answers["policy"].measured == {}


def test_a_judge_that_contradicts_itself_is_reported(tmp_path):
    judge = LanguageModelJudge(lambda texts, _: [[0.0, -1.0]] * len(texts))
    policy, sft = contestant("policy", ["a", "b", "c"]), contestant("sft", ["x", "y", "z"])
    found = evaluate(PROMPTS[:3], policy, [sft], judge, samples=100, seed=0)
    write_report(tmp_path, found)
    assert found.metrics()["contradictions_vs_sft"] == 1.0
    assert "contradicted itself on 100.0 %" in (tmp_path / "report.md").read_text()


def test_missing_answers_are_refused():
    with pytest.raises(ValueError, match="sft has"):
        evaluate(PROMPTS[:2], contestant("policy", ["a", "b"]), [contestant("sft", ["a"])], JUDGE, 100, 0)
    with pytest.raises(ValueError, match="policy has"):
        evaluate(PROMPTS[:2], contestant("policy", ["a", "b"], kl=[0.1]), [], JUDGE, 100, 0)
