"""A natural-gradient step within a trust region (Schulman et al. 2015, arXiv 1502.05477, appendix C).

The step direction x solves F x = g, where g is the gradient of the surrogate objective, the mean of
ratio * advantage, and F the Fisher matrix, the Hessian of KL(old, new) at the old policy. Products with F
come from two gradients of the KL, a little way to either side along the vector: between them it is 0. The
step goes to the border of the region, by the quadratic model of the KL, and is halved until the KL itself is
inside and the objective has risen.
"""

import math
from collections.abc import Callable, Iterator

import torch

from plumbline.alignment.online.advantages import Targets
from plumbline.alignment.online.experience import Experience
from plumbline.alignment.online.policies import Policy
from plumbline.alignment.sequences import Sequences
from plumbline.config.methods import TrpoParams

FISHER_RESPONSES = 16
"""Products with F are of about so many responses: it only shapes the step, whose KL is then measured on all.
"""
PROBE = 1e-3
"""Length of the way along a vector to either side, as a share of the weights' own length."""
HALVINGS = 10


def natural_step(
    policy: Policy, experience: Experience, targets: Targets, params: TrpoParams
) -> dict[str, float]:
    """Move the policy by one step; return what it did, as means over the tokens.

    `accepted` is 0 if no step improved the objective within the region: the policy then stays as it was.
    """
    weights = policy.parameters()
    every = torch.arange(len(experience.score_B), device=policy.model.device)
    some = every[:: max(1, len(every) // FISHER_RESPONSES)]
    fisher = _Fisher(policy, experience.sequences, some, params)

    gradient = _objective_gradient(policy, experience, targets, params)
    direction = conjugate_gradient(fisher.product, gradient, params.conjugate_gradients)
    # Damping is for the direction alone: it is no part of the KL.
    curvature = float(direction @ (fisher.product(direction) - params.damping * direction))
    figures = {"policy_grad_norm": float(gradient.norm()), "accepted": 0.0, "approx_kl": 0.0}
    if curvature <= 0 or not math.isfinite(curvature):
        return figures
    full = direction * math.sqrt(2 * params.trust_region / curvature)

    start = _flat(weights)
    for halving in range(HALVINGS):
        _put(weights, start + full * 0.5**halving)
        gain, kl = _measure(policy, experience, targets, params)
        if gain > 0 and kl <= params.trust_region:
            return figures | {"accepted": 1.0, "approx_kl": kl, "policy_loss": -gain}
    _put(weights, start)
    return figures


def conjugate_gradient(
    product: Callable[[torch.Tensor], torch.Tensor], right: torch.Tensor, steps: int
) -> torch.Tensor:
    """Return x with product(x) = right, nearly, after so many steps (Hestenes & Stiefel 1952)."""
    x = torch.zeros_like(right)
    residual, direction = right.clone(), right.clone()
    square = residual @ residual
    for _ in range(steps):
        if square < 1e-10 * (right @ right):
            break
        curved = product(direction)
        length = square / (direction @ curved)
        x += length * direction
        residual -= length * curved
        next_square = residual @ residual
        direction = residual + next_square / square * direction
        square = next_square
    return x


class _Fisher:
    """Products with the Fisher matrix of some responses, at the policy as it is when this is made."""

    def __init__(self, policy: Policy, sequences: Sequences, rows: torch.Tensor, params: TrpoParams) -> None:
        self.policy, self.sequences, self.rows, self.params = policy, sequences, rows, params
        self.start = _flat(policy.parameters())
        with torch.no_grad():
            self.old = [policy.distributions(part) for _, part in _parts(sequences, rows, params)]

    def product(self, vector: torch.Tensor) -> torch.Tensor:
        """Return (F + damping) @ vector."""
        weights = self.policy.parameters()
        reach = PROBE * float(self.start.norm() / vector.norm())
        _put(weights, self.start + reach * vector)
        ahead = self._kl_gradient()
        _put(weights, self.start - reach * vector)
        behind = self._kl_gradient()
        _put(weights, self.start)
        return (ahead - behind) / (2 * reach) + self.params.damping * vector

    def _kl_gradient(self) -> torch.Tensor:
        """Return the gradient of the mean KL(old, new), in nats a token."""
        weights = self.policy.parameters()
        tokens = self.sequences.mask_BR[self.rows].sum()
        found = torch.zeros_like(self.start)
        for old_BRV, (_, part) in zip(self.old, _parts(self.sequences, self.rows, self.params), strict=True):
            new_BRV = self.policy.distributions(part)
            kl_BR = (old_BRV.exp() * (old_BRV - new_BRV)).nan_to_num(0.0).sum(-1)
            loss = (kl_BR * part.mask_BR).sum() / tokens
            found += _joined(torch.autograd.grad(loss, weights, materialize_grads=True))
        return found


def _objective_gradient(
    policy: Policy, experience: Experience, targets: Targets, params: TrpoParams
) -> torch.Tensor:
    """Return the gradient of the mean over the tokens of ratio * advantage."""
    weights, mask_BR = policy.parameters(), experience.sequences.mask_BR
    found = torch.zeros_like(_flat(weights))
    for rows, part in _parts(experience.sequences, torch.arange(len(mask_BR), device=mask_BR.device), params):
        width = part.mask_BR.shape[1]
        ratio_BR = (policy.log_probs(part) - experience.old_BR[rows, :width]).exp()
        total = (ratio_BR * targets.advantages_BR[rows, :width] * part.mask_BR).sum()
        found += _joined(torch.autograd.grad(total / mask_BR.sum(), weights, materialize_grads=True))
    return found


@torch.no_grad()
def _measure(
    policy: Policy, experience: Experience, targets: Targets, params: TrpoParams
) -> tuple[float, float]:
    """Return the gain of the objective and the KL(old, new), both means over the tokens.

    The KL is estimated from the sampled tokens: ratio - 1 - log ratio has it as its mean (k3, see kl.py).
    """
    mask_BR = experience.sequences.mask_BR
    gain, kl = 0.0, 0.0
    for rows, part in _parts(experience.sequences, torch.arange(len(mask_BR), device=mask_BR.device), params):
        width = part.mask_BR.shape[1]
        log_ratio_BR = policy.log_probs(part) - experience.old_BR[rows, :width]
        advantages_BR = targets.advantages_BR[rows, :width]
        # At the old policy the objective is the sum of the advantages.
        gain += float((log_ratio_BR.expm1() * advantages_BR * part.mask_BR).sum())
        kl += float(((log_ratio_BR.expm1() - log_ratio_BR) * part.mask_BR).sum())
    tokens = float(mask_BR.sum())
    return gain / tokens, kl / tokens


def _parts(
    sequences: Sequences, rows: torch.Tensor, params: TrpoParams
) -> Iterator[tuple[torch.Tensor, Sequences]]:
    """Yield micro-batches: their rows, and their sequences."""
    for part in sequences.micro_batches(rows, params.micro_batch_size):
        yield part, sequences.rows(part)


def _flat(weights: list[torch.nn.Parameter]) -> torch.Tensor:
    return _joined([weight.detach() for weight in weights])


def _joined(tensors: "list[torch.Tensor] | tuple[torch.Tensor, ...]") -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


@torch.no_grad()
def _put(weights: list[torch.nn.Parameter], flat: torch.Tensor) -> None:
    sizes = [weight.numel() for weight in weights]
    for weight, values in zip(weights, flat.split(sizes), strict=True):
        weight.copy_(values.view_as(weight))
