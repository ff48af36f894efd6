"""Log-probabilities in chunks, and their gradients, against a softmax over everything in float64."""

import pytest
import torch
from torch import nn

from plumbline.lm import log_probs
from plumbline.lm.log_probs import chosen_log_probs

IDS = torch.tensor([3, 0, 10, 3, 7, 1, 2])


def layer(bias, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Linear(5, 11, bias=bias, dtype=dtype), torch.randn(7, 5, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("chunk", "kept"), [(10**6, 10**6), (25, 10**6), (25, 60), (25, 0)],
                         ids=["whole", "chunks", "half of it kept", "nothing kept"])
def test_values_and_gradients_are_those_of_the_whole(monkeypatch, bias, chunk, kept):
    monkeypatch.setattr(log_probs, "CHUNK", chunk)
    monkeypatch.setattr(log_probs, "KEPT", kept)
    head, hidden = layer(bias)
    weights = torch.randn(7, dtype=torch.float64)
    expected = (head(hidden) / 0.7).log_softmax(-1)[range(7), IDS]
    found = chosen_log_probs(hidden, head, IDS, 0.7)
    assert torch.allclose(found, expected, atol=1e-12)
    inputs = [hidden, *head.parameters()]
    for ours, theirs in zip(torch.autograd.grad(found @ weights, inputs),
                            torch.autograd.grad(expected @ weights, inputs), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_a_frozen_output_layer_gets_no_gradient_and_the_states_do():
    head, hidden = layer(bias=False)
    head.requires_grad_(False)
    chosen_log_probs(hidden, head, IDS, 1.0).sum().backward()
    assert head.weight.grad is None and hidden.grad.abs().sum() > 0


def test_in_bf16_the_products_are_in_bf16_and_the_softmax_is_not():
    head, hidden = layer(bias=False, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = chosen_log_probs(hidden, head, IDS, 1.0)
        expected = head(hidden).float().log_softmax(-1)[range(7), IDS]
    assert found.dtype == torch.float32 and torch.allclose(found, expected, atol=1e-6)
    found.sum().backward()
    exact = torch.autograd.grad(head(hidden).log_softmax(-1)[range(7), IDS].sum(), [hidden])[0]
    assert torch.allclose(hidden.grad, exact, atol=0.03)


def test_an_output_layer_of_another_kind_works_too():
    class Doubled(nn.Module):
        def forward(self, hidden):
            return torch.cat([hidden, 2 * hidden], -1)

    hidden = torch.randn(7, 6)
    expected = (Doubled()(hidden) / 2).log_softmax(-1)[range(7), IDS]
    assert torch.allclose(chosen_log_probs(hidden, Doubled(), IDS, 2.0), expected)
