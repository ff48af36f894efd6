"""Comparisons and rankings as token ids, in batches: what the reward model and the direct methods learn from.

Both are sets of K responses to one prompt. All K(K-1)/2 pairs of a ranking are one element of a batch and
share its weight (Ouyang et al. 2022, arXiv 2203.02155, section 3.5): shuffled apart, each response would
pass K-1 times an epoch and the model overfits. Nothing is cut to fit: a stop token after half an answer would
teach that an answer may end there, so what does not fit is dropped and counted, and so are pairs of the same
tokens, which teach nothing.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from plumbline.lm.chat import encode_prompt, encode_response
from plumbline.lm.ranks.world import world
from plumbline.preferences.types import Comparison, Preference, label_of

STRETCH = 8
"""Batches that are sorted by length together."""
FIRST_WINS = {"A": 1.0, "B": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class TokenizedPair:
    """Two responses of an element, by their places, and how often the first wins: 1, 0, or 0.5 for a
    tie."""

    first: int
    second: int
    first_wins: float
    strength: float
    """From 0 to 1; the margin is this times `reward_model.margin_scale`."""


@dataclass(frozen=True)
class TokenizedPreference:
    """A prompt with K responses as ids, each with its stop token, and the pairs that were judged of them."""

    prompt: list[int]
    responses: list[list[int]]
    pairs: list[TokenizedPair]
    best_first: list[int] | None
    """The places of all responses in order; None if two of them are equally good or the same."""

    @property
    def rows(self) -> list[list[int]]:
        """Return the K conversations."""
        return [self.prompt + response for response in self.responses]


Element = TypeVar("Element", bound=TokenizedPreference)


@dataclass(frozen=True)
class TokenizedPreferences:
    """Preferences as ids, and the pairs that are left out."""

    elements: list[TokenizedPreference]
    too_long: int
    """Pairs of which a side does not fit `max_length`."""
    identical: int
    """Pairs whose sides are the same tokens."""

    @property
    def pairs(self) -> int:
        """Return the number of pairs that are learnt from."""
        return sum(len(element.pairs) for element in self.elements)


def encode(
    tokenizer: PreTrainedTokenizerBase, preferences: Sequence[Preference], max_length: int
) -> TokenizedPreferences:
    """Encode comparisons and rankings whole.

    A response that does not fit `max_length` with its prompt leaves its ranking, and with it its pairs; see
    the class for what is counted.
    """
    elements, too_long, identical = [], 0, 0
    strengths = relative_strengths(preferences)
    for preference, strength in zip(preferences, strengths, strict=True):
        prompt = encode_prompt(tokenizer, preference.prompt)
        responses = [encode_response(tokenizer, response) for response in preference.responses]
        kept = [place for place, ids in enumerate(responses) if len(prompt) + len(ids) <= max_length]
        too_long += (len(responses) * (len(responses) - 1) - len(kept) * (len(kept) - 1)) // 2
        ranks = _ranks(preference)
        element = _element(prompt, [responses[place] for place in kept], [ranks[place] for place in kept],
                           strength)
        identical += len(kept) * (len(kept) - 1) // 2 - len(element.pairs)
        if element.pairs:
            elements.append(element)
    return TokenizedPreferences(elements, too_long, identical)


def _ranks(preference: Preference) -> Sequence[int]:
    """Return the rank of each response; equal ranks are a tie."""
    if isinstance(preference, Comparison):
        return {"A": (1, 2), "B": (2, 1), "tie": (1, 1)}[preference.label]
    return preference.ranks


def _element(
    prompt: list[int], responses: list[list[int]], ranks: Sequence[int], strength: float
) -> TokenizedPreference:
    size = len(responses)
    pairs = [TokenizedPair(i, j, FIRST_WINS[label_of(ranks[j], ranks[i])], strength)
             for i, j in combinations(range(size), 2) if responses[i] != responses[j]]
    in_order = len(set(ranks)) == size and len(pairs) == size * (size - 1) // 2
    best_first = sorted(range(size), key=lambda place: ranks[place]) if in_order else None
    return TokenizedPreference(prompt, responses, pairs, best_first)


def relative_strengths(preferences: Sequence[Preference]) -> list[float]:
    """Return of each preference the share of its source's strengths that are smaller; 0 if it has none.

    Each source has a scale of its own, and only the order of its strengths is to be believed. Three equally
    frequent grades become 0, 1/3 and 2/3, as Llama 2's smaller margins (Touvron et al. 2023, arXiv
    2307.09288, table 27).
    """
    strengths = [abs(row.strength) if isinstance(row, Comparison) and row.strength is not None else None
                 for row in preferences]
    known: dict[str, list[float]] = defaultdict(list)
    for row, strength in zip(preferences, strengths, strict=True):
        if strength is not None:
            known[row.origin.source].append(strength)
    for of_source in known.values():
        of_source.sort()
    found = []
    for row, strength in zip(preferences, strengths, strict=True):
        of_source = known[row.origin.source]
        found.append(0.0 if strength is None else bisect_left(of_source, strength) / len(of_source))
    return found


def endless_batches(elements: Sequence[Element], size: int, seed: int) -> Iterator[list[Element]]:
    """Yield batches without end; each epoch is shuffled anew."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for batch in reversed(shuffled_batches(elements, size, generator)):
            yield [elements[i] for i in batch]


def shuffled_batches(
    elements: Sequence[TokenizedPreference], size: int, generator: torch.Generator
) -> list[list[int]]:
    """Divide the indices of all elements into random batches of at most `size` elements of similar length.

    They are sorted by length within random stretches of `STRETCH` batches, which halves the padding, and the
    batches are shuffled again.
    """
    def longest(i: int) -> int:
        return len(elements[i].prompt) + max(map(len, elements[i].responses))

    order = torch.randperm(len(elements), generator=generator).tolist()
    batches = []
    for start in range(0, len(order), STRETCH * size):
        stretch = sorted(order[start : start + STRETCH * size], key=longest)
        batches += [stretch[i : i + size] for i in range(0, len(stretch), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def passes(elements: Sequence[Element], comparisons: int) -> Iterator[tuple[list[Element], bool]]:
    """Yield this rank's elements in micro-batches, and False with those that do not count: see World."""
    parts = list(micro_batches(world().mine(elements), comparisons))
    return world().passes(parts, list(elements[:1]))


def micro_batches(elements: Sequence[Element], comparisons: int) -> Iterator[list[Element]]:
    """Yield parts with at most as many responses as so many comparisons have, but no ranking is split."""
    part: list[Element] = []
    rows = 0
    for element in elements:
        if part and rows + len(element.responses) > 2 * comparisons:
            yield part
            part, rows = [], 0
        part.append(element)
        rows += len(element.responses)
    if part:
        yield part
