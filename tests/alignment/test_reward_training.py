"""Reward-model training: the Bradley-Terry loss to the last digit that matters, ties, dropped pairs, and that it
learns."""

import itertools
import math
import random
from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline.alignment import reward_training
from plumbline.alignment.reward import RewardModel
from plumbline.errors import UserError
from plumbline.preferences.types import Comparison, Origin
from testing.tiny_models import PROMPTS, Steps, reward_params, silent


@pytest.fixture
def reward(taught_folder):
    return RewardModel.from_policy(taught_folder, max_length=64, seed=0)


def prefers_red(count=160, seed=0, label=None):
    """Two colors each; the one with red in it wins, which a scalar can tell apart."""
    rng = random.Random(seed)
    found = []
    while len(found) < count:
        with_red = " ".join(rng.sample(["red", rng.choice(["green", "blue"])], 2))
        without = " ".join(rng.choices(["green", "blue", "black"], k=2))
        comparison = Comparison(rng.choice(PROMPTS), (with_red, without), label or "A", Origin("test"))
        found.append(comparison if rng.random() < 0.5 else comparison.swap())
    return found


def train(reward, comparisons, held=(), **params):
    return reward_training.train_reward_model(reward, comparisons, held, reward_params(**params), 0, silent)


@pytest.mark.parametrize("difference", [-1e4, -100.0, -89.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 89.0, 100.0, 1e4])
@pytest.mark.parametrize("wins", [1.0, 0.0, 0.5])
def test_the_loss_is_finite_and_exact_for_any_difference(difference, wins):
    d = torch.tensor([difference], requires_grad=True)
    loss = reward_training.bradley_terry(d, torch.tensor([wins]))
    loss.sum().backward()

    def minus_log_sigmoid(x):
        return max(-x, 0.0) + math.log1p(math.exp(-abs(x)))

    expected = wins * minus_log_sigmoid(difference) + (1 - wins) * minus_log_sigmoid(-difference)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6, abs=1e-7)
    slope = 1 / (1 + math.exp(-max(min(difference, 700), -700))) - wins
    assert float(d.grad) == pytest.approx(slope, rel=1e-5, abs=1e-7)


@given(difference=st.floats(-50, 50), wins=st.sampled_from([0.0, 0.5, 1.0]))
def test_swapping_the_sides_does_not_change_the_loss(difference, wins):
    one, other = (reward_training.bradley_terry(torch.tensor([d]), torch.tensor([w]))
                  for d, w in ((difference, wins), (-difference, 1 - wins)))
    assert float(one) == pytest.approx(float(other), rel=1e-5)


def test_it_learns_a_separable_preference_on_pairs_it_has_not_seen(reward):
    metrics = train(reward, prefers_red(), prefers_red(60, seed=1), epochs=2)
    assert metrics["validation_accuracy"] >= 0.95 and metrics["validation_loss"] < 0.3
    assert reward.score([(PROMPTS[0], "red blue")]) > reward.score([(PROMPTS[0], "blue green")])


def test_labels_mean_what_they_say(reward):
    """Trained on the opposite labels, it prefers the opposite."""
    flipped = [Comparison(c.prompt, c.responses[::-1], c.label, c.origin) for c in prefers_red()]
    assert train(reward, flipped, prefers_red(60, seed=1), epochs=2)["validation_accuracy"] <= 0.05


def test_the_last_step_has_hardly_any_rate_left_and_one_epoch_is_one_pass(reward):
    with Steps() as steps:
        metrics = train(reward, prefers_red(80), epochs=1, batch_size=8, warmup=0.0)
    assert len(steps.rates) == metrics["steps"] == 10
    assert steps.rates == pytest.approx([3e-3 * (10 - i) / 10 for i in range(10)])


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3])
def test_the_split_into_micro_batches_changes_neither_gradient_nor_metrics(taught_folder, micro_batch_size):
    data = [*prefers_red(6), *prefers_red(2, seed=4, label="tie")]
    found = []
    for size in (8, micro_batch_size):
        reward, reports = RewardModel.from_policy(taught_folder, 64, 0), []
        with Steps() as steps:
            reward_training.train_reward_model(reward, data, data, reward_params(micro_batch_size=size), 0,
                                               lambda step, total, metrics, what="", to=reports: to.append(metrics))
        found.append((steps.gradients[0], reports[0]))
    (whole, metrics), (split, split_metrics) = found
    assert whole.norm() > 0.01 and torch.allclose(whole, split, atol=1e-5)
    assert split_metrics == pytest.approx(metrics, rel=1e-4)


