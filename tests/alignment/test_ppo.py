"""PPO: one update against a float64 reimplementation without padding, exact steps, and that it learns."""

from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from math import sqrt
from statistics import pstdev
from types import SimpleNamespace

import pytest
import torch

from plumbline.alignment.online import experience, loop, methods
from plumbline.alignment.online.experience import copy_in_bf16
from plumbline.alignment.online.figures import average, measured_kl
from plumbline.alignment.online.rehearsal import rehearsed
from plumbline.alignment.reward import RewardModel, value_model
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, encode_response, stop_token
from plumbline.preferences.types import Demonstration, Origin
from testing.online import RecordedEngine, Scripted, own_engine, train_policy
from testing.tiny_models import PROMPTS, Steps, copy_of, ppo_params, prompt, small_model, small_tokenizer


class Enough(Exception):
    """Raised by a report, to stop there."""


@pytest.fixture(scope="module")
def reward_folder(taught_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward")
    reward = RewardModel.from_policy(taught_folder, 64, seed=0)
    reward.model.config.reward_offset = 0.5
    reward.save(folder)
    return folder


@pytest.fixture
def red(tokenizer):
    return tokenizer(" red", add_special_tokens=False)["input_ids"][0]


@pytest.fixture
def train(taught_lm, reward_folder, red, tmp_path):
    """Trains a copy of the taught model; returns (policy, value, reports, rewards asked, final metrics)."""

    def run(*, policy=None, reference=None, reward=None, prompts=PROMPTS, seed=0, folder=None, told=None,
            stop_after=None, demonstrations=(), engine=None, **changed):
        policy, reward, value = policy or copy_of(taught_lm), reward or Scripted(red), value_model(reward_folder)
        reference, reports = reference or deepcopy(policy.model), []

        def report(step, total, metrics=None, what=""):
            reports.append(metrics)
            if told is not None:
                told.append((what, step, total))
            if what and what == stop_after:
                raise Enough

        last = None
        with suppress(Enough):
            last = train_policy(policy, reference, value, reward, prompts, ppo_params(**changed), seed, report,
                                folder or tmp_path / f"run{len(list(tmp_path.iterdir()))}",
                                demonstrations=demonstrations, engine=engine)
        return policy, value, reports, reward, last

    return run


class ByHand:
    """One PPO update in float64, one response at a time, from nothing but the ids that were scored."""

    def __init__(self, policy, reference, value, reward, params, prompts, stop):
        self.params, self.policy, self.std = params, deepcopy(policy).double(), reward.std
        self.value, value_offset = deepcopy(value).double(), value.config.reward_offset
        starts = sorted(prompts, key=len, reverse=True)
        self.rows = [(row, next(len(p) for p in starts if row[:len(p)] == p)) for row in reward.asked]
        self.finished = [reward.score(row) for row, _ in self.rows if row[-1] == stop]
        self.scores = [reward.score(row) if row[-1] == stop else -params.missing_stop_deviations * reward.std
                       for row, _ in self.rows]
        self.advantages, self.returns, self.log_probs, self.kls, self.values = [], [], [], [], []
        self.monte_carlo = []
        for (row, start), score in zip(self.rows, self.scores, strict=True):
            with torch.no_grad():
                ours, theirs = self.log_probs_of(self.policy, row, start), self.log_probs_of(
                    deepcopy(reference).double(), row, start)
                values = self.values_of(row, start) - value_offset
            kl, n = ours - theirs, len(row) - start
            rewards = [-params.kl_coef * reward.std * float(k) for k in kl]
            rewards[-1] += score
            self.monte_carlo.append(torch.tensor([sum(params.gamma ** k * r for k, r in enumerate(rewards[t:]))
                                                  for t in range(n)]))
            deltas = [rewards[t] + params.gamma * (float(values[t + 1]) if t + 1 < n else 0.0) - float(values[t])
                      for t in range(n)]
            advantage = [sum((params.gamma * params.gae_lambda) ** k * d for k, d in enumerate(deltas[t:]))
                         for t in range(n)]
            self.advantages.append(torch.tensor(advantage, dtype=torch.float64))
            self.returns.append(self.advantages[-1] + values)
            self.log_probs.append(ours), self.kls.append(kl), self.values.append(values)
        every = torch.cat(self.advantages)
        self.white = [(a - every.mean()) / every.std(correction=0) for a in self.advantages]
        self.offset = value_offset

    def log_probs_of(self, model, row, start):
        log_probs = (model(torch.tensor([row])).logits[0] / self.params.temperature).log_softmax(-1)
        return torch.stack([log_probs[t - 1, row[t]] for t in range(start, len(row))])

    def values_of(self, row, start, model=None):
        model = model or self.value
        hidden = model.base_model(torch.tensor([row])).last_hidden_state[0]
        return (hidden @ model.score.weight[0])[start - 1:-1]

    def policy_gradient(self):
        """At ratio 1 the clipped objective has the gradient of the plain policy gradient."""
        tokens = sum(map(len, self.white))
        loss = sum(-(a * self.log_probs_of(self.policy, row, start)).sum()
                   for a, (row, start) in zip(self.white, self.rows, strict=True)) / tokens
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(self.policy.parameters()))])

    def value_gradient(self):
        """At the old values nothing is clipped: half the squared error."""
        tokens = sum(map(len, self.returns))
        loss = sum(0.5 * (self.values_of(row, start) - self.offset - r).square().sum()
                   for r, (row, start) in zip(self.returns, self.rows, strict=True)) / tokens
        return float(loss.detach()), torch.cat([g.flatten() for g in torch.autograd.grad(
            loss, list(self.value.parameters()), materialize_grads=True)])

    def later_value_gradient(self, model):
        """Of a value model that has moved on: half the larger of two squared errors, of the new value and of the same
        held within `value_clip` deviations of the one at sampling time."""
        model, reach = deepcopy(model).double(), self.params.value_clip * self.std
        loss = torch.zeros((), dtype=torch.float64)
        for old, returns, (row, start) in zip(self.values, self.returns, self.rows, strict=True):
            new = self.values_of(row, start, model) - self.offset
            for v, o, r in zip(new, old, returns, strict=True):
                near = min(max(v, o - reach), o + reach)
                loss = loss + 0.5 * max((v - r) ** 2, (near - r) ** 2)
        loss = loss / sum(map(len, self.returns))
        return torch.cat([g.flatten() for g in torch.autograd.grad(
            loss, list(model.parameters()), materialize_grads=True)])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_an_update_is_that_of_a_float64_loop(train, taught_lm, random_lm, reward_folder, red, temperature):
    changed = {"updates": 1, "temperature": temperature, "gamma": 0.97, "kl_coef": 0.2, "max_response": 2}
    with Steps() as steps:
        _, _, (metrics,), reward, _ = train(reference=random_lm.model, reward=Scripted(red, std=1.7), **changed)
    tokenizer = taught_lm.tokenizer
    hand = ByHand(taught_lm.model, random_lm.model, value_model(reward_folder), reward, ppo_params(**changed),
                  [encode_prompt(tokenizer, p) for p in PROMPTS], stop_token(tokenizer))
    stopped = [row[-1] == stop_token(tokenizer) for row, _ in hand.rows]
    assert 0 < sum(stopped) < len(stopped), "both kinds of response occur"
    assert torch.allclose(steps.gradients[0].double(), hand.policy_gradient(), atol=1e-4)
    value_loss, value_gradient = hand.value_gradient()
    assert torch.allclose(steps.gradients[1].double(), value_gradient, atol=1e-4)
    every = {name: torch.cat(getattr(hand, name)) for name in ("log_probs", "monte_carlo", "values")}
    error = every["monte_carlo"] - every["values"]
    expected = {
        "kl": sum(float(kl.sum()) for kl in hand.kls) / 6, "kl_coef": 0.2, "value_loss": value_loss,
        "kl_error": pstdev(float(kl.sum()) for kl in hand.kls) / sqrt(6),
        "reward": sum(hand.scores) / 6, "score": sum(hand.finished) / len(hand.finished),
        "entropy": -float(every["log_probs"].mean()), "stopped": sum(stopped) / 6,
        "length": sum(len(kl) for kl in hand.kls) / 6, "ratio": 1.0, "approx_kl": 0.0, "clip_fraction": 0.0,
        "policy_loss": 0.0, "policy_grad_norm": float(steps.gradients[0].norm()),
            "engine_gap": 0.0, "prob_error": 1.0,
        "value_grad_norm": float(steps.gradients[1].norm()),
        "explained_variance": float(1 - error.var(correction=0) / every["monte_carlo"].var(correction=0))}
    assert metrics == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_second_step_of_an_update_clips_the_values_around_those_of_sampling_time(
        train, taught_lm, reward_folder, red):
    """At the first step nothing is clipped, around whatever the loss would clip."""
    changed = {"updates": 1, "minibatches": 1, "value_clip": 0.13, "value_learning_rate": 1e-3, "max_response": 3}
    moved = train(reward=Scripted(red, std=1.7), epochs=1, **changed)[1]
    with Steps() as steps:
        reward = train(reward=Scripted(red, std=1.7), epochs=2, **changed)[3]
    hand = ByHand(taught_lm.model, taught_lm.model, value_model(reward_folder), reward, ppo_params(**changed),
                  [encode_prompt(taught_lm.tokenizer, p) for p in PROMPTS], stop_token(taught_lm.tokenizer))
    new = torch.cat([hand.values_of(row, start, deepcopy(moved).double()) for row, start in hand.rows]) - hand.offset
    moves = (new - torch.cat(hand.values)).abs()
    far = moves > 0.13 * 1.7
    assert far.any() and not far.all(), f"{moves}: the clip holds some values and not others"
    assert torch.allclose(steps.gradients[3].double(), hand.later_value_gradient(moved), atol=1e-4)


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_micro_batches_change_neither_gradients_nor_metrics(train, micro_batch_size):
    found = []
    for size in (12, micro_batch_size):
        with Steps() as steps:
            reports = train(batch_size=12, minibatches=2, epochs=2, updates=1, micro_batch_size=size)[2]
        found.append((torch.stack([torch.cat(pair) for pair in zip(steps.gradients[::2], steps.gradients[1::2],
                                                                   strict=True)]), reports[0]))
    (whole, metrics), (split, split_metrics) = found
    assert torch.allclose(whole, split, atol=3e-4)
    assert torch.allclose(whole[0], split[0], atol=1e-5), "before the first step there is no drift"
    assert split_metrics == pytest.approx(metrics, rel=2e-3, abs=1e-4)


