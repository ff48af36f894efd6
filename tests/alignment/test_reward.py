"""The reward model: reads the last token, ignores padding, keeps its centre, and others can load it."""

import dataclasses
import json
import math
from copy import deepcopy
from statistics import fmean, stdev

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from plumbline.alignment.online.critics import make_critic
from plumbline.alignment.reward import (
    RewardModel,
    check_same_tokens,
    last_scores,
    members_beside,
    token_scores,
    value_model,
)
from plumbline.alignment.sequences import join
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, encode_response, stop_token
from plumbline.lm.optim import autocast
from plumbline.lm.pretrain import train_tokenizer
from plumbline.lm.sampling import Response, right_pad
from testing.online import policy_of
from testing.tiny_models import PROMPTS, ppo_params, prompt

RESPONSES = ("red", "red green", "", "blue blue blue black", "green red", "black.")


@pytest.fixture
def reward(taught_folder):
    return RewardModel.from_policy(taught_folder, max_length=64, seed=0)


def conversations(reward):
    return [reward.encode(asked, response) for asked in PROMPTS[:2] for response in RESPONSES]


def scores_in_float64(reward, rows):
    """The head on the body's last hidden state, one unpadded row at a time."""
    model, found = reward.model.double(), []
    with torch.no_grad():
        for ids in rows:
            hidden = model.base_model(torch.tensor([ids])).last_hidden_state[0, -1]
            found.append(float(hidden @ model.score.weight[0]))
    model.float()
    return found


def test_scores_are_read_at_the_last_token_whatever_stands_beside_a_row(reward):
    rows = conversations(reward)
    assert len({len(row) for row in rows}) > 3
    expected = scores_in_float64(reward, rows)
    assert reward.score_ids(rows, batch_size=64) == pytest.approx(expected, abs=1e-4)
    assert reward.score_ids(rows, batch_size=1) == pytest.approx(expected, abs=1e-4)


def test_scores_come_in_the_order_asked_and_are_those_of_the_texts(reward):
    asked = [(p, response) for p in PROMPTS for response in RESPONSES]
    reports = []
    found = reward.score(asked, batch_size=7, report=lambda done, total: reports.append((done, total)))
    assert found == pytest.approx([reward.score([one])[0] for one in asked], abs=1e-4)
    assert reports[-1] == (30, 30)


def test_the_conversation_is_prompt_and_response_as_ppo_joins_them(reward):
    """Also where the joined text has other tokens than its parts (checklist 7)."""
    for text in (*RESPONSES, " red", "\n", "assistant\n"):
        tokens = encode_prompt(reward.tokenizer, PROMPTS[0]) + encode_response(reward.tokenizer, text)
        assert reward.encode(PROMPTS[0], text) == tokens


@pytest.mark.parametrize("asked", [PROMPTS[0], prompt("colors " * 50)])
def test_a_conversation_that_does_not_fit_is_a_beginning_of_itself_without_a_stop(reward, asked):
    """A token less of room is a token less at the end, whatever the prompt: no jump, and no stop that nobody said."""
    whole = encode_prompt(reward.tokenizer, asked) + encode_response(reward.tokenizer, "red green " * 5)
    for max_length in range(1, len(whole) + 2):
        reward.model.config.reward_max_length = max_length
        assert reward.encode(asked, "red green " * 5) == whole[:max_length]
    assert whole.index(stop_token(reward.tokenizer), len(encode_prompt(reward.tokenizer, asked))) == len(whole) - 1


def test_centring_puts_the_mean_at_zero_keeps_the_deviation_and_survives_saving(reward, tmp_path):
    rows = conversations(reward)
    before = reward.score_ids(rows)
    mean = sum(before) / len(before)
    std = math.sqrt(sum((score - mean) ** 2 for score in before) / (len(before) - 1))
    reward.centre(rows)
    reward.save(tmp_path)
    found = RewardModel.load(tmp_path)
    assert found.score_ids(rows) == reward.score_ids(rows)
    assert sum(found.score_ids(rows)) / len(rows) == pytest.approx(0, abs=1e-5)
    assert found.score_ids(rows) == pytest.approx([score - mean for score in before], abs=1e-5)
    assert found.std == pytest.approx(std, rel=1e-4) and found.max_length == 64


