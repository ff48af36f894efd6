"""Log-probabilities and scores of sampled responses against float64 passes over each response alone."""

from copy import deepcopy

import pytest
import torch

from plumbline.alignment.online.critics import make_critic
from plumbline.alignment.online.experience import gather, kl_estimates
from plumbline.alignment.online.losses import clipped_surrogate
from plumbline.alignment.reward import RewardModel, value_model
from plumbline.alignment.sequences import join
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, encode_response, stop_token
from plumbline.lm.sampling import Response, sample
from testing.online import policy_of, response_log_probs
from testing.tiny_models import PROMPTS, copy_of, ppo_params, small_gpt2, small_model

CPU = torch.device("cpu")
PROMPT_IDS = [[5, 6, 7, 8, 9, 10, 11], [40, 41], [100]]
RESPONSES = [Response([3, 4], False), Response([90, 91, 92, 93, 2], True), Response([2], True)]
RESPONSE_IDS = [response.ids for response in RESPONSES]


def alone(model, prompt, response, temperature=1.0):
    """Log-probability of each response token: float64, no padding."""
    with torch.no_grad():
        logits = deepcopy(model).double()(torch.tensor([prompt + response])).logits[0] / temperature
    log_probs = logits.log_softmax(-1)
    return [float(log_probs[len(prompt) + t - 1, token]) for t, token in enumerate(response)]


@pytest.fixture
def reward(taught_folder, tmp_path):
    reward = RewardModel.from_policy(taught_folder, 64, seed=0)
    reward.model.config.reward_std = 2.0
    reward.save(tmp_path / "reward")
    return reward


@pytest.fixture
def rolled(taught_lm, random_lm, reward, tmp_path):
    def run(precision="fp32", micro_batch_size=2, responses=RESPONSES, temperature=0.7):
        params = ppo_params(temperature=temperature, precision=precision)
        policy = policy_of(taught_lm.model, random_lm.model, params)
        critic, _ = make_critic("ppo", policy, reward, lambda: value_model(tmp_path / "reward"), params)
        return gather(PROMPT_IDS, responses, policy, critic, reward, missing_stop_deviations=3.5,
                      micro_batch_size=micro_batch_size)

    return run


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_log_probs_beside_padding_are_those_of_each_response_alone(random_lm, temperature):
    with torch.no_grad():
        found = response_log_probs(random_lm.model, join(PROMPT_IDS, RESPONSE_IDS, CPU), temperature, "fp32")
    for i, (prompt, response) in enumerate(zip(PROMPT_IDS, RESPONSES, strict=True)):
        assert found[i, :len(response.ids)].tolist() == pytest.approx(
            alone(random_lm.model, prompt, response.ids, temperature), abs=1e-4)
        assert (found[i, len(response.ids):] == 0).all()


@pytest.mark.parametrize("pads", [0, 1, 9])
@pytest.mark.parametrize("make", [small_model, small_gpt2])
def test_left_pads_do_not_change_log_probs(tokenizer, make, pads):
    """A longer neighbour pads the prompt by so many tokens."""
    model = make(tokenizer)
    with torch.no_grad():
        found = response_log_probs(model, join([PROMPT_IDS[0], [7] * (7 + pads)], [RESPONSE_IDS[1]] * 2, CPU),
                                   1.0, "fp32")
    assert found[0].tolist() == pytest.approx(alone(model, PROMPT_IDS[0], RESPONSES[1].ids), abs=1e-4)


def test_the_kl_is_policy_minus_reference_token_by_token_and_zero_at_padding(rolled, taught_lm, random_lm):
    rollout = rolled()
    for i, (prompt, response) in enumerate(zip(PROMPT_IDS, RESPONSES, strict=True)):
        ours, theirs = (alone(lm.model, prompt, response.ids, 0.7) for lm in (taught_lm, random_lm))
        n = len(response.ids)
        expected = [a - b for a, b in zip(ours, theirs, strict=True)]
        assert rollout.kl_BR[i, :n].tolist() == pytest.approx(expected, abs=1e-3)
        assert (rollout.kl_BR[i, n:] == 0).all() and (rollout.values_BR[i, n:] == 0).all()


