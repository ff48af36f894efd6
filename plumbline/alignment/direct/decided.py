"""Pairs of answers of which one is better, with what the reference says of them, which stays fixed.

A ranking is all its pairs, which share its weight (`tokenized.py`). A pair of equally good answers has no
better one to raise, so ties are left out, and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from plumbline.alignment.tokenized import TokenizedPreference, micro_batches
from plumbline.config import DirectParams
from plumbline.config.methods import KtoParams
from plumbline.lm.branches import answer_states
from plumbline.lm.log_probs import chosen_log_probs
from plumbline.lm.optim import autocast
from plumbline.lm.ranks.sharding import inside
from plumbline.lm.ranks.world import world


@dataclass(frozen=True)
class DecidedPreference(TokenizedPreference):
    """Responses of which each pair has a better one, and their log-probabilities under the reference, in
    nats.
    """

    reference: list[float]
    """Of each response; empty if the method asks no reference."""
    other_prompt: list[int]
    """A prompt that the responses do not answer: see `pairwise.py`."""
    other_reference: list[float]
    """Of each response after the other prompt, as far as it fits; empty unless the method is KTO."""

    @property
    def mismatched(self) -> TokenizedPreference:
        """Return the responses after the other prompt."""
        return replace(self, prompt=self.other_prompt)

    def places(self) -> list[tuple[int, int]]:
        """Return the better and the worse response of each pair, by their places."""
        return [(pair.first, pair.second) if pair.first_wins == 1 else (pair.second, pair.first)
                for pair in self.pairs]


def decided(
    elements: Sequence[TokenizedPreference], reference: PreTrainedModel | None, params: DirectParams,
    generator: torch.Generator,
) -> list[DecidedPreference]:
    """Return the elements without their ties, and with what the reference, if there is one, says of them."""
    kept = [replace(one, pairs=pairs) for one in elements
            if (pairs := [pair for pair in one.pairs if pair.first_wins != 0.5])]
    # The other prompt is that of the element before it in a random order.
    order = torch.randperm(len(kept), generator=generator).tolist()
    before = dict(zip(order, [*order[-1:], *order[:-1]], strict=True))
    found = [DecidedPreference(**vars(one), reference=[], other_prompt=kept[before[i]].prompt,
                               other_reference=[]) for i, one in enumerate(kept)]
    if reference is None:
        return found
    own = all_log_probs(reference, found, params)
    other: list[list[float]] = [[] for _ in found]
    if isinstance(params, KtoParams):
        other = all_log_probs(reference, [one.mismatched for one in found], params)
    return [replace(one, reference=values, other_reference=there)
            for one, values, there in zip(found, own, other, strict=True)]


@torch.no_grad()
def all_log_probs(
    model: PreTrainedModel, elements: Sequence[TokenizedPreference], params: DirectParams
) -> list[list[float]]:
    """Return the log-probability, in nats, of each response of each element, which the ranks share."""
    order = sorted(range(len(elements)), key=lambda i: max(map(len, elements[i].rows)))
    mine = [elements[i] for i in world().mine(order)]
    found: list[float] = []
    for part in micro_batches(mine, params.micro_batch_size):
        found += summed_log_probs(model, part, params).tolist()
    values = iter(found)
    of_mine = [[next(values) for _ in element.responses] for element in mine]
    known = dict(zip(order, world().gathered(of_mine), strict=True))
    return [known[i] for i in range(len(elements))]


def summed_log_probs(
    model: PreTrainedModel, elements: Sequence[TokenizedPreference], params: DirectParams
) -> torch.Tensor:
    """Return the log-probability [N], in nats, of all responses of all elements, one after the other.

    Of a response that does not fit `max_length`, which only another prompt's does not, it is that of what
    fits: at least a token, because no prompt is that long.
    """
    return inside(model, lambda: _summed_log_probs(model, elements, params))


def _summed_log_probs(
    model: PreTrainedModel, elements: Sequence[TokenizedPreference], params: DirectParams
) -> torch.Tensor:
    answers = [(one.prompt, [response[: params.max_length - len(one.prompt)] for response in one.responses])
               for one in elements]
    with autocast(params.precision):
        states = answer_states(model, answers)
        real_NR = states.mask_NR.bool()
        found = chosen_log_probs(
            states.before_NRD[real_NR], model.get_output_embeddings(), states.ids_NR[real_NR], 1.0)
    return found.new_zeros(real_NR.shape).masked_scatter(real_NR, found).sum(1)
