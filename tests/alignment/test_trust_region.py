"""TRPO's step: the linear system, products with the Fisher matrix, and a step that stays inside."""

from copy import deepcopy

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from plumbline.alignment.online.advantages import Targets
from plumbline.alignment.online.experience import Experience
from plumbline.alignment.online.trust_region import _Fisher, conjugate_gradient, natural_step
from plumbline.alignment.sequences import join
from plumbline.lm.chat import encode_prompt, stop_token
from plumbline.lm.sampling import sample
from testing.online import online_params, policy_of
from testing.tiny_models import PROMPTS as ASKED
from testing.tiny_models import copy_of

PARAMS = online_params("trpo", trust_region=0.01, damping=0.1, micro_batch_size=2, temperature=0.8)
PROMPTS = [[5, 6, 7], [40, 41], [100], [9, 8, 7, 6]]
RESPONSES = [[3, 4], [90, 91, 92, 2], [2], [50, 51, 52]]


def policy_and_sequences(taught_lm):
    policy = policy_of(copy_of(taught_lm).model, taught_lm.model, PARAMS)
    return policy, join(PROMPTS, RESPONSES, torch.device("cpu"))


def experience_of(policy, sequences):
    with torch.no_grad():
        old = policy.log_probs(sequences)
    return Experience(sequences, old, old, old, None, torch.zeros(len(old)), torch.ones(len(old)))


def test_the_linear_system_is_solved():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    matrix, right = root @ root.T + torch.eye(6, dtype=torch.float64), torch.arange(6, dtype=torch.float64)
    found = conjugate_gradient(lambda vector: matrix @ vector, right, 6)
    assert torch.allclose(found, torch.linalg.solve(matrix, right), atol=1e-6)


def test_products_are_those_of_the_hessian_of_the_kl(taught_lm):
    """By differentiating twice, in float64, one response at a time."""
    policy, sequences = policy_and_sequences(taught_lm)
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(sum(weight.numel() for weight in policy.parameters()), generator=generator)
    found = _Fisher(policy, sequences, torch.arange(4), PARAMS).product(vector)

    model = deepcopy(taught_lm.model).double()
    weights, kl, tokens = list(model.parameters()), 0.0, sum(map(len, RESPONSES))
    with sdpa_kernel(SDPBackend.MATH):  # the others cannot be differentiated twice
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1:-1]
            new = (logits / 0.8).log_softmax(-1)
            old = new.detach()
            kl = kl + (old.exp() * (old - new)).sum() / tokens
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(kl, weights, create_graph=True)])
        exact = torch.autograd.grad(gradient @ vector.double(), weights)
    exact = torch.cat([g.flatten() for g in exact]) + 0.1 * vector.double()
    assert float((found - exact).norm() / exact.norm()) < 0.01


def test_a_step_improves_the_objective_and_stays_inside(taught_lm):
    """Of answers that the policy sampled: only then the estimate of the KL is one."""
    policy, _ = policy_and_sequences(taught_lm)
    asked = [encode_prompt(taught_lm.tokenizer, prompt) for prompt in ASKED for _ in range(8)]
    answers = sample(policy.model, asked, max_response=6, stop=stop_token(taught_lm.tokenizer), temperature=0.8,
                     generator=torch.Generator().manual_seed(0))
    sequences = join(asked, [answer.ids for answer in answers], torch.device("cpu"))
    experience = experience_of(policy, sequences)
    advantages = torch.randn(len(asked), 1, generator=torch.Generator().manual_seed(0)) * sequences.mask_BR
    old = policy.distributions(sequences).detach()
    found = natural_step(policy, experience, Targets(advantages, None), PARAMS)
    new = policy.distributions(sequences).detach()
    mask, tokens = sequences.mask_BR, sequences.mask_BR.sum()
    ratio = (policy.log_probs(sequences).detach() - experience.old_BR).exp()
    assert found["accepted"] == 1
    gain = float(((ratio - 1) * advantages * mask).sum() / tokens)
    assert gain > 0 and -found["policy_loss"] == pytest.approx(gain, abs=1e-5)
    kl = float(((old.exp() * (old - new)).sum(-1) * mask).sum() / tokens)
    assert 0.002 < kl < 0.02, "near the border of 0.01"


def test_without_advantages_nothing_moves(taught_lm):
    policy, sequences = policy_and_sequences(taught_lm)
    before = deepcopy(policy.model.state_dict())
    found = natural_step(policy, experience_of(policy, sequences), Targets(torch.zeros(4, 4), None), PARAMS)
    assert found["accepted"] == 0
    assert all(torch.equal(weight, before[name]) for name, weight in policy.model.state_dict().items())