def test_the_kl_estimate_of_a_response_is_the_sum_over_its_tokens(taught_lm, random_lm):
    policy = policy_of(taught_lm.model, random_lm.model, ppo_params(temperature=0.7))
    found = kl_estimates(policy, PROMPT_IDS, RESPONSES, batch_size=2)
    expected = [sum(alone(taught_lm.model, p, r.ids, 0.7)) - sum(alone(random_lm.model, p, r.ids, 0.7))
                for p, r in zip(PROMPT_IDS, RESPONSES, strict=True)]
    assert found == pytest.approx(expected, abs=1e-3)


def test_each_response_is_scored_up_to_its_stop_token_and_a_cut_one_lies_below_the_mean(rolled, reward):
    scores = [reward.score_ids([prompt + response.ids])[0]
              for prompt, response in zip(PROMPT_IDS, RESPONSES, strict=True)]
    rollout = rolled()
    assert rollout.score_B.tolist() == pytest.approx([-7.0, *scores[1:]], abs=1e-4)
    assert rollout.stopped_B.tolist() == [False, True, True]


def test_an_empty_response_is_its_stop_token_and_is_scored_there(rolled, reward):
    rollout = rolled(responses=[Response([2], True)] * 3)
    assert rollout.sequences.mask_BR.tolist() == [[1]] * 3
    assert rollout.score_B.tolist() == pytest.approx([reward.score_ids([[*p, 2]])[0] for p in PROMPT_IDS], abs=1e-4)


@pytest.mark.parametrize("micro_batch_size", [1, 3, 100])
def test_the_split_into_micro_batches_changes_nothing(rolled, micro_batch_size):
    one, other = rolled(), rolled(micro_batch_size=micro_batch_size)
    for name in ("old_BR", "kl_BR", "values_BR", "score_B"):
        assert torch.allclose(getattr(one, name), getattr(other, name), atol=1e-4)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 1e-6)])
def test_before_the_first_step_every_ratio_is_one(rolled, taught_lm, precision, tolerance):
    """In bf16 too, since the old log-probabilities come from the pass that training uses and not from sampling."""
    rollout = rolled(precision, micro_batch_size=3)
    new = response_log_probs(taught_lm.model, rollout.sequences, 0.7, precision)
    assert new.requires_grad
    assert (new - rollout.old_BR).exp().sub(1).abs().max() < tolerance
    found = clipped_surrogate(new, rollout.old_BR, torch.ones_like(new), rollout.sequences.mask_BR, 0.2)
    assert float(found.clipped) == 0


def test_dropout_in_the_config_is_never_applied(tokenizer, tmp_path):
    LanguageModel(small_model(tokenizer, attention_dropout=0.5), tokenizer).save(tmp_path)
    model = LanguageModel.load(tmp_path).model
    assert model.config.attention_dropout == 0.5
    sequences = join(PROMPT_IDS, RESPONSE_IDS, CPU)
    once, again = (response_log_probs(model, sequences, 1.0, "fp32") for _ in range(2))
    assert torch.equal(once, again)
    model.train()
    assert not torch.equal(response_log_probs(model, sequences, 1.0, "fp32"), once), "this model would drop out"


def test_sampled_tokens_are_as_probable_as_sampling_made_them(taught_lm):
    """The mean of -log p over samples is the entropy of the distribution they came from: the first token, exactly."""
    prompt = encode_prompt(taught_lm.tokenizer, PROMPTS[0])
    responses = sample(taught_lm.model, [prompt] * 2000, max_response=1, stop=stop_token(taught_lm.tokenizer),
                       temperature=1.5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sequences = join([prompt] * 2000, [one.ids for one in responses], CPU)
        found = response_log_probs(taught_lm.model, sequences, 1.5, "fp32")
        log_probs = (taught_lm.model(torch.tensor([prompt])).logits[0, -1].double() / 1.5).log_softmax(-1)
    entropy = float(-(log_probs.exp() * log_probs).sum())
    assert -float(found.mean()) == pytest.approx(entropy, abs=0.1)
    assert stop_token(taught_lm.tokenizer) == encode_response(taught_lm.tokenizer, "red")[-1]


def test_a_kl_that_is_no_number_is_not_reported(taught_lm, random_lm):
    broken = copy_of(random_lm)
    with torch.no_grad():
        broken.model.lm_head.weight[7] = float("nan")
    prompt = encode_prompt(random_lm.tokenizer, PROMPTS[0])
    with pytest.raises(UserError, match="on 2 of 2 responses"):
        kl_estimates(policy_of(taught_lm.model, broken.model), [prompt] * 2, [Response([40, 41], True)] * 2)
