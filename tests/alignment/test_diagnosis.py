"""Each finding names what it is about, and says nothing of a training with nothing wrong."""

from random import Random

import pytest

from plumbline.alignment.diagnosis import diagnose

STEPS = 40
PPO = {"ppo.kl_limit": 20.0, "ppo.kl_target": None, "ppo.max_grad_norm": 1.0}


def towards(start, end, noise=0.0, steps=STEPS, seed=0):
    """A curve that goes to its end as a training does: fast at first, and noisy."""
    random = Random(seed)
    return [end + (start - end) * 0.85**step + random.gauss(0, noise) for step in range(steps)]


# About what the default PPO run measures, with batches of 32 responses.
ONLINE = {
    "reward": towards(0.0, 0.8, 0.12), "kl": towards(0.0, 2.4, 0.3), "kl_error": towards(0.1, 0.5),
    "entropy": towards(0.37, 0.25, 0.03), "length": towards(29, 20, 1.5), "stopped": towards(0.99, 1.0),
    "clip_fraction": towards(0.03, 0.01, 0.004), "approx_kl": towards(0.02, 0.001, 0.001),
    "ratio": towards(1.0, 1.0, 0.01),
    "explained_variance": towards(0.1, 0.5, 0.1), "policy_grad_norm": towards(0.4, 0.7, 0.1)}
EVERY = 5
VALIDATION = {
    "validation_judge_win_rate": [0.62, 0.78, 0.81, 0.78, 0.8, 0.77, 0.82, 0.79],
    "validation_judge_win_rate_error": [0.06] * 8, "validation_reward": [0.2, 0.5, 0.6, 0.65, 0.7, 0.72, 0.75, 0.8],
    "validation_kl": [0.8, 1.6, 2.0, 2.2, 2.4, 2.3, 2.4, 2.5]}
SFT = {"loss": towards(3.4, 0.4, 0.1), "grad_norm": towards(4, 0.5, 0.1)}
REWARD = {"loss": towards(0.7, 0.55, 0.08), "accuracy": towards(0.5, 0.75, 0.1), "grad_norm": towards(1.7, 1.0, 0.5)}
DPO = {**REWARD, "margin": towards(0, 0.7, 0.2), "better_log_ratio": towards(0, -4, 1),
       "better_length": towards(26, 26, 2)}


def points(figures, rare=None, last=None, at_first=None):
    """The lines of curves.jsonl."""
    made = [{"what": "", "step": step + 1, **{name: values[step] for name, values in figures.items()}}
            for step in range(len(next(iter(figures.values()))))]
    for name, values in (rare or {}).items():
        for i, value in enumerate(values):
            made[(i + 1) * EVERY - 1][name] = value
    warm_up = {"what": "value warm-up", "step": 1, "kl": 900.0, "explained_variance": -5.0, "loss": 99.0}
    begin = {"what": "", "step": 0, **(at_first or {})}
    return [warm_up, begin, *made, *([{"what": "", "step": len(made), **last}] if last else [])]


def names(*given, stage="ppo", params=PPO):
    return [finding.name for finding in diagnose(points(*given), stage, params)]


HELD = {"validation_accuracy": 0.73, "validation_pairs": 300}
HEALTHY = [("ppo", ONLINE, VALIDATION, None), ("sft", SFT, {"validation_loss": [0.6, 0.5, 0.45, 0.44]}, None),
           ("reward_model", REWARD, None, HELD), ("judge", REWARD, None, HELD), ("candidate@dpo", DPO, None, HELD)]


@pytest.mark.parametrize(("stage", "figures", "rare", "last"), HEALTHY)
def test_a_healthy_training_has_none(stage, figures, rare, last):
    assert names(figures, rare, last, stage=stage) == []


@pytest.mark.parametrize(("stage", "figures", "rare", "last"), HEALTHY)
def test_a_training_that_has_just_begun_has_none(stage, figures, rare, last):
    assert diagnose(points(figures)[:8], stage, {}) == []
    assert diagnose([], stage, {}) == []