@pytest.mark.parametrize(("epochs", "minibatches", "micro_batch_size"), [(1, 1, 6), (3, 2, 6), (2, 3, 1), (4, 4, 4)])
def test_an_update_is_epochs_times_minibatches_steps_of_each_model(train, epochs, minibatches, micro_batch_size):
    with Steps() as steps:
        train(epochs=epochs, minibatches=minibatches, micro_batch_size=micro_batch_size, updates=3)
    assert len(steps.rates) == 3 * epochs * minibatches * 2


def test_the_first_batches_train_the_value_model_alone_and_unclipped(train, taught_lm, reward_folder, red):
    """The value model starts as a reward model, which was never read before the last token."""
    changed = {"updates": 1, "value_warmup": 1, "minibatches": 1, "value_clip": 0.01, "max_response": 3}
    with Steps() as steps:
        reward, told = Scripted(red, std=1.7), []
        moved = train(reward=reward, told=told, epochs=2, **changed)[1]
    assert told == [("value warm-up", 1, 1), ("", 1, 1)] and len(steps.gradients) == 2 + 2 * 2
    reward.asked = reward.asked[:6]
    hand = ByHand(taught_lm.model, taught_lm.model, value_model(reward_folder), reward, ppo_params(**changed),
                  [encode_prompt(taught_lm.tokenizer, p) for p in PROMPTS], stop_token(taught_lm.tokenizer))
    assert torch.allclose(steps.gradients[0].double(), hand.value_gradient()[1], atol=1e-4)
    once = train(reward=Scripted(red, std=1.7), epochs=1, **changed | {"updates": 1}, stop_after="value warm-up")[1]
    hand.params = ppo_params(**changed | {"value_clip": 1e6})
    assert torch.allclose(steps.gradients[1].double(), hand.later_value_gradient(once), atol=1e-4)
    assert moved is not once


