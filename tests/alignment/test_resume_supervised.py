"""Resume of pretraining, SFT and reward model: killed at any step, each ends as if nothing had been."""

import random

import pytest
import torch

from plumbline.alignment.reward import RewardModel
from plumbline.alignment.reward_training import train_reward_model
from plumbline.alignment.sft import train_sft
from plumbline.config import BaseParams
from plumbline.errors import UserError
from plumbline.lm.pretrain import pretrain
from plumbline.preferences.types import Comparison, Origin
from testing.tiny_models import PROMPTS, WORDS, copy_of, demonstrations, reward_params, sft_params

EVERY = 3
BASE = BaseParams(version="1", source="pretrain", hidden_size=32, layers=2, heads=2, vocabulary=300, context=32,
                  tokens=1408, batch_size=4, learning_rate=1e-2, checkpoint_every=EVERY)
SFT = sft_params(epochs=3.3, batch_size=3, micro_batch_size=2, checkpoint_every=EVERY)
REWARD = reward_params(epochs=2.75, batch_size=5, micro_batch_size=2, checkpoint_every=EVERY)
PRETRAINED = REWARD.model_copy(update={"pretrain_on": ["forum"], "pretrain_epochs": 5, "epochs": 2})
STEPS = 11
"""Of each; the epochs end between checkpoints, and the last one ends early."""


class Killed(BaseException):
    """Not an Exception: nothing may catch it and tidy up."""


def texts():
    rng = random.Random(0)
    while True:
        yield f"the {rng.choice(['cat', 'dog', 'cow'])} sat on the {rng.choice(['mat', 'bed'])}."


def comparisons(count=20):
    rng = random.Random(0)
    return [Comparison(rng.choice(PROMPTS), (f"red {rng.choice(WORDS)}", rng.choice(WORDS)), "A",
                       Origin("people" if i % 4 else "forum")) for i in range(count)]


@pytest.fixture
def trainings(random_lm, taught_folder):
    """Each makes everything anew, as a process does, and returns metrics and model; `changed` changes its data."""

    def base(params, seed, report, folder, changed):
        documents = texts()
        if changed:
            next(documents)
        lm, metrics = pretrain(params, seed, documents, report, folder)
        return metrics, lm.model

    def sft(params, seed, report, folder, changed):
        lm = copy_of(random_lm)
        taught = demonstrations(40, seed=5 if changed else 1)
        return train_sft(lm, taught, demonstrations(6, seed=2), params, seed, report, folder), lm.model

    def reward_model(params, seed, report, folder, changed):
        reward = RewardModel.from_policy(taught_folder, 64, seed)
        taught = comparisons()[1 if changed else 0 :]
        return train_reward_model(reward, taught, comparisons(8), params, seed, report, folder), reward.model

    return {"base": (base, BASE), "sft": (sft, SFT), "reward_model": (reward_model, REWARD),
            "pretrained reward model": (reward_model, PRETRAINED)}


@pytest.fixture(params=["base", "sft", "reward_model", "pretrained reward model"])
def train(request, trainings, tmp_path):
    """One process's part of a training: metrics and weights, both None if it is killed, and its reports."""
    program, settings = trainings[request.param]

    def run(name, killed_after=None, seed=0, changed=False, **values):
        reports = []

        def report(step, total, metrics=None, what=""):
            reports.append((step, total, metrics))
            if step == killed_after:
                raise Killed

        try:
            metrics, model = program(settings.model_copy(update=values), seed, report, tmp_path / name, changed)
        except Killed:
            torch.rand(17)  # the next process starts with whatever random state
            return None, None, reports
        return metrics, model.state_dict(), reports

    return run


def test_killed_at_any_steps_it_ends_as_the_undisturbed_one_does(train):
    metrics, weights, reports = train("whole")
    assert sorted({step for step, *_ in reports} - {0}) == list(range(1, STEPS + 1))

    def after(done, upto=STEPS + 1):
        """What is reported after the steps that are done; what is measured before the first step, only then."""
        found = [one for one in reports if one[0] > done or not done]
        return found[: [step for step, *_ in found].index(upto) + 1] if upto <= STEPS else found

    for killed_after in [*([step] for step in range(1, STEPS + 1)), [4, 7, 8, 10]]:
        name, done = f"killed after {killed_after}", 0
        for step in killed_after:
            assert train(name, step)[2] == after(done, step), "from the last checkpoint on, as it was"
            done = (step - 1) // EVERY * EVERY  # the kill comes before the checkpoint of its own step
        resumed_metrics, resumed_weights, resumed = train(name)
        assert (resumed_metrics, resumed) == (metrics, after(done))
        assert all(torch.equal(resumed_weights[key], weight) for key, weight in weights.items())


def test_a_training_that_is_shorter_than_a_checkpoint_writes_none(train, tmp_path):
    train("short", checkpoint_every=STEPS)
    assert not list((tmp_path / "short").glob("*.pt*"))


@pytest.mark.parametrize(("changed", "words"), [
    ({"learning_rate": 1e-4}, r"learning_rate was 0\.0\d+ and is 0\.0001.*Set back"),
    ({"seed": 1}, "seed was 0 and is 1"),
    ({"changed": True}, "digest of the data was")])
def test_a_checkpoint_of_another_training_is_refused_and_left(train, tmp_path, changed, words):
    train("run", killed_after=5)
    with pytest.raises(UserError, match=words):
        train("run", **changed)
    assert len(list((tmp_path / "run").glob("*.pt"))) == 1
