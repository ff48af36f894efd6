"""Best-of-n is estimated without bias, and the KL at which judge and reward part is found where it was planted."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from plumbline.evaluation.judging.judges import LanguageModelJudge, ModelAnswer, NamedJudge, ScoreJudge
from plumbline.evaluation.matches import Contestant
from plumbline.evaluation.overoptimisation import (
    OptimisedPoint,
    Overoptimisation,
    Scorers,
    best_of_curve,
    best_of_kl,
    best_of_weights,
    draw_overoptimisation,
    gain_over,
    overoptimisation,
    overoptimisation_section,
    ppo_curve,
    scorers_among,
)
from plumbline.preferences.types import Message


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_the_weights_are_those_of_every_subset(n):
    """The mean, over all subsets of n of six answers, of the judge's score of the one with the highest own score."""
    own, judged = [0.3, -1.0, 2.0, 0.7, 0.1, 1.5], [5.0, 4.0, -2.0, 1.0, 0.0, 3.0]
    subsets = list(itertools.combinations(range(6), n))
    expected = sum(judged[max(subset, key=own.__getitem__)] for subset in subsets) / len(subsets)
    order = sorted(range(6), key=own.__getitem__)
    assert sum(w * judged[i] for w, i in zip(best_of_weights(6, n), order, strict=True)) == pytest.approx(expected)


def test_kl_of_best_of_n_in_closed_form():
    assert [best_of_kl(1), best_of_kl(2)] == [0.0, pytest.approx(0.193147, abs=1e-6)]
    # By integration: the best of n has density n F^(n-1) times SFT's, F uniform on [0, 1].
    u = (np.arange(200_000) + 0.5) / 200_000
    assert best_of_kl(16) == pytest.approx(np.mean(16 * u**15 * np.log(16 * u**15)), abs=1e-3)


def test_the_curve_of_normal_scores_is_the_expected_maximum():
    """The expected maximum of 64 normal numbers is 2.37 (tables of order statistics); an equal judge gains as much,
    one that agrees with correlation 0.5 gains half, and one that does not agree gains nothing."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=(400, 64))
    half = 0.5 * own + math.sqrt(0.75) * rng.normal(size=own.shape)
    keys = [f"p{i}" for i in range(400)]
    curve = best_of_curve((own * 3 + 7).tolist(), half.tolist(), keys)
    assert [point.label for point in curve] == ["1", "2", "4", "8", "16", "32", "64"]
    for none in (curve[0].own, curve[0].judge):
        assert (none.value, none.low, none.high) == (0.0, 0.0, 0.0), "the best of 1 is SFT itself"
    for place, expected in ((1, 0.5642), (3, 1.4236), (6, 2.3675)):
        assert curve[place].own.value == pytest.approx(expected, abs=0.06)
        assert curve[place].judge.low - 0.05 < expected / 2 < curve[place].judge.high + 0.05
    none = best_of_curve(own.tolist(), None, keys)
    assert none[6].judge is None and none[6].kl == best_of_kl(64)


def test_a_gain_has_the_interval_of_paired_differences():
    """Each prompt adds as much to SFT's deviation, which is 2, so that it could as well be known."""
    rng = np.random.default_rng(1)
    sft = [[5.0 + 2 * side, 5.0 + 2 * side] for side in rng.permutation([1, -1] * 15)]
    policy = [[row[0] + value, row[0] + value + 0.5] for row, value in zip(sft, rng.normal(0.4, 0.3, 30), strict=True)]
    found = gain_over(policy, sft, [f"p{i}" for i in range(30)])
    paired = stats.ttest_rel(np.mean(policy, 1), np.mean(sft, 1)).confidence_interval(0.95)
    assert found.value == pytest.approx((np.mean(policy) - np.mean(sft)) / 2)
    assert (found.low, found.high) == (pytest.approx(paired.low / 2), pytest.approx(paired.high / 2))


def test_scores_that_are_all_the_same_have_gains_in_scores():
    sft = [[0.1, 0.1]] * 386
    assert np.std(sft) > 0, "as numpy rounds it"
    found = gain_over([[0.1, 1.1], [1.1, 2.1]] * 193, sft, range(386))
    assert found.value == pytest.approx(1.0)


@pytest.mark.parametrize("gain", [0.0, 2.0])
def test_the_interval_of_a_gain_holds_it_in_nineteen_of_twenty(gain):
    """As if SFT's mean were known it held none in all of these and, as if its deviation were, two in half of them."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        level = rng.normal(0, 0.8**0.5, (100, 1))
        sft, policy = (level + rng.normal(0, 0.2**0.5, (100, 4)) for _ in range(2))
        found = gain_over((policy + rng.normal(gain, 0.3, (100, 1))).tolist(), sft.tolist(), range(100))
        held += found.low <= gain <= found.high
    assert 0.92 <= held / 300 <= 0.98


def planted(shape, kls):
    return [OptimisedPoint(str(kl), kl, 0.5 * math.sqrt(kl), shape(math.sqrt(kl))) for kl in kls]


def test_the_curves_part_where_it_was_planted():
    """Gao's two shapes, highest at d = 2 (KL 4) for the best of n and at d = 3 (KL 9) for PPO."""
    best_of = planted(lambda d: d * (1.2 - 0.3 * d), [best_of_kl(2**power) * 2 for power in range(7)])
    ppo = planted(lambda d: d * (0.5 * (1 + math.log(3)) - 0.5 * math.log(d)), [0.3, 1.0, 3.0, 6.0, 9.0, 12.0])
    found = Overoptimisation("gold", best_of, ppo, None)
    assert found.parting_kl_best_of == pytest.approx(4.0) and found.parting_kl == pytest.approx(9.0)
    assert found.metrics()["parting_kl"] == pytest.approx(9.0)
    rising = Overoptimisation("gold", best_of[:4], ppo[:4], None)
    assert rising.parting_kl_best_of is None and rising.parting_kl is None, "still rising in what was measured"
    assert "rises with the own reward" in "\n".join(overoptimisation_section(rising))
    few = Overoptimisation("second", [], ppo[:2], None)
    assert few.parting_kl is None
    assert "PPO: 2 measurements are too few to tell" in "\n".join(overoptimisation_section(few))


