"""NLPO's mask: only what an older policy finds likely may be sampled (Ramamurthy et al. 2023, arXiv
2210.01241, section 4).

At each token the masking policy keeps its likeliest tokens, together as probable as `mask_top_p`; all others
are ruled out. Policy and reference are masked alike, so that the KL is 0 at first and the ratio compares the
distributions that were sampled from. Every `mask_every` updates the masking policy becomes the policy of
then. Validation, and whoever uses the policy later, sample without the mask.
"""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from plumbline.alignment.sequences import Sequences, response_logits
from plumbline.lm.cache import RoomyCache, new_cache


@dataclass(frozen=True)
class NucleusMask:
    """The masking policy."""

    model: PreTrainedModel
    top_p: float
    temperature: float
    precision: str
    micro_batch_size: int
    """Responses whose logits are held at once."""

    @torch.no_grad()
    def marked(self, sequences: Sequences) -> Sequences:
        """Return the sequences with the tokens that could be sampled at each place."""
        head, device = self.model.get_output_embeddings(), self.model.device
        # At padding all are allowed: with none there would be no distribution, and no gradient of the others.
        allowed_BRV = torch.ones(
            *sequences.response_BR.shape, head.weight.shape[0], dtype=torch.bool, device=device)
        every = torch.arange(len(allowed_BRV), device=device)
        for rows in sequences.micro_batches(every, self.micro_batch_size):
            part = replace(sequences.rows(rows), trunk_BTD=None)
            logits_BRV = response_logits(self.model.base_model, head, part, self.precision)
            kept_BRV = nucleus(logits_BRV.float() / self.temperature, self.top_p)
            allowed_BRV[rows, : kept_BRV.shape[1]] = kept_BRV
        # What was sampled was allowed, whatever the last digits of another pass say.
        allowed_BRV.scatter_(2, sequences.response_BR[..., None], True)
        return replace(sequences, allowed_BRV=allowed_BRV)

    def over(self, model: PreTrainedModel) -> "MaskedModel":
        """Return `model` with its logits masked, to sample from."""
        return MaskedModel(model, self)


def nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return which tokens [..., V] are among the likeliest that together have the probability `top_p`: the
    fewest that reach it, at least one.
    """
    probabilities, order = logits.softmax(-1).sort(dim=-1, descending=True)
    likelier = probabilities.cumsum(-1) - probabilities
    kept = torch.zeros_like(logits, dtype=torch.bool)
    return kept.scatter(-1, order, likelier < top_p)


class MaskedModel(nn.Module):
    """Two language models in one: what the second rules out, the first cannot sample."""

    def __init__(self, model: PreTrainedModel, mask: NucleusMask) -> None:
        super().__init__()
        self.model, self.mask = model, mask
        self.config: PretrainedConfig = model.config
        self.device = model.device

    def new_cache(self, longest: int) -> "PairOfCaches":
        """Return empty caches for both, with room for so many tokens."""
        return PairOfCaches(new_cache(self.model, longest), new_cache(self.mask.model, longest))

    def forward(self, *, past_key_values: "PairOfCaches", **inputs: Any) -> SimpleNamespace:  # noqa: ANN401
        """Return the masked logits, as a language model does."""
        logits = self.model(past_key_values=past_key_values.own, **inputs).logits
        older = self.mask.model(past_key_values=past_key_values.masking, **inputs).logits
        allowed = nucleus(older.float() / self.mask.temperature, self.mask.top_p)
        return SimpleNamespace(logits=logits.masked_fill(~allowed, float("-inf")))


@dataclass(frozen=True)
class PairOfCaches:
    """The caches of both models."""

    own: RoomyCache
    masking: RoomyCache

    def keep(self, rows: torch.Tensor) -> None:
        """Let row i become what row `rows[i]` was."""
        self.own.keep(rows)
        self.masking.keep(rows)