@pytest.mark.parametrize(("wrong", "name", "said"), [
    ({"kl": towards(0.0, -0.4, 0.1), "kl_error": [0.1] * STEPS}, "negative KL", "ppo.precision"),
    ({"kl": towards(0.0, 40, 1)}, "KL runs away", "Raise ppo.kl_coef"),
    ({"entropy": towards(0.37, 0.02, 0.01)}, "entropy collapses", "Raise ppo.kl_coef"),
    ({"length": towards(29, 72, 2)}, "lengths run away", "ppo.missing_stop_deviations"),
    ({"length": towards(29, 6, 2)}, "lengths collapse", "lower ppo.kl_coef"),
    ({"stopped": towards(0.99, 0.6, 0.03)}, "fewer answers stop", "Raise ppo.missing_stop_deviations"),
    ({"reward": towards(0.0, -2.0, 0.12)}, "reward falls", "Lower ppo.learning_rate"),
    ({"reward": towards(0.0, 0.0, 0.12), "kl": towards(0, 0.002, 0.001)}, "nothing learnt",
     "Raise ppo.learning_rate, or lower ppo.kl_coef"),
    ({"clip_fraction": towards(0.3, 0.5, 0.02)}, "steps too large", "Lower ppo.learning_rate"),
    ({"approx_kl": [0.01, 4.6, *[0.0] * 38]}, "steps too large", "Lower ppo.learning_rate"),
    ({"ratio": towards(1.0, 1.4, 0.1)}, "steps too large", "Lower ppo.learning_rate"),
    ({"explained_variance": towards(-0.1, 0.0, 0.1)}, "critic does not learn", "Raise ppo.value_learning_rate"),
    ({"sampler_gap": [0.05] * STEPS, "sampler_gap_std": [0.1] * STEPS}, "sampler differs from policy",
     "ppo.precision to fp32"),
    ({"prob_error": [1.01] * 20 + [1.08] * 20}, "engine differs from policy", "ppo.rollout_correction to 2.0"),
    ({"policy_grad_norm": towards(5, 60, 5)}, "gradients clipped always", "Lower ppo.learning_rate")])
def test_what_is_wrong_with_an_online_method(wrong, name, said):
    (finding,) = diagnose(points(ONLINE | wrong, VALIDATION), "ppo", PPO)
    assert finding.name == name and said in finding.change
    assert str(finding).startswith(f"{name}: ") and any(digit in finding.seen for digit in "0123456789")


def test_trpo_which_clips_nothing_is_not_told_that_gradients_are_clipped():
    steps = {"policy_grad_norm": towards(5, 60, 5), "accepted": [1.0] * STEPS}
    assert diagnose(points(ONLINE | steps, VALIDATION), "candidate@trpo", PPO) == []


def test_the_figures_are_of_the_beginning_and_the_last_fifth():
    flat = {**ONLINE, "entropy": [0.4] * 4 + [0.2] * 28 + [0.04] * 8}
    (finding,) = diagnose(points(flat), "ppo", PPO)
    assert "0.4 at steps 1 to 3, and 0.04 at steps 33 to 40" in finding.seen


def test_over_optimisation_says_at_which_kl_reward_and_judge_part():
    falling = {**VALIDATION, "validation_judge_win_rate": [0.62, 0.78, 0.81, 0.7, 0.6, 0.5, 0.45, 0.4]}
    (finding,) = diagnose(points(ONLINE, falling), "candidate@mine", {})
    assert finding.name == "over-optimised"
    assert "From update 15 to 40 the reward rose from 0.6 to 0.8" in finding.seen
    assert "fell from 0.81 to 0.4: they part at a KL of 2 nats" in finding.seen
    assert "Raise candidates.mine.kl_coef, or set candidates.mine.kl_limit to about 2." in finding.change
    assert "reward_model.members: 3" in finding.change
    never = {**VALIDATION, "validation_judge_win_rate": [0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]}
    assert "from 0.5 to 0.2: they part at a KL of 0 nats" in diagnose(points(ONLINE, never), "ppo", {})[0].seen
    noise = {**VALIDATION, "validation_judge_win_rate": [0.62, 0.72, 0.81, 0.7, 0.6, 0.65, 0.7, 0.66]}
    assert names(ONLINE, noise) == [], "so few prompts do not say so"
    both = {**falling, "validation_reward": [0.2, 0.5, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3]}
    assert names(ONLINE, both) == [], "the reward sees it, too"


def test_the_limit_and_the_target_of_the_kl():
    beyond = {**VALIDATION, "validation_kl": [0.8, 1.6, 2.0, 5.0, 9.0, 14.0, 19.0, 21.0]}
    (finding,) = diagnose(points(ONLINE, beyond), "ppo", PPO)
    assert finding.name == "KL beyond its limit" and "At update 40 the KL to SFT was 21 nats" in finding.seen
    assert names(ONLINE, beyond, params={"ppo.kl_limit": None}) == []
    own = {"ppo.kl_limit": None, "ppo.kl_target": None, "candidates.x.method": "ppo", "candidates.x.kl_limit": 8}
    (finding,) = diagnose(points(ONLINE, beyond), "candidate@x", own)
    assert "At update 25" in finding.seen and "candidates.x.kl_limit is 8" in finding.seen
    (finding,) = diagnose(points(ONLINE), "ppo", {"ppo.kl_target": 1.0})
    assert finding.name == "KL runs away" and "ppo.kl_horizon" in finding.change