def test_warming_up_moves_no_policy_and_explains_more(train):
    changed = {"updates": 1, "batch_size": 32, "micro_batch_size": 32, "epochs": 4, "value_learning_rate": 5e-3}
    (cold,), (*_, warm) = train(**changed)[2], train(value_warmup=5, **changed)[2]
    assert warm["kl"] == 0, "at the first update the policy is still the reference"
    assert warm["explained_variance"] > cold["explained_variance"] + 1


def test_both_rates_fall_linearly_over_the_updates(train):
    with Steps() as steps:
        train(updates=4, learning_rate=1e-3, value_learning_rate=8e-3)
    assert steps.rates[::2] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    assert steps.rates[1::2] == pytest.approx([8e-3, 6e-3, 4e-3, 2e-3])


def test_gradients_of_both_models_are_clipped_once_a_step_and_logged_unclipped(train):
    with Steps() as free:
        train(updates=1)
    with Steps() as clipped:
        _, _, (metrics,), _, _ = train(updates=1, max_grad_norm=0.01)
    for before, after, name in zip(free.gradients, clipped.gradients, ("policy", "value"), strict=True):
        assert float(before.norm()) > 0.01 and float(after.norm()) == pytest.approx(0.01, rel=1e-3)
        assert torch.allclose(after / after.norm(), before / before.norm(), atol=1e-4)
        assert metrics[f"{name}_grad_norm"] == pytest.approx(float(before.norm()), rel=1e-4)


