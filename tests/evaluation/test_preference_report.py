"""Win rates are counted as a reader expects, and the report shows what might explain them."""

import hashlib
import math

import numpy as np
import pytest
from scipy.optimize import minimize

from plumbline.evaluation.judging.judges import LanguageModelJudge, ModelAnswer, NamedJudge, ScoreJudge
from plumbline.evaluation.matches import (
    Contestant,
    cohens_kappa,
    distinct_ngrams,
    evaluate,
    joined_kinds,
    kind_labels,
    length_controlled,
    meetings_of,
    repeated_ngrams,
)
from plumbline.evaluation.preference_report import write_report
from plumbline.evaluation.samples import SampleAnswer, read_samples
from plumbline.preferences.types import Message

PROMPTS = [(Message("user", f"Question {i}"),) for i in range(40)]
KINDS = ["even", "odd"] * 20
JUDGE = NamedJudge("gold", ScoreJudge.of_texts(lambda texts: [float(text.count("good")) for _, text in texts]))


def contestant(name, texts, stopped=True, **measured):
    return Contestant.of_one(name, texts, [stopped] * len(texts), measured)


@pytest.fixture
def evaluation():
    """Against sft: 20 wins, 10 ties, 10 losses, and every win is by a longer response."""
    policy = contestant("policy", ["good good good"] * 20 + ["good"] * 20, kl=[2.0] * 40, gold=[1.0] * 40)
    sft = contestant("sft", ["good"] * 30 + ["good good"] * 10, stopped=False, gold=[0.0] * 20 + [1.0] * 20)
    champion = contestant("champion", ["bad"] * 40)
    return evaluate(PROMPTS, [policy, sft, champion], [JUDGE], KINDS)


def test_metrics_hold_the_win_rate_with_its_interval_and_n(evaluation):
    metrics = evaluation.metrics()
    assert metrics["judge"] == "gold"
    assert metrics["win_rate_vs_sft"] == metrics["win_rate_vs_sft_by_gold"] == 0.625
    assert 0.4 < metrics["win_rate_vs_sft_low"] < 0.55 < 0.7 < metrics["win_rate_vs_sft_high"] < 0.8
    assert metrics["win_rate_vs_sft_n"] == 40
    assert metrics["win_rate_vs_champion"] == metrics["win_rate_vs_champion_high"] == 1.0
    assert metrics["win_rate_vs_champion_low"] == pytest.approx(40 / (40 + 1.959964**2))  # Wilson, closed form
    assert (metrics["kl_policy"], metrics["gold_sft"], metrics["stopped_sft"]) == (2.0, 0.5, 0.0)
    assert "kl_sft" not in metrics and "contradictions_vs_sft" not in metrics
    # Prompts alternate between the kinds, and so do wins, ties and losses.
    assert metrics["win_rate_vs_sft_kind_even"] == metrics["win_rate_vs_sft_kind_odd"] == 0.625
    assert metrics["win_rate_vs_sft_kind_even_n"] == 20
    assert metrics["win_rate_vs_sft_similar_length"] == 0.5


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
    assert "| SFT | 62.5 % [" in report and "| 20 | 10 | 10 | 40 |" in report
    assert "not measured" in report
    samples = (tmp_path / "one/samples.md").read_text()
    assert "**policy** (kl 2.00, gold 1.00)" in samples
    assert "**sft** (gold 0.00, did not stop, the policy's is better)" in samples


def test_every_first_answer_is_kept_as_data(tmp_path, evaluation):
    write_report(tmp_path, evaluation)
    with (tmp_path / "samples.jsonl").open() as lines:
        samples = list(read_samples(lines))
    assert [sample.prompt for sample in samples] == PROMPTS
    assert samples[0].answers["policy"] == SampleAnswer("good good good", True, {"kl": 2.0, "gold": 1.0})
    assert samples[0].answers["champion"] == SampleAnswer("bad", True, {})
    assert [sample.outcomes["sft"] for sample in samples] == [1.0] * 20 + [0.5] * 10 + [0.0] * 10


def test_what_is_no_number_was_not_measured(tmp_path):
    policy, sft = contestant("policy", ["a"], kl=[float("nan")]), contestant("sft", ["b"])
    found = evaluate(PROMPTS[:1], [policy, sft], [JUDGE], KINDS[:1])
    write_report(tmp_path, found)
    with (tmp_path / "samples.jsonl").open() as lines:
        assert next(read_samples(lines)).answers["policy"].measured == {}


