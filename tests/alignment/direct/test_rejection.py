"""Rejection sampling: the best finished answer by the reward model is learnt from, and what it likes becomes more
frequent."""

import weakref
from types import SimpleNamespace

import pytest
import torch

from plumbline.alignment.direct.rejection import best_answers, train_rejection
from plumbline.alignment.reward import RewardModel
from plumbline.alignment.reward_training import train_reward_model
from plumbline.config.methods import RejectionParams
from plumbline.errors import UserError
from plumbline.lm.chat import decode_response, encode_prompt, stop_token
from plumbline.lm.engines.http import VllmServer
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


def test_what_cannot_be_answered_is_counted_and_an_empty_lesson_refused(taught_lm):
    long = prompt("red " * 60)
    engine = own_engine(taught_lm)
    metrics = train_rejection(copy_of(taught_lm), lambda: likes_long(taught_lm), engine, [*PROMPTS, long], [],
                              params(prompts=3), 0, silent, NOWHERE)
    assert (metrics["prompts"], metrics["prompts_too_long"]) == (3, 1)
    assert metrics["examples"] == 3 - metrics["without_finished_answer"]
    with pytest.raises(UserError, match=r"of 1 prompts 0 leave room for an answer of max_response = 8 tokens"):
        train_rejection(copy_of(taught_lm), lambda: likes_long(taught_lm), engine, [long], [], params(), 0, silent,
                        NOWHERE)


def test_what_the_reward_model_likes_becomes_more_frequent(taught_lm, taught_folder):
    reward = RewardModel.from_policy(taught_folder, 64, seed=0)
    train_reward_model(reward, prefers_red(), [], reward_params(epochs=2), 0, silent, NOWHERE)
    lm = copy_of(taught_lm)
    # There are five prompts only, so each is asked again and again.
    metrics = train_rejection(lm, lambda: reward, own_engine(lm), PROMPTS * 8, demonstrations(16, seed=9), params(),
                              0, silent, NOWHERE)
    assert metrics["best_reward"] > metrics["sampled_reward"]
    assert share_saying("red", lm) > share_saying("red", taught_lm) + 0.2


def test_the_reward_model_is_let_go_before_the_fine_tuning(taught_lm, taught_folder):
    made, alive = [], {}

    def make_reward():
        reward = RewardModel.from_policy(taught_folder, 64, seed=0)
        made.append(weakref.ref(reward.model))
        return reward

    def report(step, total, metrics=None, what=""):
        alive.setdefault(what, made[0]() is not None)

    lm = copy_of(taught_lm)
    train_rejection(lm, make_reward, own_engine(lm), PROMPTS, [], params(), 0, report, NOWHERE)
    assert len(made) == 1 and alive == {"sampling": True, "": False}