def test_what_was_sampled_is_scored_id_by_id_and_ends_at_the_first_stop_token(train, taught_lm, random_lm):
    """Never decoded and encoded again: an untrained model says things that would come back as other ids."""
    engine = RecordedEngine(own_engine(random_lm))
    reward = train(policy=copy_of(random_lm), temperature=2.0, max_response=12, engine=engine)[3]
    assert reward.asked == [p + response.ids for p, response in engine.sampled]
    tokenizer, stop = taught_lm.tokenizer, stop_token(taught_lm.tokenizer)
    assert all(stop not in response.ids[:-1] for _, response in engine.sampled)
    assert any(tokenizer(tokenizer.decode(r.ids), add_special_tokens=False)["input_ids"] != r.ids
               for _, r in engine.sampled)


def test_the_stop_token_in_use_decides_what_counts_as_stopped_not_the_eos(train, red):
    tokenizer = small_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|im_start|>")
    stop, model = stop_token(tokenizer), small_model(tokenizer, tie_word_embeddings=False)
    with torch.no_grad():  # certain to end at once
        model.lm_head = torch.nn.Linear(32, len(tokenizer))
        model.lm_head.bias[stop] = 1000.0
    assert stop != tokenizer.eos_token_id
    reports, reward = train(policy=LanguageModel(model, tokenizer), updates=1)[2:4]
    assert reports[0]["stopped"] == 1 and reports[0]["length"] == 1
    assert all(row[-1] == stop for row in reward.asked)


def test_a_response_that_ends_with_another_stop_token_of_the_model_has_stopped(train, tokenizer, taught_lm):
    policy = copy_of(taught_lm)
    first = policy.model.generate(torch.tensor([encode_prompt(tokenizer, PROMPTS[0])]), do_sample=False,
                                  max_new_tokens=1)[0, -1].item()
    policy.model.generation_config.eos_token_id = [tokenizer.eos_token_id, first]
    reward = train(policy=policy, reference=deepcopy(taught_lm.model), updates=1, batch_size=20)[3]
    assert {row[-1] for row in reward.asked} >= {first, stop_token(tokenizer)}