def test_a_gain_that_falls_from_the_start_is_not_said_to_rise():
    falling = planted(lambda d: -0.1 * d * d, [0.0, 0.5, 1.0, 3.0, 6.0])
    found = "\n".join(overoptimisation_section(Overoptimisation("gold", falling, falling, None)))
    assert "rises" not in found
    assert found.count("has no clear top. It was -0.00 at the lowest KL and -0.60 at the highest, 6.0 nats") == 2


def test_noise_moves_the_parting_only_a_little():
    rng = np.random.default_rng(3)
    kls = np.linspace(0.5, 16, 14)
    points = planted(lambda d: d * (0.5 * (1 + math.log(3)) - 0.5 * math.log(d)) + rng.normal(0, 0.03), kls)
    assert Overoptimisation("gold", [], points, None).parting_kl == pytest.approx(9.0, abs=2.0)


def test_points_of_ppo_are_read_from_its_curves(tmp_path):
    lines = [{"what": "", "step": 1, "reward": 0.1}, {"step": 5, "validation_kl": 2.0, "validation_reward": 3.0,
             "validation_judge_score": 1.0, "validation_judge_win_rate": 0.6}, {"step": 9, "validation_kl": None}]
    (tmp_path / "curves.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (point,) = ppo_curve(tmp_path / "curves.jsonl", 1.5, 0.5)
    assert (point.label, point.kl, point.own, point.judge) == ("update 5", 2.0, 2.0, 2.0)
    assert ppo_curve(tmp_path / "curves.jsonl", 1.5, None)[0].judge is None
    assert ppo_curve(tmp_path / "curves.jsonl", None, 0.5)[0].own is None, "PPO had another reward"
    assert ppo_curve(tmp_path / "nowhere", 1.0, 1.0) == []


def test_the_own_reward_is_never_the_independent_judge():
    own, gold = (NamedJudge(name, ScoreJudge(lambda pairs: [0.0] * len(pairs))) for name in ("reward", "gold"))
    model = NamedJudge("model", LanguageModelJudge(lambda texts, options: []))
    assert scorers_among([own, own]).judge is None
    assert scorers_among([own, model, gold]) == Scorers(own.judge, gold.judge, "gold")


def test_the_policy_that_padded_its_answers_gains_by_its_own_reward_alone(tmp_path):
    """The own reward likes length; the judge counts different words."""
    own = ScoreJudge.of_texts(lambda texts: [float(len(text.split())) for _, text in texts])
    judge = ScoreJudge.of_texts(lambda texts: [float(len(set(text.split()))) for _, text in texts])
    prompts = [(Message("user", f"Question {i}"),) for i in range(30)]
    sft = Contestant("sft", [[ModelAnswer("a b"), ModelAnswer("a b c")] for _ in prompts], {})
    policy = Contestant("policy", [[ModelAnswer("a b a b a b a b"), ModelAnswer("a b b b")] for _ in prompts],
                        {"kl": [[3.0, 5.0] for _ in prompts]})
    pool = [[ModelAnswer("a " * size + "b " * (size == 2)) for size in (1, 2, 3, 4)] for _ in prompts[:10]]
    found = overoptimisation(tmp_path, prompts, [policy, sft], pool, Scorers(own, judge, "words"), alone=True)
    assert found.policy.kl == 4.0
    assert found.policy.own.value == pytest.approx((6 - 2.5) / 0.5)
    assert found.policy.judge.value == pytest.approx((2 - 2.5) / 0.5)
    metrics = found.metrics()
    assert (metrics["gain_own_policy"], metrics["gain_judge_policy"]) == (pytest.approx(7.0), pytest.approx(-1.0))
    assert [point.label for point in found.best_of] == ["1", "2", "4"] and found.best_of[2].own.value > 1
    draw_overoptimisation(tmp_path / "one.png", found)
    draw_overoptimisation(tmp_path / "two.png", found)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    section = "\n".join(overoptimisation_section(found))
    assert "| the policy kept, on held-out prompts | 4.00 | +7.00" in section and "![own reward" in section
    assert overoptimisation_section(Overoptimisation(None, [], [], None)) == []


def test_another_reward_that_ppo_had_is_not_drawn_as_the_reward_models(tmp_path):
    points = [OptimisedPoint(f"update {i}", float(i), None, 0.1 * i) for i in range(1, 6)]
    found = Overoptimisation("gold", [], points, OptimisedPoint("the policy kept", 5.0, -0.3, 0.4))
    section = "\n".join(overoptimisation_section(found))
    assert "| update 1 | 1.00 |  | +0.10 |" in section and "| the policy kept | 5.00 | -0.30 | +0.40 |" in section
    assert "PPO was rewarded by more than the reward model" in section
    assert found.metrics()["gain_own_policy"] == -0.3
    draw_overoptimisation(tmp_path / "picture.png", found)
