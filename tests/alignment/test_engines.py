"""Online learning with a vLLM server in place of our own sampler, and what the gap between the two does."""

from copy import deepcopy
from dataclasses import replace
from math import exp

import pytest
import torch

from plumbline.alignment.online.advantages import Targets
from plumbline.alignment.online.experience import Experience, corrected
from plumbline.alignment.reward import RewardModel, value_model
from plumbline.alignment.sequences import join
from plumbline.errors import UserError
from plumbline.lm.chat import encode_prompt, stop_tokens
from plumbline.lm.engines.http import VllmServer
from plumbline.lm.engines.own import OwnEngine
from plumbline.lm.engines.vllm import VllmEngine
from plumbline.lm.engines.weights import write_untied
from testing.online import RecordedEngine, Scripted, own_engine, prepared, train_policy
from testing.tiny_models import PROMPTS, Steps, copy_of, ppo_params, silent
from testing.vllm_server import DrawsAsOurs, FakeVllm

CHANGED = {"updates": 3, "value_warmup": 1, "batch_size": 8, "learning_rate": 3e-3, "evaluate_every": 2}


@pytest.fixture
def fake(taught_lm, tmp_path):
    write_untied(taught_lm.model, tmp_path / "served")
    with FakeVllm(tmp_path / "served") as fake:
        yield fake


@pytest.fixture
def vllm(fake, taught_lm, tmp_path):
    def make(precision="fp32"):
        return VllmEngine(
            VllmServer(fake.url, silent), tmp_path / "weights", stop_tokens(taught_lm.tokenizer, taught_lm.model),
            precision, encode_prompt(taught_lm.tokenizer, PROMPTS[0]))

    return make


@pytest.fixture
def train(taught_lm, taught_folder, tokenizer, tmp_path):
    """Trains a copy of the taught model by an engine; returns its metrics, and all that was sampled."""
    reward_folder = tmp_path / "reward"
    RewardModel.from_policy(taught_folder, 64, seed=0).save(reward_folder)
    red = tokenizer(" red", add_special_tokens=False)["input_ids"][0]

    def run(sampling, report=silent, **changed):
        params = ppo_params(**{"engine": "vllm", **CHANGED, **changed})
        lm, reports, recorded = copy_of(taught_lm), [], RecordedEngine(sampling)

        def told(step, total, metrics=None, what=""):
            reports.append(metrics)
            report(step, total, metrics, what)

        reward = Scripted(red)
        torch.manual_seed(0)  # of which adapters are made
        validation = prepared(copy_of(taught_lm), reward, None, PROMPTS, params, 0)
        train_policy(lm, deepcopy(lm.model), value_model(reward_folder), reward, PROMPTS, params, 0, told,
                     tmp_path / f"run{len(list(tmp_path.iterdir()))}", validation, engine=recorded)
        return reports, recorded.sampled

    return run


@pytest.mark.parametrize("trainable", ["all", "lora"])
def test_ppo_through_a_server_that_draws_as_we_do_is_ppo(train, vllm, fake, taught_lm, trainable):
    ours, own = train(own_engine(taught_lm), engine="own", trainable=trainable)
    theirs, sampled = train(DrawsAsOurs(vllm(), fake), trainable=trainable)
    assert sampled == own, "the same tokens in every update"
    assert len(fake.loads) == 1 + 3, "warm-up and updates; validation has our own engine here"
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert all(metrics["engine_gap"] < 1e-5 and metrics["prob_error"] < 1 + 1e-5 for metrics in theirs)


def test_a_server_killed_in_mid_update_changes_nothing(train, vllm, fake):
    _, whole = train(vllm())
    fake.asked, fake.kill_at, fake.comes_back_after = 0, 30, 0.1
    reports, sampled = train(vllm())
    assert fake.killed == 1 and sampled == whole and len(reports) == 1 + 3


def test_a_gap_between_server_and_training_is_measured_and_beyond_the_limit_stops_the_run(train, vllm, fake):
    def drifts(step, total, metrics=None, what=""):
        fake.off = 0.05 * step  # but not during the warm-up, which is step 1 of its own

    reports, _ = train(vllm("bf16"), report=drifts, precision="bf16", value_warmup=0, updates=2)
    assert reports[0]["engine_gap"] < 0.03 < reports[1]["engine_gap"], "0.05 nats, and rounding"
    assert 1.03 < reports[1]["prob_error"] < 1.1

    fake.off, engine = 0.0, vllm("bf16")
    engine._verify = lambda *_: None  # what the hand-over does not notice
    with pytest.raises(UserError, match=r"At update 3 of 3, the vLLM server .* factor of 1\.1.*precision: bf16"):
        train(engine, report=drifts, precision="bf16", value_warmup=0)


def test_weights_that_stop_arriving_stop_the_run(train, vllm, fake):
    def deaf(step, total, metrics=None, what=""):
        fake.ignores_reload = step == 2

    with pytest.raises(UserError, match="still samples with those before"):
        train(vllm("bf16"), report=deaf, precision="bf16", learning_rate=1e-5, value_warmup=0)


def test_each_token_weighs_as_much_as_it_is_likelier_by_the_training_up_to_the_cap():
    old, sampled = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]]), torch.tensor([[-1.1, -1.0], [-2.5, -9.0]])
    zeros = torch.zeros(2, 2)
    experience = Experience(join([[1], [2]], [[3, 4], [5, 6]], torch.device("cpu")), sampled, old, zeros, None,
                            torch.zeros(2), torch.ones(2))
    targets = Targets(torch.tensor([[1.0, -1.0], [2.0, 0.5]]), zeros)
    found = corrected(targets, experience, 2.0)
    #           exp(0.1)   -exp(-1)   capped: 2 * 2 and 2 * 0.5
    assert found.advantages_BR.flatten().tolist() == pytest.approx([1.1051709, -0.3678794, 4.0, 1.0])
    assert found.returns_BR is zeros, "the critic learns what it did"


class Boasts(OwnEngine):
    """Says of every token that it was 0.3 nats likelier than it was."""

    def sample(self, *asked, **more):
        found = super().sample(*asked, **more)
        return [replace(one, log_probs=[value + 0.3 for value in one.log_probs]) for one in found]


def test_the_correction_weighs_the_gradient_of_the_policy_alone(train, taught_lm):
    engine, changed = own_engine(taught_lm), {"engine": "own", "value_warmup": 0, "updates": 1}
    with Steps() as plain:
        train(engine, **changed)
    with Steps() as weighed:
        train(Boasts(engine.stop), rollout_correction=2.0, **changed)
    assert torch.allclose(weighed.gradients[0], exp(-0.3) * plain.gradients[0], rtol=1e-3, atol=1e-6)
    assert torch.equal(weighed.gradients[1], plain.gradients[1])