def test_a_policy_handed_over_in_training_mode_with_dropout_still_has_ratio_one(train, tokenizer, taught_lm):
    model = small_model(tokenizer, attention_dropout=0.5)
    model.load_state_dict(taught_lm.model.state_dict())
    reports = train(policy=LanguageModel(model.train(), tokenizer), reference=deepcopy(taught_lm.model), updates=1)[2]
    assert reports[0]["kl"] == 0 and reports[0]["approx_kl"] < 1e-8
    assert reports[0]["ratio"] == pytest.approx(1, abs=1e-6)


def test_in_bf16_the_gap_between_sampler_and_policy_is_measured(train, taught_lm):
    """Token by token, against the log-probabilities of a copy with weights in bf16."""
    engine = RecordedEngine(own_engine(taught_lm))
    (metrics,) = train(updates=1, precision="bf16", engine=engine)[2]
    rounded, gaps = copy_in_bf16(taught_lm.model), []
    for prompt_ids, response in engine.sampled:
        ids, start = torch.tensor([prompt_ids + response.ids]), len(prompt_ids)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            ours = taught_lm.model(ids).logits[0].double().log_softmax(-1)
        with torch.no_grad():
            theirs = rounded(ids).logits[0].double().log_softmax(-1)
        gaps += [float((ours - theirs)[start + t - 1, token]) for t, token in enumerate(response.ids)]
    gaps = torch.tensor(gaps)
    assert metrics["sampler_gap"] == pytest.approx(float(gaps.mean()), abs=4e-3)
    assert metrics["sampler_gap_std"] == pytest.approx(float(gaps.std(correction=0)), abs=4e-3)
    assert gaps.std() > 5e-3, "rounding weights shows"
    assert "sampler_gap" not in train(updates=1)[2][0], "in fp32 the policy itself samples"


def test_a_clearly_negative_kl_stops_the_run(train, taught_lm, random_lm):
    """Responses that another model sampled are less probable under the policy than under that model."""
    engine = RecordedEngine(own_engine(taught_lm), instead=taught_lm.model)
    with pytest.raises(UserError, match=r"KL .* cannot be negative"):
        train(policy=copy_of(random_lm), reference=taught_lm.model, engine=engine)


@pytest.mark.parametrize(("responses", "kl", "stops"), [(64, -0.3, True), (64, -0.15, False), (4, -2.0, False),
                                                        (4, -5.0, True), (4096, -0.05, False)])
def test_a_negative_kl_that_may_be_chance_or_rounding_does_not_stop_the_run(responses, kl, stops):
    """A policy that gives 15 % to an answer that SFT never gives has log(policy / SFT) = -0.16 for all others."""
    experience = SimpleNamespace(kl_BR=torch.full((responses, 2), kl / 2))
    if stops:
        with pytest.raises(UserError, match=f"measured on {responses} responses"):
            measured_kl(experience)
    else:
        assert measured_kl(experience) == pytest.approx({"kl": kl, "kl_error": 0.0}, abs=1e-6)


def test_the_adaptive_controller_counts_episodes_and_reaches_the_rewards(train):
    reports = train(updates=4, kl_target=0.5, kl_horizon=60, kl_coef=0.1, learning_rate=3e-3)[2]
    beta = 0.1
    for metrics in reports:
        assert metrics["kl_coef"] == pytest.approx(beta, rel=1e-9)
        beta *= 1 + max(-0.2, min(0.2, metrics["kl"] / 0.5 - 1)) * 6 / 60
    assert len({metrics["kl_coef"] for metrics in reports}) == 4


def test_experience_is_not_changed_by_learning_from_it(train, monkeypatch):
    """Old values and log-probabilities stay those of sampling time through all epochs."""
    rollouts, gather = [], experience.gather

    def keep(*args, **options):
        rollouts.append(gather(*args, **options))
        rollouts.append(deepcopy(rollouts[-1]))
        return rollouts[-2]

    monkeypatch.setattr(loop, "gather", keep)
    train(updates=1, epochs=3, minibatches=2, learning_rate=1e-2)
    for name in ("old_BR", "reference_BR", "values_BR", "score_B"):
        assert torch.equal(getattr(rollouts[0], name), getattr(rollouts[1], name))


