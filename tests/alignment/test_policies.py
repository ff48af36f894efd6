"""Which weights learn: each kind starts as SFT to the last bit, moves only what is its own, and ends as a whole."""

from copy import deepcopy

import pytest
import torch

from plumbline.alignment.online import policies
from plumbline.alignment.online.critics import make_critic
from plumbline.alignment.online.experience import Sampler, copy_in_bf16, gather, in_bf16
from plumbline.alignment.online.policies import below, make_policy
from plumbline.alignment.reward import RewardModel, value_model
from plumbline.alignment.sequences import join
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.sampling import Response
from testing.online import policy_of, response_log_probs, train_policy
from testing.tiny_models import PROMPTS, copy_of, ppo_params, silent, small_causal, small_gpt2

CPU = torch.device("cpu")
PROMPT_IDS = [[5, 6, 7, 8, 9, 10, 11], [40, 41], [100]]
RESPONSES = [Response([3, 4], False), Response([90, 91, 92, 93, 2], True), Response([2], True)]
SEQUENCES = join(PROMPT_IDS, [response.ids for response in RESPONSES], CPU)
KINDS = ("all", "top", "lora")


@pytest.fixture
def reward(taught_folder, tmp_path):
    reward = RewardModel.from_policy(taught_folder, 64, seed=0)
    reward.save(tmp_path / "reward")
    return RewardModel.load(tmp_path / "reward")


def moved(policy):
    """After a step of some size with every weight that learns."""
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    return policy


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("trainable", KINDS)
def test_before_the_first_step_the_kl_is_exactly_zero(taught_lm, reward, trainable, precision):
    params = ppo_params(trainable=trainable, precision=precision)
    policy = policy_of(copy_of(taught_lm).model, copy_of(taught_lm).model, params)
    critic, asked = make_critic("ppo", policy, reward, lambda: deepcopy(reward.model), params)
    found = gather(PROMPT_IDS, RESPONSES, policy, critic, asked, missing_stop_deviations=1.0, micro_batch_size=2)
    assert (found.kl_BR == 0).all()
    assert (gather(PROMPT_IDS, RESPONSES, moved(policy), critic, asked, missing_stop_deviations=1.0,
                   micro_batch_size=2).kl_BR != 0).any()


@pytest.mark.parametrize("trainable", KINDS)
def test_the_reference_stays_sft_to_the_last_bit_however_far_the_policy_moves(taught_lm, trainable):
    policy = moved(policy_of(copy_of(taught_lm).model, copy_of(taught_lm).model, ppo_params(trainable=trainable)))
    with torch.no_grad():
        sft = response_log_probs(taught_lm.model, SEQUENCES, 1.0, "fp32")
    assert torch.equal(policy.reference_log_probs(policy.prepared(SEQUENCES)), sft)


@pytest.mark.parametrize("trainable", KINDS)
def test_log_probs_are_those_of_the_whole_model_that_samples(taught_lm, trainable):
    policy = moved(policy_of(copy_of(taught_lm).model, copy_of(taught_lm).model, ppo_params(trainable=trainable)))
    whole = response_log_probs(Sampler(policy).renewed(), SEQUENCES, 1.0, "fp32")
    tolerance = {"all": 0, "top": 0, "lora": 1e-4}[trainable]  # merged adapters round once more
    assert torch.allclose(policy.log_probs(policy.prepared(SEQUENCES)), whole, rtol=0, atol=tolerance)


def test_the_top_layers_get_the_gradients_that_they_have_in_the_whole_model(taught_lm):
    policy = policy_of(copy_of(taught_lm).model, taught_lm.model, ppo_params(trainable="top"))
    policy.log_probs(policy.prepared(SEQUENCES)).sum().backward()
    whole = copy_of(taught_lm).model
    response_log_probs(whole, SEQUENCES, 1.0, "fp32").sum().backward()
    theirs = dict(whole.named_parameters())
    names = {name for name, weight in policy.model.named_parameters() if weight.grad is not None}
    assert names == {name for name in theirs if "layers.1." in name or "lm_head" in name or name == "model.norm.weight"}
    for name, weight in policy.learnt().items():
        assert torch.allclose(weight.grad, theirs[name].grad, atol=1e-5)


def test_an_output_layer_that_is_the_embeddings_belongs_to_the_trunk(tokenizer):
    model = small_causal("llama", tokenizer, tie_word_embeddings=True)
    learnt = policy_of(model, deepcopy(model), ppo_params(trainable="top")).learnt()
    assert "model.embed_tokens.weight" not in learnt and "model.norm.weight" in learnt


@pytest.mark.parametrize("trainable", KINDS)
def test_only_what_learns_changes_and_the_end_is_an_ordinary_model(taught_lm, reward, tmp_path, trainable):
    lm = copy_of(taught_lm)
    params = ppo_params(trainable=trainable, learning_rate=1e-2, updates=3)
    train_policy(lm, copy_of(taught_lm).model, deepcopy(reward.model), reward, PROMPTS, params, 0, silent,
                 tmp_path / "run")
    before, after = taught_lm.model.state_dict(), lm.model.state_dict()
    assert before.keys() == after.keys(), "adapters are merged"
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    if trainable == "top":
        assert changed and not any("layers.0." in name or "embed" in name for name in changed)
    elif trainable == "lora":
        assert changed and all("_proj" in name for name in changed)
    lm.save(tmp_path / "kept")
    loaded = LanguageModel.load(tmp_path / "kept").model.state_dict()
    assert all(torch.equal(loaded[name], after[name]) for name in after)


