"""The vLLM engine against a real vLLM server: `make test-vllm`."""

from copy import deepcopy
from dataclasses import dataclass, field

import pytest
import torch

from plumbline.alignment.reward import RewardModel, value_model
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, stop_tokens
from plumbline.lm.engines.http import VllmServer
from plumbline.lm.engines.own import OwnEngine
from plumbline.lm.engines.vllm import VllmEngine, log_probs
from plumbline.lm.engines.weights import write_untied
from plumbline.lm.sampling import uniforms
from testing.online import RecordedEngine, Scripted, train_policy
from testing.real_vllm import PYTHON, STARTS_WITHIN, RealVllm
from testing.tiny_models import PROMPTS, copy_of, ppo_params, silent, small_model

pytestmark = [pytest.mark.vllm, pytest.mark.skipif(not PYTHON.exists(), reason="no .vllm: make test-vllm")]
R = 24
SIZE = {"hidden_size": 64, "initializer_range": 0.1, "tie_word_embeddings": True}
"""Heads of 32: vLLM has no smaller ones on a CPU."""
TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def lm(tokenizer):
    """The embeddings are tied, as in the embedded default."""
    return LanguageModel(small_model(tokenizer, **SIZE), tokenizer)


@pytest.fixture(scope="module")
def vllm(lm, tokenizer, tmp_path_factory):
    """Started from another model."""
    folder = tmp_path_factory.mktemp("vllm")
    write_untied(small_model(tokenizer, seed=9, **SIZE), folder)
    tokenizer.save_pretrained(folder)
    with RealVllm(folder) as server:
        yield server


@dataclass(frozen=True)
class Killing(VllmServer):
    """Kills the server, and starts it again, at one of the requests for tokens."""

    vllm: RealVllm = None
    at: int = 0
    asked: list[int] = field(default_factory=list)

    def generate(self, ids, sampling):
        self.asked.append(len(ids))
        if len(self.asked) == self.at:
            self.vllm.kill()
            self.vllm.start()
        return super().generate(ids, sampling)


@pytest.fixture
def engine(vllm, lm, tmp_path):
    def make(server=None):
        return VllmEngine(server or VllmServer(vllm.url, silent), tmp_path / "weights",
                          stop_tokens(lm.tokenizer, lm.model), "fp32",
                          encode_prompt(lm.tokenizer, PROMPTS[0]))

    return make


def test_log_probabilities_are_ours_after_each_hand_over(engine, lm, tokenizer):
    """Against float64, each response alone; and the seed of a row decides, whatever is asked beside it."""
    prompts = [encode_prompt(tokenizer, PROMPTS[i % len(PROMPTS)]) for i in range(48)]
    uniform_BR, sampler = uniforms(48, R, torch.Generator().manual_seed(0)), engine()
    for model in (lm.model, small_model(tokenizer, seed=3, **SIZE)):
        found, double = sampler.sample(model, prompts, uniform_BR, TEMPERATURE), deepcopy(model).double()
        theirs = torch.tensor([value for one in found for value in one.log_probs])
        ours = torch.cat([log_probs(double, prompt, [one], TEMPERATURE)
                          for prompt, one in zip(prompts, found, strict=True)])
        gap = (ours - theirs).abs()
        print(f"{len(gap)} tokens, |gap| at most {float(gap.max()):.2g}, mean {float(gap.mean()):.2g}")
        assert gap.max() < 1e-5
        assert sampler.sample(model, prompts[5:9], uniform_BR[5:9], TEMPERATURE) == found[5:9]


def test_greedy_responses_are_ours(engine, lm, tokenizer):
    prompts, zeros_BR = [encode_prompt(tokenizer, prompt) for prompt in PROMPTS], torch.zeros(len(PROMPTS), R)
    sampler = engine()
    own, found = (one.sample(lm.model, prompts, zeros_BR, 0.0) for one in (OwnEngine(sampler.stop), sampler))
    assert found == own


def test_a_ppo_run_is_the_same_with_the_server_killed_in_mid_update(engine, vllm, lm, tokenizer, tmp_path):
    params = ppo_params(engine="vllm", rollout_correction=2.0, updates=3, batch_size=16, learning_rate=3e-3)
    lm.save(tmp_path / "sft")
    RewardModel.from_policy(tmp_path / "sft", 64, seed=0).save(tmp_path / "reward")
    red = tokenizer(" red", add_special_tokens=False)["input_ids"][0]

    def train(name, server):
        policy, reports, recorded = copy_of(lm), [], RecordedEngine(engine(server))
        train_policy(policy, deepcopy(lm.model), value_model(tmp_path / "reward"), Scripted(red), PROMPTS, params, 0,
                     lambda step, total, metrics=None, what="": reports.append(metrics), tmp_path / name,
                     engine=recorded)
        return reports, recorded.sampled

    reports, sampled = train("whole", VllmServer(vllm.url, silent))
    assert all(0 < metrics["engine_gap"] < 1e-5 for metrics in reports)
    assert reports[1]["kl"] != 0, "later responses are of later weights, which the gap is measured with"

    told = []
    killing = Killing(vllm.url, lambda *said: told.append(said), STARTS_WITHIN, vllm, at=30)  # in the second update
    again, same = train("killed", killing)
    assert told and same == sampled
    assert again == [pytest.approx(metrics, abs=1e-4) for metrics in reports]