def test_every_prompt_is_used_before_any_is_used_again_and_long_ones_are_counted(train, tokenizer):
    reward, last = train(prompts=[*PROMPTS, prompt("colors " * 80)], batch_size=5, updates=3)[3:]
    assert (last["prompts"], last["dropped_too_long"]) == (5, 1)
    asked = [tuple(encode_prompt(tokenizer, p)) for p in PROMPTS]
    for update in range(3):
        rows = reward.asked[5 * update:5 * update + 5]
        assert sorted(next(p for p in asked if tuple(row[:len(p)]) == p) for row in rows) == sorted(asked)


def test_no_prompt_that_fits_is_an_error_that_names_the_parameter(train):
    with pytest.raises(UserError, match=r"ppo\.max_prompt = 3"):
        train(max_prompt=3)


def test_the_frozen_models_stay_frozen(train, taught_lm):
    reference = deepcopy(taught_lm.model)
    policy = train(reference=reference, learning_rate=1e-2)[0]
    assert all(torch.equal(a, b) for a, b in zip(reference.parameters(), taught_lm.model.parameters(), strict=True))
    assert all(p.grad is None for p in reference.parameters())
    assert not torch.equal(next(policy.model.parameters()), next(reference.parameters()))


def test_the_same_seed_gives_the_same_run(train):
    one, two, other = train(seed=1), train(seed=1), train(seed=2)
    assert one[2] == two[2] != other[2]
    assert all(torch.equal(a, b) for a, b in zip(one[0].model.parameters(), two[0].model.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_reward_rises(train, precision):
    changed = {"updates": 15, "batch_size": 32, "micro_batch_size": 32, "epochs": 2, "minibatches": 2, "kl_coef": 0.02,
               "learning_rate": 3e-3, "value_learning_rate": 3e-3, "precision": precision, "max_grad_norm": 1.0}
    policy, _, reports, _, last = train(**changed)
    rewards = [metrics["reward"] for metrics in reports]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:2]) / 2 + 0.3
    assert reports[-1]["kl"] > 0.1 and reports[-1]["stopped"] > 0.8
    assert all(p.dtype == torch.float32 for p in policy.model.parameters())
    assert last["reward"] == pytest.approx(rewards[-1])


def test_a_heavier_kl_penalty_keeps_the_policy_nearer(train):
    changed = {"updates": 8, "batch_size": 32, "micro_batch_size": 32, "epochs": 2, "minibatches": 2,
               "learning_rate": 3e-3, "value_learning_rate": 3e-3}
    free, held = (train(kl_coef=beta, **changed)[2][-1]["kl"] for beta in (0.0, 2.0))
    assert held < 0.5 * free


def test_an_update_that_diverges_stops_before_the_step_and_leaves_the_checkpoint_of_the_one_before(
        train, taught_lm, tmp_path, monkeypatch):
    policy, steps = copy_of(taught_lm), []
    ppo = methods.METHODS["ppo"]

    def damaged(new, old, advantages, mask, clip):
        steps.append(deepcopy(policy.model.state_dict()))
        return ppo.loss(new, old, advantages * (float("nan") if len(steps) == 3 else 1.0), mask, clip)

    monkeypatch.setitem(methods.METHODS, "ppo", replace(ppo, loss=damaged))
    with pytest.raises(UserError, match=r"At update 3 of 4, the policy_loss is nan.*ppo\.learning_rate"):
        train(policy=policy, updates=4, checkpoint_every=1, folder=tmp_path / "kept")
    assert all(torch.equal(weight, steps[-1][name]) for name, weight in policy.model.state_dict().items())
    assert [file.name[:6] for file in (tmp_path / "kept").glob("*.pt")] == ["000002"]


def test_a_critic_that_diverges_is_told_which_parameter_to_lower(train):
    with pytest.raises(UserError, match=r"At batch 2 of 3 of the value warm-up, .* Lower ppo\.value_learning_rate"):
        train(value_learning_rate=1e30, value_warmup=3)


