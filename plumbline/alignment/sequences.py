"""Prompts with their responses as padded ids, and the log-probabilities of the responses.

Every method reads them in the same way: prompts are padded on the left, responses on the right, positions are
counted over real tokens, and only the responses' positions pass through the output layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from plumbline.lm.hidden import hidden_states
from plumbline.lm.log_probs import chosen_log_probs
from plumbline.lm.optim import autocast
from plumbline.lm.sampling import left_pad, right_pad


@dataclass(frozen=True)
class Sequences:
    """Prompts padded on the left to P tokens, responses on the right to R: these begin at column P."""

    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    response_BR: torch.Tensor
    mask_BR: torch.Tensor
    trunk_BTD: torch.Tensor | None = None
    """What the frozen lower layers make of each token, where a method has computed it once for all passes."""
    allowed_BRV: torch.Tensor | None = None
    """The tokens that could be sampled at each place, where a method masks the others."""

    def rows(self, index: torch.Tensor) -> "Sequences":
        """Return the sequences of these rows, without the columns in which all of them have padding."""
        columns = self.columns(index)
        width = columns.stop - (self.mask_BT.shape[1] - self.mask_BR.shape[1])
        return Sequences(
            self.ids_BT[index, columns], self.mask_BT[index, columns], self.response_BR[index, :width],
            self.mask_BR[index, :width], None if self.trunk_BTD is None else self.trunk_BTD[index, columns],
            None if self.allowed_BRV is None else self.allowed_BRV[index, :width])

    def columns(self, index: torch.Tensor) -> slice:
        """Return the columns in which some of these rows have a token."""
        prompt_width = self.mask_BT.shape[1] - self.mask_BR.shape[1]
        first = prompt_width - int(self.mask_BT[index, :prompt_width].sum(1).max())
        return slice(first, prompt_width + int(self.mask_BR[index].sum(1).max()))

    def micro_batches(self, index: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
        """Divide the rows `index` into parts of at most `size` rows of similar length, to spare padding."""
        length = self.mask_BT[index].sum(1)
        parts: tuple[torch.Tensor, ...] = index[length.argsort(stable=True)].split(size)
        return parts


def join(prompts: Sequence[list[int]], responses: Sequence[list[int]], device: torch.device) -> Sequences:
    """Put prompts and responses side by side."""
    prompt_BP, prompt_mask_BP = left_pad(prompts, pad=0)
    response_BR, mask_BR = right_pad(responses, pad=0)
    ids_BT = torch.cat([prompt_BP, response_BR], 1)
    mask_BT = torch.cat([prompt_mask_BP, mask_BR], 1)
    return Sequences(ids_BT.to(device), mask_BT.to(device), response_BR.to(device), mask_BR.to(device))


def log_probs_by(
    body: PreTrainedModel, head: nn.Module, sequences: Sequences, temperature: float, precision: str
) -> torch.Tensor:
    """Return the log-probability [B, R], in nats, of each response token; 0 at padding.

    `head` is the output layer; a body of top layers reads `trunk_BTD`.
    """
    if sequences.allowed_BRV is not None:
        logits_BRV = response_logits(body, head, sequences, precision)
        return token_log_probs(logits_BRV, sequences.response_BR, temperature) * sequences.mask_BR
    real_BR = sequences.mask_BR.bool()
    with autocast(precision):
        hidden_BRD = _response_states(body, sequences)
        found_N = chosen_log_probs(hidden_BRD[real_BR], head, sequences.response_BR[real_BR], temperature)
    return found_N.new_zeros(real_BR.shape).masked_scatter(real_BR, found_N)


def response_logits(
    body: PreTrainedModel, head: nn.Module, sequences: Sequences, precision: str
) -> torch.Tensor:
    """Return the logits [B, R, V] from which each response token was chosen.

    Tokens that `allowed_BRV` rules out have the logit -inf.
    """
    with autocast(precision):
        logits_BRV: torch.Tensor = head(_response_states(body, sequences))
    if sequences.allowed_BRV is not None:
        logits_BRV = logits_BRV.masked_fill(~sequences.allowed_BRV, float("-inf"))
    return logits_BRV


def _response_states(body: PreTrainedModel, sequences: Sequences) -> torch.Tensor:
    """Return the hidden states [B, R, D] from which the response tokens were chosen: position t predicts
    token t + 1, and no other passes through the output layer.
    """
    width = sequences.response_BR.shape[1]
    hidden_BTD = hidden_states(body, sequences.ids_BT, sequences.mask_BT, sequences.trunk_BTD)
    # Of a view the output layer's product would copy weights that do not learn once a row.
    return hidden_BTD[:, -width - 1 : -1].contiguous()


def token_log_probs(logits_BRV: torch.Tensor, ids_BR: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the log-probability [B, R], in nats, of each token under the distribution it was sampled from.

    Always in fp32; see `chosen_log_probs` for the temperature.
    """
    log_probs_BRV = (logits_BRV.float() / temperature).log_softmax(-1)
    return log_probs_BRV.gather(-1, ids_BR[..., None]).squeeze(-1)