def test_the_gradient_is_that_of_the_mean_over_comparisons(taught_folder):
    data, reports, reward = prefers_red(6), [], RewardModel.from_policy(taught_folder, 64, 0)
    model = deepcopy(reward.model).double()
    reward_training.train_reward_model(reward, data, [], reward_params(micro_batch_size=2), 0,
                                       lambda step, total, metrics, what="": reports.append(metrics))

    def score(prompt, response):
        hidden = model.base_model(torch.tensor([reward.encode(prompt, response)])).last_hidden_state[0, -1]
        return hidden @ model.score.weight[0]

    margins = torch.stack([score(c.prompt, c.chosen) - score(c.prompt, c.rejected) for c in data])
    loss = (1 + (-margins).exp()).log().mean()
    gradient = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    norm = torch.cat([g.flatten() for g in gradient]).norm()
    accuracy = float((margins > 0).double().mean())
    expected = {"loss": float(loss.detach()), "accuracy": accuracy, "grad_norm": float(norm)}
    assert reports[0] == pytest.approx(expected, rel=1e-4)


def test_pairs_made_identical_by_truncation_are_dropped_and_counted(taught_folder):
    reward = RewardModel.from_policy(taught_folder, 40, 0)
    long = "red green " * 30
    cut = [Comparison(PROMPTS[0], (long + "blue", long + "black"), "A", Origin("test"))] * 3
    metrics = train(reward, [*prefers_red(8), *cut], max_length=40)
    assert (metrics["pairs"], metrics["dropped_identical"]) == (8, 3)
    with pytest.raises(UserError, match=r"reward_model\.max_length = 40"):
        train(reward, cut, max_length=40)


def test_ties_pull_the_scores_together_and_do_not_count_for_accuracy(reward):
    ties = prefers_red(80, label="tie")
    params = reward_params(epochs=2)
    pairs = reward_training.encode(reward, ties)
    found = reward_training.evaluate(reward, pairs, params)
    assert list(found) == ["loss"], "no comparison here is right or wrong"
    before = found["loss"]
    train(reward, ties, epochs=2)
    after = reward_training.evaluate(reward, pairs, params)["loss"]
    assert before > math.log(2) + 1e-3 > after >= math.log(2) - 1e-6
    mixed = [*prefers_red(20, seed=5), *ties]
    alone = reward_training.evaluate(reward, reward_training.encode(reward, mixed[:20]), params)
    both = reward_training.evaluate(reward, reward_training.encode(reward, mixed), params)
    assert both["accuracy"] == alone["accuracy"]


def test_equal_scores_are_half_right(reward):
    with torch.no_grad():
        reward.model.score.weight.zero_()
    found = reward_training.evaluate(reward, reward_training.encode(reward, prefers_red(10)), reward_params())
    assert found == pytest.approx({"loss": math.log(2), "accuracy": 0.5})


def test_loss_and_accuracy_are_over_examples_not_over_batches(reward):
    """Seven examples in batches of three: a mean over batches would weigh the last one threefold."""
    data = prefers_red(7, seed=3)
    found = reward_training.evaluate(reward, reward_training.encode(reward, data), reward_params(micro_batch_size=3))
    margins = [(1 if c.label == "A" else -1) * (a - b) for c, (a, b) in
               ((c, reward.score([(c.prompt, c.responses[0]), (c.prompt, c.responses[1])])) for c in data)]
    expected = {"loss": sum(math.log1p(math.exp(-m)) for m in margins) / 7,
                "accuracy": sum(m > 0 for m in margins) / 7}
    assert found == pytest.approx(expected, rel=1e-4)


def test_every_pair_is_used_once_before_any_is_used_again(reward, monkeypatch):
    used = []
    accumulate = reward_training.accumulate_gradient

    def note(reward, batch, params):
        used.extend(batch)
        return accumulate(reward, batch, params)

    monkeypatch.setattr(reward_training, "accumulate_gradient", note)
    data = [Comparison(PROMPTS[0], (f"red {a} {b}", "blue"), "A", Origin("test"))
            for a, b in itertools.product("abcd", "efghij")]
    assert train(reward, data, batch_size=5, epochs=2)["steps"] == 10
    assert len(used) == 48 and len({tuple(pair.first) for pair in used[:24]}) == 24
    assert sorted(pair.first for pair in used[:24]) == sorted(pair.first for pair in used[24:])


def test_a_validation_split_of_ties_has_no_accuracy_and_ends_no_training(reward):
    metrics = reward_training.train_reward_model(reward, prefers_red(16), prefers_red(4, label="tie"), reward_params(),
                                                 0, silent)
    assert "validation_accuracy" not in metrics and metrics["validation_loss"] > 0


def test_a_batch_of_ties_reports_no_accuracy(reward):
    reports = []
    reward_training.train_reward_model(reward, prefers_red(8, label="tie"), [], reward_params(), 0,
                                       lambda step, total, metrics: reports.append(metrics))
    assert reports and all(set(metrics) == {"loss", "grad_norm"} for metrics in reports)


def test_a_reward_model_that_diverges_stops_and_is_not_kept(reward, tmp_path):
    with torch.no_grad():
        reward.model.model.norm.weight[0] = float("nan")
    with pytest.raises(UserError, match=r"At step 1 of .*reward_model\.learning_rate"):
        train(reward, prefers_red(8))
    with pytest.raises(UserError, match="8 of 8 scores are infinite or not a number"):
        reward.score([(PROMPTS[0], f"red {i}") for i in range(8)])
    with pytest.raises(UserError, match="not kept"):
        reward.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()
