"""PPO on validation prompts: what is measured there, and which policy is kept."""

from copy import deepcopy
from math import sqrt
from statistics import fmean

import pytest
import torch

from plumbline.alignment.online.experience import Sampler
from plumbline.alignment.online.validation import Kept, Validation
from plumbline.alignment.reward import RewardModel, value_model
from plumbline.errors import UserError
from plumbline.lm.chat import encode_prompt, stop_token
from plumbline.lm.sampling import sample_all
from testing.online import policy_of, prepared, train_policy
from testing.tiny_models import PROMPTS, copy_of, ppo_params, prompt, silent

MEASURED = {"validation_reward": 1.0, "validation_judge_score": 1.0}


@pytest.fixture(scope="module")
def reward(taught_folder, tmp_path_factory):
    return centred(RewardModel.from_policy(taught_folder, 64, seed=0), 2.0, tmp_path_factory.mktemp("reward"))


@pytest.fixture(scope="module")
def judge(taught_folder, tmp_path_factory):
    return centred(RewardModel.from_policy(taught_folder, 64, seed=1), 0.5, tmp_path_factory.mktemp("judge"))


def centred(model, std, folder):
    model.model.config.reward_std = std
    model.save(folder)
    return RewardModel.load(folder)


def answers_of(lm, prompts, seed, params):
    return sample_all(lm.model, prompts, max_response=params.max_response, stop=stop_token(lm.tokenizer),
                      temperature=params.temperature, generator=torch.Generator().manual_seed(seed),
                      batch_size=params.batch_size)


def log_likelihood(lm, prompt_ids, response_ids, temperature):
    """Of a response, in float64, without padding."""
    with torch.no_grad():
        logits = deepcopy(lm.model).double()(torch.tensor([prompt_ids + response_ids])).logits[0] / temperature
    log_probs = logits.log_softmax(-1)
    return sum(float(log_probs[len(prompt_ids) + t - 1, token]) for t, token in enumerate(response_ids))


def test_win_rate_rewards_and_kl_are_those_of_each_answer_by_itself(taught_lm, random_lm, reward, judge):
    """A response that was cut lies below the mean by the judge's own deviations, and by the reward model's own."""
    params = ppo_params(validation_prompts=5, temperature=0.8, max_response=3, missing_stop_deviations=1.5)
    found = prepared(taught_lm, reward, judge, PROMPTS, params, seed=7)
    policy = policy_of(random_lm.model, taught_lm.model, params)
    measured = found.measure(policy, Sampler(policy))
    ids = found.prompts
    assert sorted(ids) == sorted(encode_prompt(taught_lm.tokenizer, asked) for asked in PROMPTS)
    sft, ours = answers_of(taught_lm, ids, 7, params), answers_of(random_lm, ids, 8, params)
    assert len({answer.stopped for answer in sft + ours}) == 2, "some end and some are cut"

    def scored(model, answers):
        return [model.score_ids([p + a.ids])[0] if a.stopped else -1.5 * model.std
                for p, a in zip(ids, answers, strict=True)]

    pairs = list(zip(scored(judge, ours), scored(judge, sft), strict=True))
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs]
    expected = {
        "validation_judge_win_rate": sum(wins) / 5,
        "validation_judge_win_rate_error": sqrt(sum((win - sum(wins) / 5) ** 2 for win in wins)) / 5,
        "validation_reward": fmean(scored(reward, ours)), "validation_judge_score": fmean(a for a, _ in pairs),
        "validation_kl": fmean(log_likelihood(random_lm, p, a.ids, 0.8) - log_likelihood(taught_lm, p, a.ids, 0.8)
                               for p, a in zip(ids, ours, strict=True)),
        "validation_stopped": fmean(a.stopped for a in ours)}
    assert measured == pytest.approx(expected, abs=1e-3)
    assert found.measure(policy, Sampler(policy)) == measured, "the same answers each time"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sft_has_a_kl_of_zero_to_itself(taught_lm, reward, precision):
    params = ppo_params(precision=precision)
    found = prepared(taught_lm, reward, None, PROMPTS, params, seed=0)
    policy = policy_of(copy_of(taught_lm).model, taught_lm.model, params)
    assert found.measure(policy, Sampler(policy))["validation_kl"] == 0


class Uneven:
    """A judge whose scores of one answer differ from call to call, as they do by the rounding of another batch."""

    def __init__(self):
        self.calls = 0

    def score_sampled(self, prompts, responses, missing_stop_deviations):
        self.calls += 1
        return [self.calls * 1e-6] * len(responses)


def test_the_same_answer_is_a_tie_whatever_rounding_makes_of_its_scores(taught_lm, reward):
    params = ppo_params(temperature=1e-3)  # all but greedy
    found = prepared(taught_lm, reward, Uneven(), PROMPTS, params, seed=0)
    policy = policy_of(copy_of(taught_lm).model, taught_lm.model, params)
    assert found.measure(policy, Sampler(policy))["validation_judge_win_rate"] == 0.5