def test_a_judge_that_contradicts_itself_is_reported(tmp_path):
    judge = NamedJudge("model", LanguageModelJudge(lambda texts, _: [[0.0, -1.0]] * len(texts)))
    policy, sft = contestant("policy", ["a", "b", "c"]), contestant("sft", ["x", "y", "z"])
    found = evaluate(PROMPTS[:3], [policy, sft], [judge], KINDS[:3])
    write_report(tmp_path, found)
    assert found.metrics()["contradictions_vs_sft"] == found.metrics()["first_shown_vs_sft"] == 1.0
    report = (tmp_path / "report.md").read_text()
    assert "contradicted itself on 100.0 %" in report and "shown first in 100.0 %" in report
    assert found.metrics()["unjudged_vs_sft"] == 0 and "no verdict" not in report


def test_missing_answers_are_refused():
    with pytest.raises(ValueError, match="sft has"):
        evaluate(PROMPTS[:2], [contestant("policy", ["a", "b"]), contestant("sft", ["a"])], [JUDGE], KINDS[:2])
    with pytest.raises(ValueError, match="policy has"):
        evaluate(PROMPTS[:2], [contestant("policy", ["a", "b"], kl=[0.1])], [JUDGE], KINDS[:2])


def many(name, rows):
    return Contestant(name, [[ModelAnswer(text) for text in row] for row in rows], {})


def test_answers_meet_one_by_one_and_a_single_one_meets_all():
    policy, sft = many("policy", [["a1", "a2"], ["b1", "b2"]]), many("sft", [["c1", "c2"], ["d1", "d2"]])
    met = [(one.prompt, one.own.text, one.other.text) for one in meetings_of(policy, sft)]
    assert met == [(0, "a1", "c1"), (1, "b1", "d1"), (0, "a2", "c2"), (1, "b2", "d2")]
    met = [(one.own.text, one.other.text) for one in meetings_of(policy, many("best", [["c"], ["d"]]))]
    assert met == [("a1", "c"), ("b1", "d"), ("a2", "c"), ("b2", "d")]


def test_greedy_meets_greedy_and_several_answers_of_a_prompt_are_one_observation():
    contestants = [many("policy", [["good", "bad"]] * 40), many("policy_greedy", [["bad"]] * 40),
                   many("sft", [["good good", ""]] * 40), many("sft_greedy", [["good"]] * 40),
                   many("sft_best_of_8", [[""]] * 40)]
    metrics = evaluate(PROMPTS, contestants, [JUDGE], KINDS).metrics()
    assert metrics["win_rate_vs_sft"] == 0.25 and metrics["win_rate_vs_sft_n"] == 80  # lost 40, tied 40
    low, high = metrics["win_rate_vs_sft_low"], metrics["win_rate_vs_sft_high"]
    assert 0.2 < low < 0.25 < high < 0.3, "no prompt differs from another"
    assert metrics["win_rate_vs_sft_greedy"] == 0.0
    assert metrics["win_rate_vs_best_of_8"] == 0.75


def test_several_judges_stand_side_by_side_with_how_far_they_agree(tmp_path):
    short = NamedJudge("short", ScoreJudge.of_texts(lambda texts: [-float(len(text)) for _, text in texts]))
    policy = contestant("policy", ["good good"] * 24 + ["good"] * 16)
    sft = contestant("sft", ["good bad  "] * 12 + ["good"] * 12 + ["good"] * 10 + ["bad bad"] * 6)
    champion = contestant("champion", ["good"] * 40)
    found = evaluate(PROMPTS, [policy, sft, champion], [JUDGE, short], KINDS)
    # gold: 24 won, 10 tied, 6 won. short: 12 won (9 letters against 10), 12 lost, 10 tied, 6 won.
    metrics = found.metrics()
    assert metrics["win_rate_vs_sft_by_gold"] == (30 + 5) / 40
    assert metrics["win_rate_vs_sft_by_short"] == (18 + 5) / 40
    assert (metrics["agreement_gold_short"], metrics["agreement_gold_short_n"]) == (18 / 30, 30)
    assert metrics["kappa_gold_short"] == 0.0, "one of them always says the same"
    assert "win_rate_vs_champion_by_gold" in metrics and "win_rate_vs_champion_by_short" not in metrics
    write_report(tmp_path, found)
    assert "| gold and short | 60.0 % [" in (tmp_path / "report.md").read_text()


def test_kappa_of_a_table_from_a_textbook():
    """20 both yes, 5 and 10 apart, 15 both no: observed 0.7, expected 0.5 * 0.6 + 0.5 * 0.4."""
    verdicts = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    assert cohens_kappa(verdicts) == pytest.approx(0.4)
    assert cohens_kappa([(True, True)] * 3) is None


