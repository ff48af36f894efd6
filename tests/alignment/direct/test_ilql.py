"""ILQL: the losses by hand, and a policy whose output layer has taken the values in."""

from copy import deepcopy

import pytest
import torch

from plumbline.alignment.direct.decided import decided
from plumbline.alignment.direct.ilql import Ilql, rewards
from plumbline.alignment.tokenized import encode
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, encode_response
from plumbline.preferences.types import Comparison, Origin, Ranking
from testing.tiny_models import NOWHERE, PROMPTS, copy_of, direct_params, small_causal, small_gpt2, small_model

ROWS = [Ranking(PROMPTS[1], ("red", "blue", "green red", "black"), (2, 1, 3, 2), Origin("test")),
        Comparison(PROMPTS[2], ("red blue", "green"), "B", Origin("test")),
        Comparison(PROMPTS[3], ("black", "blue"), "tie", Origin("test"))]
REWARDS = [[0.0, 1.0, -1.0, 0.0], [-1.0, 1.0]]
"""Of each answer the mean over its pairs; the ranking has a tie of two, which each win against one and lose to one."""
PARAMS = direct_params("ilql", expectile=0.8, gamma=0.9, conservatism=0.3, likelihood_weight=0.7, steering=2.5)


def elements_of(lm):
    return decided(encode(lm.tokenizer, ROWS, 64, NOWHERE).elements, None, PARAMS, torch.Generator())


def spread(objective):
    """Values far from 0, and target heads and Q that are different."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in (*objective.module.q, *objective.module.target, *objective.module.value.parameters()):
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return objective


def loss_by_hand(objective, lm):
    """An answer and a token at a time, in float64; and the number of tokens."""
    module = deepcopy(objective.module).double()
    (q1, q2), (t1, t2) = module.q, module.target
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for row, row_rewards in zip(ROWS, REWARDS, strict=False):
        for response, reward in zip(row.responses, row_rewards, strict=True):
            prompt, answer = encode_prompt(lm.tokenizer, row.prompt), encode_response(lm.tokenizer, response)
            hidden = module.policy.base_model(torch.tensor([prompt + answer])).last_hidden_state[0]
            states = hidden[len(prompt) - 1 : -1]
            values = [module.value(state)[0] for state in states]
            for t, token in enumerate(answer):
                last = t == len(answer) - 1
                target = reward if last else 0.9 * values[t + 1].detach()
                bellman = sum((q[token] @ states[t] - target) ** 2 for q in (q1, q2))
                ahead = min(float(q[token] @ states[t].detach()) for q in (t1, t2)) - values[t]
                expectile = (0.8 if ahead > 0 else 0.2) * ahead ** 2
                conservatism = sum(-(q @ states[t]).log_softmax(0)[token] for q in (q1, q2))
                logits = module.policy.get_output_embeddings()(states[t])
                total = total + bellman + expectile + 0.3 * conservatism - 0.7 * logits.log_softmax(0)[token]
                tokens += 1
    learning = [weight for weight in module.parameters() if weight.requires_grad]
    gradient = torch.autograd.grad(total / tokens, learning, materialize_grads=True)
    return float(total.detach()) / tokens, torch.cat([one.flatten() for one in gradient])


@pytest.mark.parametrize("micro_batch_size", [8, 1])
def test_loss_and_gradient_are_those_of_the_paper_a_token_at_a_time(taught_lm, micro_batch_size):
    lm = copy_of(taught_lm)
    params = PARAMS.model_copy(update={"micro_batch_size": micro_batch_size})
    objective = spread(Ilql(lm.model, params, seed=0))
    expected, gradient = loss_by_hand(objective, lm)
    found = objective.accumulate(elements_of(lm))
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    ours = torch.cat([weight.grad.flatten() for weight in objective.module.parameters() if weight.requires_grad])
    torch.testing.assert_close(ours.double(), gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def test_the_last_token_has_the_reward_of_the_judgement(taught_lm):
    assert [rewards(one) for one in elements_of(taught_lm)] == REWARDS


def test_target_heads_follow_by_their_rate_and_do_not_learn(taught_lm):
    objective = spread(Ilql(copy_of(taught_lm).model, PARAMS, seed=0))
    before = [weight.clone() for weight in objective.module.target]
    objective.accumulate(elements_of(taught_lm))
    assert all(weight.grad is None for weight in objective.module.target)
    objective.stepped()
    for was, now, q in zip(before, objective.module.target, objective.module.q, strict=True):
        assert torch.allclose(now, 0.9 * was + 0.1 * q, atol=1e-6)


def test_the_two_heads_are_different_from_the_start(taught_lm):
    first, second = Ilql(copy_of(taught_lm).model, PARAMS, seed=0).module.q
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("make", [
    lambda tokenizer: small_model(tokenizer, tie_word_embeddings=True), small_model, small_gpt2,
    lambda tokenizer: small_causal("phi", tokenizer)], ids=["tied", "untied", "gpt2", "with a bias"])
def test_the_folded_model_has_the_steered_distribution_and_is_saved_and_loaded_as_any(tokenizer, tmp_path, make):
    lm = LanguageModel(make(tokenizer), tokenizer)
    objective = spread(Ilql(lm.model, PARAMS, seed=0))
    ids = torch.randint(len(tokenizer), (2, 9), generator=torch.Generator().manual_seed(1))
    embedding = lm.model.get_input_embeddings().weight.detach().clone()
    with torch.no_grad():
        logits, hidden = lm.model(ids).logits, lm.model.base_model(ids).last_hidden_state
        advantages = sum(hidden @ weight.T for weight in objective.module.target) / 2 - objective.module.value(hidden)
        steered = (logits.softmax(-1) * (2.5 * advantages).exp())
        steered /= steered.sum(-1, keepdim=True)
        objective.finish()
        torch.testing.assert_close(lm.model(ids).logits.softmax(-1), steered, rtol=1e-3, atol=1e-5)
        assert not torch.allclose(steered, logits.softmax(-1), atol=0.05)

        lm.save(tmp_path / "model")
        again = LanguageModel.load(tmp_path / "model")
        torch.testing.assert_close(again.model(ids).logits, lm.model(ids).logits)
    assert torch.equal(again.model.get_input_embeddings().weight, embedding), "only the output layer is another"


def test_a_model_that_does_more_to_its_logits_is_refused(tokenizer):
    model = small_causal("gemma2", tokenizer, final_logit_softcapping=0.5)
    with pytest.raises(UserError, match="model of type gemma2 the logits are not what that layer gives"):
        Ilql(model, PARAMS, seed=0)