def test_what_is_wrong_with_sft():
    held, before = {"validation_loss": [1.1, 1.4, 1.6]}, {"validation_loss": 3.0}
    (finding,) = diagnose(points(SFT, held, {"validation_loss": 1.7}, before), "sft", {})
    assert finding.name == "validation loss rises"
    assert "was 1.1 at step 5, and is 1.7 at step 40" in finding.seen and "Lower sft.epochs" in finding.change
    assert names(SFT, {"validation_loss": [1.1, 1.0, 1.005]}, None, before) == [], "which is no rise"
    for held in ([3.0, 2.999, 2.998], [3.1, 3.5, 4.0]):
        (finding,) = diagnose(points(SFT, {"validation_loss": held}, None, before), "sft", {})
        assert finding.name == "loss does not fall" and f"was 3 at step 0, and is {held[-1]:g}" in finding.seen
    assert names(SFT, {"validation_loss": [3.1, 3.2, 3.3]}, None, before, stage="candidate@best") == [], \
        "rejection sampling learns from its own answers"


def test_what_is_wrong_with_a_base_model_is_read_from_its_loss_alone():
    for loss in (towards(3, 3, 0.001), towards(1, 3, 0.1)):
        assert names({"loss": loss}, stage="base") == ["loss does not fall"]
    assert names({"loss": towards(7, 0.5, 0.1)}, stage="base") == []


def test_what_is_wrong_with_a_reward_model():
    chance = {**REWARD, "loss": towards(0.7, 0.7, 0.02), "accuracy": towards(0.5, 0.5, 0.1)}
    (finding,) = diagnose(points(chance, None, {**HELD, "validation_accuracy": 0.5}), "judge", {})
    assert finding.name == "accuracy at chance" and "reward_model.learning_rate" in finding.change
    few = {**REWARD, "accuracy": [0.25, 0.75] * 6}
    assert names({name: values[:12] for name, values in few.items()}) == [], "48 pairs do not say so"
    by_heart = {**REWARD, "accuracy": towards(0.5, 0.97, 0.03)}
    (finding,) = diagnose(points(by_heart, None, {**HELD, "validation_accuracy": 0.7}), "reward_model", {})
    assert finding.name == "overfitted" and "Lower reward_model.epochs" in finding.change
    assert names(by_heart, None, {"validation_accuracy": 0.7, "validation_pairs": 20}) == []


@pytest.mark.parametrize(("wrong", "name", "said"), [
    ({"better_log_ratio": towards(0, -30, 2)}, "preferred answers become unlikelier", "raise candidates.dpo.beta"),
    ({"margin": towards(0, 12, 1)}, "margins saturate", "Lower candidates.dpo.epochs")])
def test_what_is_wrong_with_a_direct_method(wrong, name, said):
    (finding,) = diagnose(points({**DPO, **wrong}, None, HELD), "candidate@dpo", {"direct.beta": 0.1})
    assert finding.name == name and said in finding.change


def test_margins_are_judged_by_the_loss_of_the_method():
    wide = {**DPO, "margin": towards(0, 6, 0.1)}

    def found(**values):
        own = {f"candidates.x.{name}": value for name, value in values.items()}
        return [one.change for one in diagnose(points(wide, None, HELD), "candidate@x", own)]

    assert found(method="dpo", beta=0.1) == [
        "Lower candidates.x.epochs or candidates.x.learning_rate, or candidates.x.beta."]
    assert found(method="orpo", odds_ratio_weight=0.1) == ["Lower candidates.x.epochs or candidates.x.learning_rate."]
    assert found(method="ipo", beta=0.05) == [], "its loss has its minimum at 1 / (2 beta) = 10"
    assert found(method="simpo", beta=2.0, target_margin=2.0) == [], "its sigmoid sees 4"
    assert len(found(method="simpo", beta=2.0, target_margin=0.5)) == 1


def test_what_moves_trpo_is_its_trust_region():
    still = {"reward": towards(0.2, 0.2, 0.1), "kl": towards(0.0, 0.05, 0.01), "accepted": [1.0] * STEPS}
    (finding,) = diagnose(points(ONLINE | still, VALIDATION), "candidate@trpo", PPO)
    assert finding.change == "Raise candidates.trpo.trust_region, or lower candidates.trpo.kl_coef."


def test_a_measurement_that_was_no_number_is_passed_over():
    holes = [{**point, "entropy": None} if i % 3 else point for i, point in enumerate(points(ONLINE, VALIDATION))]
    assert diagnose(holes, "ppo", PPO) == []
    broken = [{**point, "entropy": value, "step": step} for point, value, step in zip(
        points(ONLINE), [float("inf"), float("nan"), 1e308, "text", [1]] * 9, [1, None, "x", 4.0] * 12, strict=False)]
    assert all(isinstance(str(finding), str) for finding in diagnose(broken, "ppo", PPO))