def test_a_judge_with_a_limit_is_asked_about_the_first_answers():
    class Asked:
        order_sensitive, most_pairs = False, 30
        seen = 0

        def prefer(self, prompts, first, second):
            self.seen += len(prompts)
            return [1.0] * len(prompts)

    judge = Asked()
    contestants = [many("policy", [["a", "b"]] * 40), many("sft", [["c", "d"]] * 40),
                   many("champion", [["e", "f"]] * 40)]
    found = evaluate(PROMPTS, contestants, [NamedJudge("asked", judge)], KINDS)
    assert judge.seen == 30 and [len(match.meetings) for match in found.matches] == [15, 15]
    assert {one.own.text for one in found.matches[0].meetings} == {"a"}
    assert [sample.outcomes.get("sft") for sample in found.samples()] == [1.0] * 15 + [None] * 25


def test_kinds_with_few_prompts_are_joined():
    assert joined_kinds(["a"] * 20 + ["b"] * 19 + ["c"]) == ["a"] * 20 + ["other"] * 20


def test_labels_of_sources_are_apart_and_leave_the_ends_of_intervals_alone():
    plain = {"people": "people", "web chat": "web_chat", "hub:org/set": "hub_org_set"}
    awkward = ["support_high", "a_low", "x n", "other", "a b", "a/b", "y" * 213, "y" * 212, "\ud83d"]
    labels = kind_labels([*plain, *awkward, "support"])
    assert {name: labels[name] for name in plain} == plain and labels["support"] == "support"
    assert len(set(labels.values())) == len(labels) and max(map(len, labels.values())) == 89
    assert not any(label.endswith(("_low", "_high", "_n")) or label == "other" for label in labels.values())
    assert labels["support_high"] == "support_high-" + hashlib.sha256(b"support_high").hexdigest()[:8]


def test_a_source_named_like_the_end_of_anothers_interval_overwrites_nothing():
    sources = ["support", "support_high"] * 20
    kinds = [kind_labels(set(sources))[source] for source in sources]
    policy = contestant("policy", ["good" if i % 2 else "bad" for i in range(40)])
    found = evaluate(PROMPTS, [policy, contestant("sft", ["so"] * 40)], [JUDGE], kinds)
    metrics = found.metrics()
    assert metrics["win_rate_vs_sft_kind_support"] == 0.5
    assert metrics["win_rate_vs_sft_kind_support_high"] == found.matches[0].by_kind["support"].high < 1
    assert metrics[f"win_rate_vs_sft_kind_{kinds[1]}"] == 1.0


def test_length_controlled_win_rate_against_another_optimizer():
    """The same likelihood and prior by scipy; and the interval by drawing the prompts anew."""
    rng = np.random.default_rng(1)
    prompts = [f"p{i}" for i in range(150) for _ in range(3)]
    longer = np.round(rng.normal(20, 30, 450))
    outcomes = np.where(rng.random(450) < 1 / (1 + np.exp(-(0.4 + 1.5 * np.tanh(longer / 30)))), 1.0, 0.0)
    outcomes[rng.random(450) < 0.1] = 0.5

    def fit(rows):
        x, y = np.tanh(longer[rows] / longer.std()), outcomes[rows]

        def loss(w):
            z = w[0] + w[1] * x
            return (np.logaddexp(0, z) - y * z).sum() + w[1] ** 2 / 2
        return 1 / (1 + math.exp(-minimize(loss, [0.0, 0.0], tol=1e-12).x[0]))

    found = length_controlled(outcomes.tolist(), longer.tolist(), prompts)
    assert found.value == pytest.approx(fit(np.arange(450)), abs=1e-5)
    assert outcomes.mean() > found.value + 0.05, "some of the wins were length's"
    assert found.low < 1 / (1 + math.exp(-0.4)) < found.high and (found.n, found.prompts) == (450, 150)
    drawn = [fit(np.concatenate([np.arange(3) + 3 * i for i in rng.integers(0, 150, 150)])) for _ in range(200)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low, abs=0.015), pytest.approx(high, abs=0.015))


def test_length_controlled_win_rate_where_there_is_nothing_to_control():
    prompts = [f"p{i}" for i in range(60)]
    outcomes = [1.0] * 45 + [0.0] * 15
    assert length_controlled(outcomes, [7.0] * 60, prompts).value == pytest.approx(0.75)
    assert length_controlled([1.0] * 60, [float(i) for i in range(60)], prompts) is None
    assert length_controlled(outcomes[30:], [1.0] * 30, prompts[:15] * 2) is None, "too few prompts"


def test_repetition_and_variety_of_known_texts():
    assert repeated_ngrams("a b c d a b c d e", 4) == pytest.approx(1 / 6)  # "a b c d" comes again
    assert repeated_ngrams("a b c", 4) == 0.0
    found = distinct_ngrams(["the cat sat", "The dog sat"])
    assert found == {"distinct_1": pytest.approx(4 / 6), "distinct_2": 1.0, "distinct_3": 1.0}
