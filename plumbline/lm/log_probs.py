"""Log-probabilities of chosen tokens from hidden states, a chunk of tokens at a time.

With a vocabulary of 50,000 the logits are larger than the rest of a forward pass, and a softmax with its
gradient makes several copies of them. Here there is one, as probabilities, of KEPT at most; the rest is
computed again for the gradient.
"""

from typing import Any

import torch
from torch import nn

CHUNK = 2**23
"""Logits of a chunk."""
KEPT = 2**26
"""Probabilities that are kept for the gradient: 256 MB in fp32."""


def chosen_log_probs(
    hidden_ND: torch.Tensor, head: nn.Module, ids_N: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return the log-probability [N], in nats and at least fp32, of each id under the output layer `head`.

    The temperature belongs here as much as in sampling: without it the ratio compares two different policies
    (Huang et al. 2023, "The N implementation details of RLHF with PPO", policy detail 1).
    """
    if type(head) is nn.Linear:
        found: torch.Tensor = _Chosen.apply(  # type: ignore[no-untyped-call]  # torch has no types here
            hidden_ND, head.weight, head.bias, ids_N, temperature)
        return found
    logits_NV = _precise(head(hidden_ND)) / temperature
    return logits_NV.log_softmax(-1).gather(-1, ids_N[:, None])[:, 0]


class _Chosen(torch.autograd.Function):
    """The same for a linear output layer."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: torch.Tensor, weight_VD: torch.Tensor,  # noqa: ANN401
        bias_V: torch.Tensor | None, ids_N: torch.Tensor, temperature: float,
    ) -> torch.Tensor:
        size = max(1, CHUNK // len(weight_VD))
        keep = bool(ctx.needs_input_grad[0] or ctx.needs_input_grad[1])
        log_probs, kept, room = [], [], KEPT
        for hidden, ids in zip(hidden_ND.split(size), ids_N.split(size), strict=True):
            raw = nn.functional.linear(hidden, weight_VD, bias_V)
            logits = _precise(raw) / temperature
            normaliser = logits.logsumexp(-1, keepdim=True)
            log_probs.append((logits.gather(-1, ids[:, None]) - normaliser)[:, 0])
            room -= logits.numel()
            kept.append(logits.sub_(normaliser).exp_() if keep and room >= 0 else None)
            ctx.matrix_dtype = raw.dtype
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, ids_N)
        ctx.kept, ctx.temperature, ctx.size = kept, temperature, size
        return torch.cat(log_probs) if log_probs else hidden_ND.new_zeros(0)

    @staticmethod
    def backward(ctx: Any, gradient_N: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        hidden_ND, weight_VD, bias_V, ids_N = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        for_hidden = torch.empty_like(hidden_ND) if wants_hidden else None
        for_weight = torch.zeros_like(weight_VD) if wants_weight else None
        for_bias = torch.zeros_like(bias_V) if wants_bias and bias_V is not None else None
        weight = weight_VD.to(ctx.matrix_dtype)
        for place, start in enumerate(range(0, len(ids_N), ctx.size)):
            part = slice(start, start + ctx.size)
            hidden, scaled = hidden_ND[part].to(ctx.matrix_dtype), gradient_N[part, None] / ctx.temperature
            slope = ctx.kept[place]
            if slope is None:
                bias = None if bias_V is None else bias_V.to(ctx.matrix_dtype)
                logits = _precise(nn.functional.linear(hidden, weight, bias)) / ctx.temperature
                slope = logits.softmax(-1)
            # d log p(id) / d logits = one at the id, less the probabilities.
            slope.mul_(-scaled).scatter_add_(1, ids_N[part, None], scaled.to(slope.dtype))
            slope = slope.to(ctx.matrix_dtype)
            if for_hidden is not None:
                for_hidden[part] = slope @ weight
            if for_weight is not None:
                for_weight += slope.T @ hidden
            if for_bias is not None:
                for_bias += slope.sum(0)
        ctx.kept = None
        return for_hidden, for_weight, for_bias, None, None


def _precise(logits: torch.Tensor) -> torch.Tensor:
    """Return logits in fp32, or as they are where they are more precise."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
