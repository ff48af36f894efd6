"""Shared by all training loops: optimizer, learning-rate schedule, precision of a forward pass, and the
checks that stop a training which diverged, and keep nothing of it."""

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch.nn import Module, Parameter

from plumbline.errors import UserError


class ReportStep(Protocol):
    """A callback for the progress of a training."""

    def __call__(
        self, step: int, total: int, metrics: dict[str, float] | None = None, what: str = ""
    ) -> None:
        """Report that `step` of `total` is done, in the part called `what`, with these metrics."""


def adamw(
    parameters: Iterable[Parameter], learning_rate: float, weight_decay: float = 0.0
) -> torch.optim.AdamW:
    """Return AdamW with the eps 1e-8 of Kingma & Ba 2015 (arXiv 1412.6980).

    The 1e-5 of PPO's Atari settings (Huang et al. 2022, "37 implementation details", 3) is no small number
    here: a gradient clipped to norm 1 has components of about 1e-4 in a model of 100 million weights, and
    less in most, so that eps would shorten their steps and tie them to `max_grad_norm`. A fused step reads
    and writes each weight once, which is five times as fast on a CPU.
    """
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.95), eps=1e-8,
                             weight_decay=weight_decay, fused=True)


def linear_schedule(step: int, total: int, warmup: float) -> float:
    """Return the factor on the learning rate: linearly up over the share `warmup`, then down to 0."""
    rising = warmup * total
    if step < rising:
        return (step + 1) / (rising + 1)
    return max(0.0, (total - step) / max(1.0, total - rising))


def device() -> torch.device:
    """Return the accelerator if there is one that this process may use, otherwise the CPU.

    A CUDA build of torch names its accelerator also where none is there or CUDA_VISIBLE_DEVICES hides it.
    """
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def autocast(precision: str) -> AbstractContextManager[None]:
    """Return the context of a forward pass: matrix products in bf16 if asked for, the rest in fp32."""
    return torch.autocast(device().type, torch.bfloat16, enabled=precision == "bf16")


def require_finite(
    measured: Mapping[str, float], block: str, when: str, rate: str = "learning_rate"
) -> None:
    """Raise UserError if a loss, gradient norm or other figure of training is infinite or not a number.

    `block` is the block of parameters that has the learning rate, called `rate`; `when` is the place, such as
    `step 3 of 90`.
    """
    for name, value in measured.items():
        if not math.isfinite(value):
            raise UserError(f"At {when}, the {name} is {value:g} where a finite number was expected: the "
                            f"training diverged, and nothing of it is kept. Lower {block}.{rate}, set "
                            "precision: fp32 if it is bf16, and look for strange rows in the data's report.")


def require_finite_weights(model: Module) -> None:
    """Raise UserError if a weight of the model is infinite or not a number."""
    broken = [name for name, weight in model.named_parameters() if not bool(weight.isfinite().all())]
    if broken:
        raise UserError(f"The model has weights that are infinite or not a number, the first in {broken[0]}, "
                        "so it is not kept. If it was just trained, its training diverged: lower the "
                        "learning rate, or set precision: fp32 if it is bf16. If it was loaded, its files "
                        "are damaged: fetch it again.")