@pytest.mark.parametrize("trainable", KINDS)
def test_back_to_the_start_is_sft(taught_lm, trainable):
    policy = policy_of(copy_of(taught_lm).model, copy_of(taught_lm).model, ppo_params(trainable=trainable))
    moved(policy).load(policy.start)
    with torch.no_grad():
        assert torch.equal(policy.log_probs(policy.prepared(SEQUENCES)),
                           response_log_probs(taught_lm.model, SEQUENCES, 1.0, "fp32"))


@pytest.mark.parametrize("trainable", ["top", "lora"])
def test_a_shared_critic_starts_as_the_reward_model_and_leaves_it_alone(taught_lm, reward, tmp_path, trainable):
    params = ppo_params(trainable=trainable, critic="shared")
    policy = policy_of(copy_of(taught_lm).model, copy_of(taught_lm).model, params)
    before = reward.score_sampled(PROMPT_IDS, RESPONSES, 1.0)
    critic, asked = make_critic("ppo", policy, reward, lambda: value_model(tmp_path / "reward"), params)
    separate, _ = make_critic("ppo", policy, reward, lambda: value_model(tmp_path / "reward"), ppo_params())
    with torch.no_grad():
        assert torch.equal(critic.values(policy.prepared(SEQUENCES)), separate.values(SEQUENCES))
        moved(critic)
        assert not torch.equal(critic.values(policy.prepared(SEQUENCES)), separate.values(SEQUENCES))
    assert asked.score_sampled(PROMPT_IDS, RESPONSES, 1.0) == before


@pytest.mark.parametrize("trainable", KINDS)
def test_a_separate_critic_starts_as_the_reward_model_beside_any_policy(taught_lm, reward, tmp_path, trainable):
    """Also where the sequences carry what the policy's trunk makes of them, which a whole model must not read."""
    params = ppo_params(trainable=trainable, critic="separate")
    policy = policy_of(copy_of(taught_lm).model, copy_of(taught_lm).model, params)
    critic, asked = make_critic("ppo", policy, reward, lambda: value_model(tmp_path / "reward"), params)
    stopped = [Response(response.ids, True) for response in RESPONSES]
    experience = gather(PROMPT_IDS, stopped, policy, critic, asked, missing_stop_deviations=1.0, micro_batch_size=4)
    # The value before the last token is the reward of an answer that lacks it.
    shorter = [prompt + response.ids[:-1] for prompt, response in zip(PROMPT_IDS, stopped, strict=True)]
    values = [float(row[len(response.ids) - 1]) for row, response in zip(experience.values_BR, stopped, strict=True)]
    assert values == pytest.approx(asked.score_ids(shorter), abs=1e-5)


def test_the_trunk_reads_a_micro_batch_at_a_time_and_each_answer_as_if_alone(taught_lm, reward, monkeypatch):
    params, sizes = ppo_params(trainable="top"), []
    policy = policy_of(copy_of(taught_lm).model, copy_of(taught_lm).model, params)
    monkeypatch.setattr(policies, "below", lambda trunk, part, precision: sizes.append(len(part.ids_BT)) or below(
        trunk, part, precision))
    found = gather(PROMPT_IDS, RESPONSES, policy, None, reward, missing_stop_deviations=1.0, micro_batch_size=2)
    assert sizes == [2, 1]
    for row in range(len(PROMPT_IDS)):
        alone = found.sequences.rows(torch.tensor([row]))
        torch.testing.assert_close(alone.trunk_BTD, below(policy.trunk, alone, "fp32"))


def test_a_critic_cannot_share_a_trunk_that_the_reward_model_does_not_have(taught_lm, reward):
    other = deepcopy(reward.model)
    with torch.no_grad():
        other.base_model.layers[0].self_attn.q_proj.weight += 0.1
    params = ppo_params(trainable="top", critic="shared")
    policy = policy_of(copy_of(taught_lm).model, copy_of(taught_lm).model, params)
    with pytest.raises(UserError, match=r"layers\.0\.self_attn\.q_proj.*reward_model\.top_layers: 1"):
        make_critic("ppo", policy, reward, lambda: other, params)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "olmo2", "phi3", "gpt_neox", "gemma3_text", "smollm3"])
def test_architectures_that_can_be_split(tokenizer, kind):
    model = small_causal(kind, tokenizer)
    policy = policy_of(model, deepcopy(model), ppo_params(trainable="top"))
    with torch.no_grad():
        assert torch.equal(policy.log_probs(policy.prepared(SEQUENCES)),
                           response_log_probs(model, SEQUENCES, 1.0, "fp32"))


def test_what_cannot_be_split_is_refused(tokenizer, taught_lm):
    with pytest.raises(UserError, match="gpt2 cannot be split"):
        make_policy(small_gpt2(tokenizer), lambda: small_gpt2(tokenizer), ppo_params(trainable="top"), 0)
    with pytest.raises(UserError, match="leaves no layer frozen: the model has 2"):
        policy_of(copy_of(taught_lm).model, taught_lm.model, ppo_params(trainable="top", top_layers=2))


def test_rounded_to_bf16_the_model_is_what_it_is_when_loaded_in_bf16(taught_lm, taught_folder):
    """With its frequencies of rotary positions: rounded, they would put a late token somewhere else."""
    ids = torch.arange(100)[None]
    with torch.no_grad():
        found = copy_in_bf16(taught_lm.model)(ids).logits
        assert torch.equal(found, in_bf16(copy_of(taught_lm).model)(ids).logits)
        assert torch.equal(found, LanguageModel.load(taught_folder, "bf16").model(ids).logits)
        assert not torch.equal(found, copy_of(taught_lm).model.to(torch.bfloat16)(ids).logits)
