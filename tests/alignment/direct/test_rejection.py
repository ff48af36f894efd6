"""Rejection sampling: the best finished answer by the reward model is learnt from, and what it likes becomes more
frequent."""

import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from plumbline.alignment.direct.rejection import best_answers, train_rejection
from plumbline.alignment.online.rewards import make_rewards
from plumbline.alignment.reward import RewardModel
from plumbline.alignment.reward_training import train_reward_model
from plumbline.config.methods import RejectionParams
from plumbline.errors import UserError
from plumbline.lm.chat import decode_response, encode_prompt, stop_token
from plumbline.lm.engines.http import VllmServer
from plumbline.lm.engines.own import OwnEngine
from plumbline.lm.engines.vllm import VllmEngine
from plumbline.lm.engines.weights import write_untied
from plumbline.lm.sampling import sample_all
from testing.online import own_engine
from testing.tiny_models import (
    NOWHERE,
    PROMPTS,
    copy_of,
    demonstrations,
    prefers_red,
    prompt,
    reward_params,
    sft_params,
    share_saying,
    silent,
)
from testing.vllm_server import FakeVllm


def params(**changed):
    return RejectionParams(**sft_params().model_dump() | {
        "samples": 8, "prompts": 40, "temperature": 1.0, "max_response": 8, "engine": "own", "rewards": {"reward": 1.0},
        "combine": "sum", "length_penalty": 0.0, "length_free": 0, "repetition_penalty": 0.0} | changed)


def likes_long(lm):
    """Rewards an answer by its tokens, whatever they are."""
    longest = max(len(encode_prompt(lm.tokenizer, one)) for one in PROMPTS)
    return SimpleNamespace(score_sampled=lambda prompts, responses, missing_stop_deviations: [
        len(prompt + response.ids) / longest for prompt, response in zip(prompts, responses, strict=True)])


def test_the_best_of_the_finished_answers_becomes_the_demonstration(taught_lm):
    chosen = params(max_response=3)
    found, figures = best_answers(taught_lm, likes_long(taught_lm), own_engine(taught_lm), PROMPTS, chosen,
                                  torch.Generator().manual_seed(3), silent)
    encoded = [ids for one in PROMPTS for ids in [encode_prompt(taught_lm.tokenizer, one)] * 8]
    answers = sample_all(taught_lm.model, encoded, max_response=3, stop=stop_token(taught_lm.tokenizer),
                         temperature=1.0, generator=torch.Generator().manual_seed(3), batch_size=40)
    assert not all(answer.stopped for answer in answers), "a longer one that was cut would have been the best"
    expected = {}
    for i, one in enumerate(PROMPTS):
        finished = [answer.ids for answer in answers[8 * i : 8 * i + 8] if answer.stopped]
        if finished:
            expected[one] = decode_response(taught_lm.tokenizer, max(finished, key=len))
    assert {shown.prompt: shown.response for shown in found} == expected
    assert all(shown.origin.machine for shown in found)
    assert figures["best_reward"] > figures["sampled_reward"]


def test_a_server_is_handed_the_weights_once_for_all_prompts(taught_lm, tmp_path):
    write_untied(taught_lm.model, tmp_path / "served")
    chosen, asked, own = params(max_response=3), PROMPTS * 8, own_engine(taught_lm)
    assert len(asked) * chosen.samples > own.part
    with FakeVllm(tmp_path / "served") as fake:
        vllm = VllmEngine(VllmServer(fake.url, silent), tmp_path / "weights", own.stop, "fp32",
                          encode_prompt(taught_lm.tokenizer, PROMPTS[0]))
        found, figures = best_answers(taught_lm, likes_long(taught_lm), vllm, asked, chosen,
                                      torch.Generator().manual_seed(3), silent)
    assert len(fake.loads) == 1 and len(found) <= len(asked)
    assert figures["best_reward"] > figures["sampled_reward"]


def test_what_cannot_be_answered_is_counted_and_an_empty_lesson_refused_before_the_reward_is_made(taught_lm, tmp_path):
    def never():
        raise AssertionError("a reward may be measured on answers to these prompts, of which there are none")

    long = prompt("red " * 60)
    engine = own_engine(taught_lm)
    metrics = train_rejection(copy_of(taught_lm), lambda: likes_long(taught_lm), engine, [*PROMPTS, long], [],
                              params(prompts=3), 0, silent, tmp_path / "some")
    assert (metrics["prompts"], metrics["prompts_too_long"]) == (3, 1)
    assert metrics["examples"] == 3 - metrics["without_finished_answer"]
    with pytest.raises(UserError, match=r"of 1 prompts 0 leave room for an answer of max_response = 8 tokens within "
                                        r"max_length = 64, .*\. Raise max_length or max_response\."):
        train_rejection(copy_of(taught_lm), never, engine, [long], [], params(), 0, silent, tmp_path / "none")


