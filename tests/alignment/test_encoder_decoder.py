"""A T5 through the stages' trainings: SFT, reward model, online and direct methods learn, and the reference is SFT."""

from copy import deepcopy

import pytest
import torch
from transformers import T5ForConditionalGeneration

from plumbline.alignment.direct.training import train_direct
from plumbline.alignment.online.experience import gather
from plumbline.alignment.reward import RewardModel, value_model
from plumbline.alignment.reward_training import train_reward_model
from plumbline.alignment.sequences import join
from plumbline.alignment.sft import train_sft
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel, load_base
from plumbline.lm.chat import encode_prompt, stop_token
from plumbline.lm.sampling import sample
from testing.online import Scripted, online_params, policy_of, response_log_probs, train_policy
from testing.tiny_models import (
    DIRECT,
    NOWHERE,
    PROMPTS,
    copy_of,
    demonstrations,
    direct_params,
    ppo_params,
    prefers_red,
    reward_params,
    save_t5,
    sft_params,
    share_saying,
    silent,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A T5 that was taught to name one to three colors."""
    folder = tmp_path_factory.mktemp("t5")
    save_t5(folder / "base")
    lm = load_base("base", folder)
    found = train_sft(lm, demonstrations(), demonstrations(16, seed=2), sft_params(epochs=8), 0, silent, NOWHERE)
    assert found["validation_loss"] < 0.6 * found["validation_loss_before"] and found["packed"] is False
    lm.save(folder / "sft")
    return folder / "sft"


@pytest.fixture
def lm(folder):
    return LanguageModel.load(folder)


@pytest.fixture(scope="module")
def judged(folder, tmp_path_factory):
    """A reward model that was taught to prefer red."""
    reward = RewardModel.from_policy(folder, 64, seed=0)
    found = train_reward_model(reward, prefers_red(), prefers_red(40, seed=1), reward_params(epochs=3), 0, silent,
                               NOWHERE)
    assert found["validation_accuracy"] > 0.9
    saved = tmp_path_factory.mktemp("reward")
    reward.save(saved)
    return saved


def test_the_reward_model_comes_back_as_it_was_saved_and_pads_nothing(judged):
    reward = RewardModel.load(judged)
    asked = [(PROMPTS[0], "red"), (PROMPTS[2], "blue black"), (PROMPTS[1], "green red blue")]
    alone = [reward.score([one])[0] for one in asked]
    assert reward.score(asked) == pytest.approx(alone, abs=1e-5)
    assert alone[0] > alone[1] < alone[2]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("trainable", ["all", "lora"])
def test_before_the_first_step_the_kl_is_exactly_zero(lm, judged, trainable, precision):
    params = ppo_params(trainable=trainable, precision=precision)
    prompts = [encode_prompt(lm.tokenizer, one) for one in PROMPTS]
    responses = sample(lm.model, prompts, max_response=6, stop=stop_token(lm.tokenizer), temperature=1.0,
                       generator=torch.Generator().manual_seed(0))
    policy, reward = policy_of(lm.model, deepcopy(lm.model), params), RewardModel.load(judged)

    def measured():
        return gather(prompts, responses, policy, None, reward, missing_stop_deviations=1.0, micro_batch_size=2).kl_BR

    assert (measured() == 0).all()
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    assert (measured() != 0).any()


@pytest.mark.parametrize(("method", "changed"), [
    ("ppo", {}), ("ppo", {"trainable": "lora", "critic": "shared"}), ("rloo", {"answers_per_prompt": 2}),
    *(pytest.param(method, changed, marks=pytest.mark.evidence) for method, changed in (
        ("ppo", {"ptx_coef": 0.1}), ("a2c", {}), ("grpo", {"answers_per_prompt": 2}), ("reinforce++", {}), ("nlpo", {}),
        ("trpo", {})))])
def test_online_methods_learn_what_is_rewarded(lm, judged, tmp_path, method, changed):
    red = lm.tokenizer("red", add_special_tokens=False)["input_ids"][0]
    before, sft = share_saying("red", lm), copy_of(lm)
    params = online_params(method, **{"updates": 12, "batch_size": 32, "micro_batch_size": 32, "epochs": 2,
                                      "learning_rate": 1e-2, "value_learning_rate": 1e-2, "kl_coef": 0.02, **changed})
    reward = RewardModel.load(judged) if changed.get("critic") else Scripted(red)
    train_policy(lm, sft.model, value_model(judged), reward, PROMPTS, params, 0, silent, tmp_path, method=method,
                 demonstrations=demonstrations(8))
    assert share_saying("red", lm) > before + 0.15
    lm.save(tmp_path / "policy")
    assert share_saying("red", LanguageModel.load(tmp_path / "policy")) == share_saying("red", lm)
    asked, answer = torch.tensor([[5, 6, 1]]), torch.tensor([[0, 7, 4]])
    with torch.no_grad():
        theirs = T5ForConditionalGeneration.from_pretrained(tmp_path / "policy")(asked, decoder_input_ids=answer).logits
        torch.testing.assert_close(lm.model(torch.cat([asked, answer], 1)).logits[:, 3:], theirs)


@pytest.mark.parametrize("method", DIRECT)
def test_direct_methods_learn_what_is_preferred(lm, tmp_path, method):
    before, sft = share_saying("red", lm), copy_of(lm)
    train_direct(lm, sft.model, prefers_red(), prefers_red(16, seed=1), method, direct_params(method), 0, silent,
                 tmp_path)
    assert share_saying("red", lm) > before + 0.15


def test_a_frozen_trunk_is_refused_in_words(lm):
    with pytest.raises(UserError, match=r"causal_t5 cannot be split .* or adapters"):
        policy_of(lm.model, deepcopy(lm.model), ppo_params(trainable="top"))


def test_log_probs_of_answers_do_not_depend_on_who_is_in_the_batch(lm):
    prompts, answers = [encode_prompt(lm.tokenizer, one) for one in PROMPTS[:3]], [[4, 5, 1], [6, 1], [7, 7, 7, 7, 1]]
    together = response_log_probs(lm.model, join(prompts, answers, torch.device("cpu")), 1.0, "fp32")
    for asked, answer, log_probs_R in zip(prompts, answers, together, strict=True):
        alone = response_log_probs(lm.model, join([asked], [answer], torch.device("cpu")), 1.0, "fp32")[0]
        torch.testing.assert_close(log_probs_R[: len(answer)], alone)
