"""Pairs of answers of which one is better, with what the reference says of them, which stays fixed.

A ranking is all its pairs, which share its weight (`tokenized.py`). A pair of equally good answers has no
better one to raise, so ties are left out, and counted.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from plumbline.alignment.tokenized import TokenizedPair, TokenizedPreference, micro_batches
from plumbline.config import DirectParams
from plumbline.config.methods import KtoParams
from plumbline.errors import UserError
from plumbline.lm.branches import answer_states
from plumbline.lm.log_probs import chosen_log_probs
from plumbline.lm.optim import autocast
from plumbline.lm.ranks.sharding import inside
from plumbline.lm.ranks.world import world
from plumbline.preferences.lazy_rows import LazyRows


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


class DecidedPreferences(LazyRows[DecidedPreference]):
    """Elements without their ties, each made when it is asked for."""

    def __init__(self, elements: Sequence[TokenizedPreference], generator: torch.Generator) -> None:
        self._elements = elements
        kept = {i: hash(tuple(one.prompt)) for i, one in enumerate(elements) if _decided_pairs(one)}
        self._kept = np.array(list(kept), np.int64)
        prompts = np.array(list(kept.values()), np.int64)
        self.prompts = len(np.unique(prompts))
        self._other = _others(torch.randperm(len(kept), generator=generator).numpy(), prompts)
        self.own, self.other = _NOT_ASKED, _NOT_ASKED

    def __len__(self) -> int:
        return len(self._kept)

    def row(self, number: int) -> DecidedPreference:
        """Make an element."""
        one, other = (self._elements[self._kept[i]] for i in (number, self._other[number]))
        return DecidedPreference(one.prompt, one.responses, _decided_pairs(one), one.best_first,
                                 self.own.at(number), other.prompt, self.other.at(number))


@dataclass(frozen=True)
class _LogProbs:
    """What a reference says of the responses, one element after the other; nothing if it is not asked."""

    values: NDArray[np.float64]
    starts: NDArray[np.int64] | None

    def at(self, number: int) -> list[float]:
        if self.starts is None:
            return []
        found: list[float] = self.values[self.starts[number] : self.starts[number + 1]].tolist()
        return found


_NOT_ASKED = _LogProbs(np.zeros(0), None)


def decided(
    elements: Sequence[TokenizedPreference], reference: PreTrainedModel | None, params: DirectParams,
    generator: torch.Generator,
) -> DecidedPreferences:
    """Return the elements without their ties, and with what the reference, if there is one, says of them.

    Raises UserError for KTO where all have the same prompt.
    """
    found = DecidedPreferences(elements, generator)
    if isinstance(params, KtoParams) and len(found) and found.prompts == 1:
        raise UserError("KTO measures how far the policy is from SFT on answers to other prompts, and all "
                        f"{len(found)} comparisons have the same prompt. Add data, or choose another method.")
    if reference is not None:
        own = _all_log_probs(reference, found, params, lambda one: one)
        if isinstance(params, KtoParams):
            found.other = _all_log_probs(reference, found, params, lambda one: one.mismatched)
        found.own = own
    return found


def _others(order: NDArray[np.int64], prompts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, for each element, one with another prompt: the nearest before it in `order`, a circle.

    `prompts` has a number for the prompt of each; where all are the same, there is none to be found.
    """
    found, nearest = np.zeros_like(order), 0
    for _ in range(2):  # the second time round the first elements have others before them
        for before, one in zip(np.roll(order, 1).tolist(), order.tolist(), strict=True):
            if prompts[before] != prompts[one]:
                nearest = before
            found[one] = nearest
    return found


def _decided_pairs(element: TokenizedPreference) -> list[TokenizedPair]:
    return [pair for pair in element.pairs if pair.first_wins != 0.5]


@torch.no_grad()
def _all_log_probs(
    model: PreTrainedModel, elements: DecidedPreferences, params: DirectParams,
    asked: Callable[[DecidedPreference], TokenizedPreference],
) -> _LogProbs:
    """Return the log-probability, in nats, of each response of each element, which the ranks share."""
    longest, sizes = array("q"), array("q")
    for one in elements:
        longest.append(max(map(len, asked(one).rows)))
        sizes.append(len(one.responses))
    order = np.argsort(np.array(longest), kind="stable")
    mine, found = world().mine(order.tolist()), list[float]()
    for part in micro_batches((asked(elements[i]) for i in mine), params.micro_batch_size):
        found += summed_log_probs(model, part, params).tolist()
    values = iter(found)
    known = world().gathered([[next(values) for _ in range(sizes[i])] for i in mine])
    starts = np.cumsum([0, *sizes])
    out = np.zeros(starts[-1])
    for number, of_one in zip(order.tolist(), known, strict=True):
        out[starts[number] : starts[number + 1]] = of_one
    return _LogProbs(out, starts)


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