def cutting(engine, ids):
    """An engine that asks about one prompt at a time, and ends no answer to that one."""
    def sample(model, prompts, *drawn, **how):
        return [replace(answer, stopped=answer.stopped and asked != ids)
                for asked, answer in zip(prompts, engine.sample(model, prompts, *drawn, **how), strict=True)]

    return SimpleNamespace(part=1, sample=sample)


@pytest.mark.parametrize("penalty", ["length_penalty", "repetition_penalty"])
def test_answers_of_which_none_ends_have_no_penalties_either(taught_lm, taught_folder, tmp_path, penalty):
    def train(engine, folder, **changed):
        chosen = params(**{penalty: 0.5}, **changed)
        reward = make_rewards(RewardModel.from_policy(taught_folder, 64, seed=0), taught_lm, PROMPTS, chosen, tmp_path,
                              "fp32", [])
        return train_rejection(copy_of(taught_lm), lambda: reward, engine, PROMPTS, [], chosen, 0, silent,
                               tmp_path / folder)

    with pytest.raises(UserError, match="none of the 5 that were answered has an answer that ended by itself"):
        train(own_engine(taught_lm), "none", max_response=1, temperature=0.01)
    metrics = train(cutting(own_engine(taught_lm), encode_prompt(taught_lm.tokenizer, PROMPTS[0])), "some")
    assert (metrics["prompts"], metrics["examples"], metrics["without_finished_answer"]) == (5, 4, 1)


class NeverTheSame(OwnEngine):
    """As a server that does not answer the same to the bit: each time it draws by other random numbers."""

    times = 0

    def sample(self, model, prompts, uniform_BR, temperature, batch_size=None):
        NeverTheSame.times += 1
        others_BR = torch.rand(uniform_BR.shape, generator=torch.Generator().manual_seed(NeverTheSame.times))
        return super().sample(model, prompts, others_BR, temperature, batch_size)


class Killed(BaseException):
    """Not an Exception: nothing may catch it and tidy up."""


def test_a_killed_training_goes_on_with_the_answers_that_it_had(taught_lm, tmp_path):
    def part(folder, killed_after=None, **changed):
        lm, reports = copy_of(taught_lm), []

        def report(step, total, metrics=None, what=""):
            if not what:
                reports.append((step, metrics))
            if step == killed_after and not what:
                raise Killed

        chosen = params(checkpoint_every=2, **changed)
        try:
            metrics = train_rejection(lm, lambda: likes_long(lm), NeverTheSame(own_engine(lm).stop), PROMPTS * 4, [],
                                      chosen, 0, report, tmp_path / folder)
        except Killed:
            metrics = torch.rand(17)  # the next process starts with whatever random state
        return metrics, reports, lm.model.state_dict()

    metrics, reports, weights = part("whole")
    asked = NeverTheSame.times
    assert len(reports) > 3
    NeverTheSame.times = 0
    for killed_after in (1, 3):
        part("killed", killed_after)
    resumed_metrics, resumed, resumed_weights = part("killed")
    assert NeverTheSame.times == asked, "the first of the three processes has asked, and no other"
    assert (resumed_metrics, resumed) == (metrics, reports[2:])
    assert all(torch.equal(resumed_weights[name], weight) for name, weight in weights.items())
    with pytest.raises(UserError, match=r"of another training: rejection\.samples was 8 and is 4"):
        part("killed", samples=4)


def test_what_the_reward_model_likes_becomes_more_frequent(taught_lm, taught_folder, tmp_path):
    reward = RewardModel.from_policy(taught_folder, 64, seed=0)
    train_reward_model(reward, prefers_red(), [], reward_params(epochs=2), 0, silent, NOWHERE)
    lm = copy_of(taught_lm)
    # There are five prompts only, so each is asked again and again.
    metrics = train_rejection(lm, lambda: reward, own_engine(lm), PROMPTS * 8, demonstrations(16, seed=9), params(),
                              0, silent, tmp_path)
    assert metrics["best_reward"] > metrics["sampled_reward"]
    assert share_saying("red", lm) > share_saying("red", taught_lm) + 0.2


def test_the_reward_model_is_let_go_before_the_fine_tuning(taught_lm, taught_folder, tmp_path):
    made, alive = [], {}

    def make_reward():
        reward = RewardModel.from_policy(taught_folder, 64, seed=0)
        made.append(weakref.ref(reward.model))
        return reward

    def report(step, total, metrics=None, what=""):
        alive.setdefault(what, made[0]() is not None)

    lm = copy_of(taught_lm)
    train_rejection(lm, make_reward, own_engine(lm), PROMPTS, [], params(), 0, report, tmp_path)
    assert len(made) == 1 and alive == {"sampling": True, "": False}
