"""The optimizer's step, and the checks on what training measures."""

import pytest
import torch

from plumbline.lm.optim import adamw, device


@pytest.mark.parametrize("gradient", [1e-6, 1e-3, 1.0])
def test_the_first_step_is_the_learning_rate_whatever_the_size_of_the_gradient(gradient):
    """Adam's step is lr * m / (sqrt(v) + eps), and m = sqrt(v) at first; a model of 135 million weights, its gradient
    clipped to norm 1, has components of about 1e-4 and less."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = adamw([weight], 0.01)
    weight.grad = torch.tensor([gradient])
    optimizer.step()
    assert float(weight.detach()) == pytest.approx(-0.01, rel=0.02)


def test_an_accelerator_that_this_process_may_not_use_is_left_alone(monkeypatch):
    """torch built for CUDA names it also where CUDA_VISIBLE_DEVICES hides every GPU (seen with torch 2.11)."""
    def current(check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current)
    assert device() == torch.device("cpu")