@pytest.mark.parametrize("updates", [1, 3])
def test_a_reward_that_is_no_number_stops_the_run_before_anything_is_learnt(train, taught_lm, red, updates):
    """In the last update, too, after which nothing would be sampled any more."""
    reward, policy = Scripted(red), copy_of(taught_lm)
    score, scored = reward.score, []
    reward.score = lambda row: scored.append(row) or (float("nan") if len(scored) > 6 * (updates - 1) else score(row))
    with pytest.raises(UserError, match=f"At update {updates} of {updates}, the reward is nan"):
        train(policy=policy, reward=reward, updates=updates, max_response=40)
    assert all(bool(weight.isfinite().all()) for weight in policy.model.parameters())


def test_what_an_update_could_not_measure_is_left_out_of_the_averages():
    found = average([{"kl": 1.0, "explained_variance": 0.5}, {"kl": 3.0}])
    assert found == {"kl": 2.0, "explained_variance": 0.5}
    assert average([{"kl": 1.0}]) == {"kl": 1.0}


def test_beside_the_policy_the_demonstrations_are_learnt_with_their_weight(train, taught_lm):
    """At the first step: the gradient of PPO alone, and that of the demonstrations' mean loss a token."""
    shown = [Demonstration(PROMPTS[1], "green", Origin("test")), Demonstration(PROMPTS[0], "red red", Origin("test"))]
    changed = {"updates": 1, "ptx_coef": 2.0, "micro_batch_size": 4}
    with Steps() as alone:
        train(updates=1)
    with Steps() as beside:
        metrics = train(demonstrations=shown, **changed)[2][0]
    model = deepcopy(taught_lm.model).double()
    gradient = (beside.gradients[0] - alone.gradients[0]) / 2

    losses = []
    for one in shown:
        prompt = encode_prompt(taught_lm.tokenizer, one.prompt)
        response = encode_response(taught_lm.tokenizer, one.response)
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1:-1].log_softmax(-1)
        losses.append((-logits[range(len(response)), response].sum(), len(response)))
    found = []
    for first in range(7):  # so many of six draws may be of the first
        total = sum(n * count for (_, n), count in zip(losses, (first, 6 - first), strict=True))
        loss = (losses[0][0] * first + losses[1][0] * (6 - first)) / total
        flat = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)])
        found.append((float((flat - gradient).norm()), float(loss.detach())))
    distance, loss = min(found)
    assert distance < 1e-3 and metrics["ptx_loss"] == pytest.approx(loss, abs=1e-4)
    with pytest.raises(UserError, match=r"ppo\.ptx_coef = 2\.0 wants demonstrations"):
        train(**changed)


def test_demonstrations_that_do_not_fit_beside_ppo_are_counted(taught_lm):
    texts = ["green", "red " * 60, "blue"]
    shown = [Demonstration(PROMPTS[0], text, Origin("test")) for text in texts]
    shown.append(Demonstration(prompt("red " * 80), "red", Origin("test")))
    rows, counts = rehearsed(taught_lm, shown, ppo_params(ptx_coef=0.1, max_prompt=32, max_response=16))
    assert len(rows) == 3 and counts == {"ptx_dropped_too_long": 1, "ptx_cut": 1}
    assert rehearsed(taught_lm, shown, ppo_params(ptx_coef=0.0)) == ([], {})


def test_the_passes_over_a_batch_end_once_the_policy_has_moved_too_far(train):
    changed = {"updates": 1, "epochs": 4, "minibatches": 1, "learning_rate": 1e-2}
    with Steps() as all_of_them:
        train(**changed)
    with Steps() as fewer:
        metrics = train(max_step_kl=1e-4, **changed)[2][0]
    assert (len(all_of_them.rates), len(fewer.rates)) == (2 * 4, 2 * 2), "the second pass sees that the first moved it"
    assert metrics["approx_kl"] > 1e-4 / 2


def test_rewards_are_whitened_before_they_become_targets(train, random_lm):
    """The critic learns what the policy learns from; the figures stay those of the rewards."""
    plain, white = (train(reference=random_lm.model, updates=1, whiten_rewards=whiten)[2][0]
                    for whiten in (False, True))
    assert plain["reward"] == white["reward"] and plain["kl"] == white["kl"]
    assert plain["value_loss"] != pytest.approx(white["value_loss"], rel=0.05)
