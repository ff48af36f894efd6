"""What every training loop shares: the optimizer, the learning-rate schedule, the precision of a forward pass."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch.nn import Parameter


class Report(Protocol):
    """Called as training goes on: `step` of `total` is done, and these are its metrics."""

    def __call__(self, step: int, total: int, metrics: dict[str, float] | None = None, what: str = "") -> None:
        """Tell how far it is."""


def adamw(parameters: Iterable[Parameter], learning_rate: float, weight_decay: float = 0.0) -> torch.optim.AdamW:
    """AdamW with eps 1e-5, as PPO implementations use it (Huang et al. 2022, "37 implementation details of PPO", 3)."""
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.95), eps=1e-5, weight_decay=weight_decay)


def linear_schedule(step: int, total: int, warmup: float) -> float:
    """Factor on the learning rate: up from 0 over the share `warmup` of the steps, then down to 0, linearly."""
    rising = warmup * total
    if step < rising:
        return (step + 1) / (rising + 1)
    return max(0.0, (total - step) / max(1.0, total - rising))


def autocast(precision: str) -> AbstractContextManager[None]:
    """The context of a forward pass: matrix products in bf16 where asked for, weights and everything else in fp32."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