def test_centring_again_changes_nothing(reward):
    rows = conversations(reward)
    reward.centre(rows)
    offset, std = reward.model.config.reward_offset, reward.std
    reward.centre(rows)
    assert (reward.model.config.reward_offset, reward.std) == pytest.approx((offset, std), abs=1e-5)


def test_a_model_stored_before_there_were_deviations_has_one_of_one(reward, tmp_path):
    reward.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["reward_std"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert RewardModel.load(tmp_path).std == 1.0


def test_an_ensemble_scores_the_mean_of_its_members_deviations_in_the_unit_of_the_first(taught_folder, tmp_path):
    members = [RewardModel.from_policy(taught_folder, max_length=64, seed=seed) for seed in range(3)]
    rows = conversations(members[0])
    for member in members:
        member.centre(rows)
    first, *others = members
    first.lead([member.deviations(rows) for member in members])
    first.save(tmp_path)
    for number, member in enumerate(others, start=2):
        member.save(tmp_path / "members" / str(number))
    found = RewardModel.load(tmp_path)
    assert [one.score_ids(rows) for one in found.members] == [one.score_ids(rows) for one in members]
    assert not any(one.others for one in found.members)
    means = [fmean(of_row) for of_row in zip(*([score / one.std for score in one.score_ids(rows)] for one in members),
                                             strict=True)]
    assert 0 < stdev(means) < 0.99, "they differ"
    assert found.score_ids(rows) == pytest.approx([first.std * mean / stdev(means) for mean in means], abs=1e-5)
    assert (fmean(found.score_ids(rows)), stdev(found.score_ids(rows))) == pytest.approx((0.0, first.std), abs=1e-5)
    assert found.std == first.std, "critic and penalties are in the unit of the first"


def test_members_come_in_their_order_however_many_there_are(tmp_path):
    for number in (10, 2, 3):
        (tmp_path / "members" / str(number)).mkdir(parents=True)
    assert [folder.name for folder in members_beside(tmp_path)] == ["2", "3", "10"]
    assert members_beside(tmp_path / "single") == []


def test_centring_on_a_handful_of_answers_says_what_to_raise(reward):
    with pytest.raises(UserError, match=r"at least 8 of them; found 7\. Raise ppo\.max_response or reward_model\.cent"):
        reward.centre(conversations(reward)[:7])


def test_a_model_that_tells_no_answers_apart_is_refused(reward):
    with torch.no_grad():
        reward.model.score.weight.zero_()
    with pytest.raises(UserError, match="all 12 answers of the SFT policy the same reward"):
        reward.centre(conversations(reward))


def test_a_sampled_answer_that_ended_is_scored_and_one_that_was_cut_is_not_asked_about(reward, monkeypatch):
    reward.centre(conversations(reward))
    prompts = [encode_prompt(reward.tokenizer, asked) for asked in PROMPTS[:4]]
    ids = [encode_response(reward.tokenizer, text) for text in ("red", "green red", "blue", "black")]
    responses = [Response(ids[0], True), Response(ids[1][:-1], False), Response(ids[2][:-1], False),
                 Response(ids[3], True)]
    whole = reward.score([(PROMPTS[0], "red"), (PROMPTS[3], "black")])
    asked = []
    score_ids = RewardModel.score_ids
    monkeypatch.setattr(RewardModel, "score_ids", lambda self, rows: asked.extend(rows) or score_ids(self, rows))
    found = reward.score_sampled(prompts, responses, missing_stop_deviations=2.5)
    assert found == pytest.approx([whole[0], -2.5 * reward.std, -2.5 * reward.std, whole[1]], abs=1e-5)
    assert asked == [prompts[0] + ids[0], prompts[3] + ids[3]]
    assert reward.score_sampled(prompts[:1], [Response(ids[0][:-1], False)], 0.0) == [0.0]


def test_transformers_reads_the_same_score_from_the_folder(reward, tmp_path):
    rows = conversations(reward)
    reward.centre(rows)
    offset = reward.model.config.reward_offset
    reward.save(tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.num_labels == 1
    ids, mask = right_pad(rows, pad=theirs.config.pad_token_id)
    with torch.no_grad():
        logits = theirs(input_ids=ids, attention_mask=mask).logits[:, 0]
    assert [float(score) - offset for score in logits] == pytest.approx(reward.score_ids(rows), abs=1e-4)


def test_the_fresh_head_is_small_random_and_of_its_seed(taught_folder):
    heads = [RewardModel.from_policy(taught_folder, 64, seed).model.score.weight.detach() for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert heads[0].shape == (1, 32)
    many = torch.cat([RewardModel.from_policy(taught_folder, 64, i).model.score.weight.detach() for i in range(8)])
    assert float(many.std()) == pytest.approx(1 / 33**0.5, rel=0.2)


def test_scores_of_distinct_responses_stay_distinct_in_bf16(reward, tmp_path):
    """A score with the 8 bits of bf16 would tie responses of nearly the same quality, and gold and reward disagree."""
    with torch.no_grad():
        reward.model.score.weight.add_(3.0)
    rows = [reward.encode(asked, " ".join([a, b])) for asked in PROMPTS for a in ("red", "green", "blue")
            for b in ("red", "green", "blue", "black")]
    exact = reward.score_ids(rows)
    reward.save(tmp_path)
    stored = RewardModel.load(tmp_path, "bf16")
    ids, mask = right_pad(rows, pad=0)
    with torch.no_grad(), autocast("bf16"):
        tokens = token_scores(reward.model, ids, mask)
        under_autocast = last_scores(reward.model, rows)
    assert tokens.dtype == under_autocast.dtype == torch.float32
    assert stored.model.dtype == torch.bfloat16
    for scores in (stored.score_ids(rows), under_autocast.tolist()):
        assert len(set(scores)) == len(rows)
        assert torch.corrcoef(torch.tensor([scores, exact]))[0, 1] > 0.95


def test_other_tokens_are_refused_by_name_before_anything_runs(reward, taught_lm):
    check_same_tokens(taught_lm, reward)
    vocabulary = train_tokenizer(["something else entirely"] * 50, 270)
    template, stop = deepcopy(taught_lm.tokenizer), deepcopy(taught_lm.tokenizer)
    template.chat_template = template.chat_template.replace("assistant", "model")
    # Without a special token after an answer the EOS token ends it: the same ids, another end.
    plain = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
    stop.chat_template = plain
    stop.eos_token = next(token for token in stop.all_special_tokens if token != stop.decode(stop_token(template)))
    for tokenizer, named in ((vocabulary, "vocabulary"), (template, "in chat template,"), (stop, "stop token")):
        with pytest.raises(UserError, match=named):
            check_same_tokens(LanguageModel(taught_lm.model, tokenizer), reward)
    own = deepcopy(reward.tokenizer)
    own.chat_template = plain
    with pytest.raises(UserError, match="differ in stop token,"):
        check_same_tokens(LanguageModel(taught_lm.model, stop), dataclasses.replace(reward, tokenizer=own))


def test_the_value_of_a_state_is_the_reward_of_what_has_been_said_so_far(reward, tmp_path):
    """The value model starts as the reward model, centre and all: V before token t is the score of what precedes it."""
    reward.centre(conversations(reward))
    reward.model.config.reward_offset += 2.0
    reward.save(tmp_path)
    prompts = [encode_prompt(reward.tokenizer, p) for p in PROMPTS[:3]]
    responses = [Response(encode_response(reward.tokenizer, text), True) for text in ("red green blue", "", "black")]
    params = ppo_params()
    critic, _ = make_critic("ppo", policy_of(reward.model, reward.model), reward, lambda: value_model(tmp_path), params)
    with torch.no_grad():
        sequences = join(prompts, [one.ids for one in responses], torch.device("cpu"))
        values = critic.values(sequences)
    for i, (asked, response) in enumerate(zip(prompts, responses, strict=True)):
        n = len(response.ids)
        expected = reward.score_ids([asked + response.ids[:t] for t in range(n)])
        assert values[i, :n].tolist() == pytest.approx(expected, abs=1e-4)
        assert (values[i, n:] == 0).all()
