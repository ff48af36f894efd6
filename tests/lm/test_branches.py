"""Several answers in one row with their prompt: each is what it is alone, and so is its gradient."""

from copy import deepcopy

import pytest
import torch

from plumbline.lm import branches
from plumbline.lm.branches import answer_states, shares_prompts
from testing.tiny_models import small_causal, small_config, small_gpt2

ELEMENTS = [([5, 6, 7, 8, 9, 10, 11, 12], [[40, 41, 42], [43], [44, 45, 46, 47, 48]]), ([100, 101], [[7, 8], [9]]),
            ([50, 51, 52], [[60, 61]])]


def alone(model, prompt, answer):
    """States before and at each token of the answer: float64, no padding."""
    hidden = deepcopy(model.base_model).double()(torch.tensor([prompt + answer])).last_hidden_state[0]
    return hidden[len(prompt) - 1:]


@pytest.mark.parametrize("states", [branches.branched, branches.apart])
@pytest.mark.parametrize("make", [lambda tokenizer: small_causal("llama", tokenizer), small_gpt2])
def test_each_answer_is_what_it_is_alone(tokenizer, make, states):
    model = make(tokenizer)
    found = states(model.base_model, ELEMENTS)
    each = [(prompt, answer) for prompt, answers in ELEMENTS for answer in answers]
    assert found.mask_NR.sum(1).tolist() == [len(answer) for _, answer in each]
    for n, (prompt, answer) in enumerate(each):
        expected = alone(model, prompt, answer).float()
        assert torch.allclose(found.before_NRD[n, :len(answer)], expected[:-1], atol=1e-4)
        assert torch.allclose(found.last_ND[n], expected[-1], atol=1e-4)
        assert found.ids_NR[n, :len(answer)].tolist() == answer


def test_gradients_are_those_of_the_answers_apart(tokenizer):
    model = small_causal("llama", tokenizer)
    gradients = []
    for states in (branches.branched, branches.apart):
        model.zero_grad()
        found = states(model.base_model, ELEMENTS)
        (found.last_ND.sin().sum() + (found.before_NRD.cos() * found.mask_NR[..., None]).sum()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.base_model.parameters()]))
    assert torch.allclose(gradients[0], gradients[1], atol=1e-3)


def test_the_prompt_is_read_once_where_that_spares_enough(tokenizer):
    model, shapes = small_causal("llama", tokenizer), []
    model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True)
    answer_states(model, ELEMENTS)
    answer_states(model, [([1], [[2] * 9, [3] * 9])])
    assert shapes == [(3, 17), (2, 10)]


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text"])
@pytest.mark.parametrize(("longest", "rows"), [(12, 1), (13, 3), (30, 3)])
def test_beyond_a_sliding_window_each_answer_has_a_row_of_its_own(tokenizer, kind, longest, rows):
    model, shapes = small_causal(kind, tokenizer, sliding_window=12), []
    watching = model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True)
    prompt, answers = list(range(9, 5 + longest)), [[40, 41, 42, 43], [44], [45, 46, 47]]
    found = answer_states(model, [(prompt, answers)])
    watching.remove()
    assert [shape[0] for shape in shapes] == [rows], "up to the window the prompt is read once"
    for n, answer in enumerate(answers):
        expected = alone(model, prompt, answer).float()
        assert torch.allclose(found.before_NRD[n, :len(answer)], expected[:-1], atol=1e-3)
        assert torch.allclose(found.last_ND[n], expected[-1], atol=1e-3)


@pytest.mark.parametrize(("kind", "more", "shares"), [
    ("llama", {}, True), ("qwen3", {}, True), ("gpt2", {}, True),
    ("lfm2", {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}, False),
    ("qwen3_5_text", {"layer_types": ["linear_attention", "full_attention"]}, False)])
def test_architectures_are_tried(tokenizer, kind, more, shares):
    assert shares_prompts(small_config(kind, tokenizer, **more)) == shares


def test_a_mask_that_is_not_kept_is_noticed(tokenizer, monkeypatch):
    monkeypatch.setattr(branches, "_visible", lambda segment_BT: torch.ones(
        (len(segment_BT), 1, segment_BT.shape[1], segment_BT.shape[1]), dtype=torch.bool).tril())
    assert not shares_prompts(small_config("llama", tokenizer))