def test_the_prompts_are_a_sample_that_more_data_adds_to(taught_lm, reward):
    params = ppo_params(validation_prompts=3, max_prompt=30)
    asked = [prompt(f"color {i}") for i in range(20)]
    first = prepared(taught_lm, reward, None, asked[:10], params, seed=0).prompts
    backwards = prepared(taught_lm, reward, None, asked[:10][::-1], params, seed=0).prompts
    assert first == backwards and len(first) == 3
    assert first != [encode_prompt(taught_lm.tokenizer, text) for text in asked[:3]], "not the first that arrived"
    long = [prompt("colors " * 40)]
    assert prepared(taught_lm, reward, None, asked[:10] + long, params, seed=0).prompts == first


def test_without_a_prompt_that_fits_a_kl_limit_cannot_be_watched(taught_lm, reward):
    assert prepared(taught_lm, reward, None, [], ppo_params(), seed=0) is None
    with pytest.raises(UserError, match=r"ppo\.kl_limit.*ingest\.validation_fraction"):
        prepared(taught_lm, reward, None, PROMPTS, ppo_params(kl_limit=5.0, max_prompt=2), seed=0)


WIN_RATES = [0.6, 0.9, 0.9, 0.8, 0.95, 0.7]
KLS = [1.0, 2.0, 3.0, 4.0, 6.0, 5.0]


@pytest.mark.parametrize(("judged", "limit", "kept", "ended"), [
    (True, None, 5, 6),
    (True, 5.0, 2, 5),  # of two that win as often, the earlier; and training ends beyond the limit
    (False, None, 6, 6),
    (False, 5.0, 4, 5),
    (True, 0.5, 0, 1),  # nothing is within the limit: SFT itself
])
def test_which_policy_is_kept(taught_lm, reward, judge, tmp_path, monkeypatch, judged, limit, kept, ended):
    policy, weights, reported = copy_of(taught_lm), [deepcopy(taught_lm.model.state_dict())], []
    value_folder = tmp_path / "value"
    reward.save(value_folder)

    def measure(self, policy, sampler):
        weights.append(deepcopy(policy.model.state_dict()))
        place = len(weights) - 2
        return MEASURED | {"validation_judge_win_rate": WIN_RATES[place], "validation_kl": KLS[place]}

    monkeypatch.setattr(Validation, "measure", measure)
    params = ppo_params(updates=6, evaluate_every=1, kl_limit=limit, learning_rate=1e-2)
    validation = prepared(taught_lm, reward, judge if judged else None, PROMPTS, params, seed=0)
    found = train_policy(policy, taught_lm.model, value_model(value_folder), reward, PROMPTS, params, 0,
                          lambda step, total, metrics, what="": reported.append(metrics), tmp_path / "run", validation)
    assert found["best_update"] == kept and len(reported) == ended
    assert found.get("stopped_early") == (ended if limit else None)
    assert all(torch.equal(weight, weights[kept][name]) for name, weight in policy.model.state_dict().items())
    assert [metrics["validation_kl"] for metrics in reported] == KLS[:ended], "the curve over KL is whole"
    if kept:
        assert (found["validation_judge_win_rate"], found["validation_kl"]) == (WIN_RATES[kept - 1], KLS[kept - 1])
    else:
        assert "validation_kl" not in found


def test_a_judge_that_prefers_sft_to_every_policy_keeps_sft(taught_lm, reward, judge):
    kept = Kept()
    validation = prepared(taught_lm, reward, judge, PROMPTS, ppo_params(), seed=0)
    for update, rate in enumerate((0.4, 0.5, 0.3), start=1):
        kept.consider(update, {"validation_judge_win_rate": rate, "validation_kl": 1.0},
                      policy_of(taught_lm.model, taught_lm.model), validation)
    assert (kept.update, kept.weights) == (0, None)


def test_measurements_are_at_their_updates_and_at_the_end(taught_lm, reward, tmp_path):
    params, reported = ppo_params(updates=5, evaluate_every=2), []
    reward.save(tmp_path / "value")
    validation = prepared(taught_lm, reward, None, PROMPTS, params, seed=0)
    policy = copy_of(taught_lm)
    train_policy(policy, taught_lm.model, value_model(tmp_path / "value"), reward, PROMPTS, params, 0,
                  lambda step, total, metrics, what="": reported.append("validation_kl" in metrics), tmp_path / "run",
                  validation)
    assert reported == [False, True, False, True, True]
    again = copy_of(taught_lm)
    train_policy(again, taught_lm.model, value_model(tmp_path / "value"), reward, PROMPTS, params, 0, silent,
                  tmp_path / "other")
    for one, other in zip(policy.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other), "looking changes nothing"
