"""Comparisons and rankings as token ids, in batches: what the reward model and the direct methods learn from.

Both are sets of K responses to one prompt. All K(K-1)/2 pairs of a ranking are one element of a batch and
share its weight (Ouyang et al. 2022, arXiv 2203.02155, section 3.5): shuffled apart, each response would
pass K-1 times an epoch and the model overfits. Nothing is cut to fit: a stop token after half an answer would
teach that an answer may end there, so what does not fit is dropped and counted, and so are pairs of the same
tokens, which teach nothing.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, combinations, pairwise
from math import nan
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from plumbline.alignment.token_store import Encoded, Flat, StoredRows, stored
from plumbline.lm.chat import encode_prompt, encode_response
from plumbline.lm.ranks.world import world
from plumbline.lm.template import rearranged
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


T = TypeVar("T")
Element = TypeVar("Element", bound=TokenizedPreference)


@dataclass(frozen=True)
class TokenizedPreferences:
    """Preferences as ids, and the pairs that are left out."""

    elements: StoredRows[TokenizedPreference]
    pairs: int
    """That are learnt from."""
    too_long: int
    """Pairs of which a side does not fit `max_length`."""
    identical: int
    """Pairs whose sides are the same tokens."""
    rearranged: int
    """Preferences, those left out included, whose system message goes into the first user's text."""


def encode(
    tokenizer: PreTrainedTokenizerBase, preferences: Sequence[Preference], max_length: int, folder: Path
) -> TokenizedPreferences:
    """Encode comparisons and rankings whole, into files in `folder`.

    A response that does not fit `max_length` with its prompt leaves its ranking, and with it its pairs; see
    the class for what is counted.
    """
    strengths = relative_strengths(preferences)

    def encoded(number: int) -> Encoded:
        return _encoded(tokenizer, max_length, preferences[number], float(strengths[number]))

    elements = stored(folder, range(len(preferences)), encoded, _decoded)
    counts = elements.counts
    return TokenizedPreferences(elements, counts["pairs"], counts["too_long"], counts["identical"],
                                counts["rearranged"])


def _encoded(
    tokenizer: PreTrainedTokenizerBase, max_length: int, preference: Preference, strength: float
) -> Encoded:
    prompt = encode_prompt(tokenizer, preference.prompt)
    responses = [encode_response(tokenizer, response) for response in preference.responses]
    kept = [place for place, ids in enumerate(responses) if len(prompt) + len(ids) <= max_length]
    ranks, fitting = _ranks(preference), [responses[place] for place in kept]
    row = Flat([*prompt, *chain.from_iterable(fitting)],
               [len(prompt), *map(len, fitting), *(ranks[place] for place in kept)], strength)
    pairs, of_fitting = len(_decoded(row).pairs), len(kept) * (len(kept) - 1) // 2
    counts = {"pairs": pairs, "identical": of_fitting - pairs,
              "too_long": len(responses) * (len(responses) - 1) // 2 - of_fitting,
              "rearranged": rearranged(tokenizer, [preference.prompt])}
    return Encoded(row if pairs else None, counts)


def _decoded(row: Flat) -> TokenizedPreference:
    """Return the element; its `shape` has the lengths of prompt and responses, then the responses' ranks."""
    size = len(row.shape) // 2
    prompt, *ends = accumulate(row.shape[: size + 1])
    responses = [row.ids[start:end] for start, end in pairwise([prompt, *ends])]
    return _element(row.ids[:prompt], responses, row.shape[size + 1 :], row.value)


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


def relative_strengths(preferences: Sequence[Preference]) -> NDArray[np.float64]:
    """Return of each preference the share of its source's strengths that are smaller; 0 if it has none.

    Each source has a scale of its own, and only the order of its strengths is to be believed. Three equally
    frequent grades become 0, 1/3 and 2/3, as Llama 2's smaller margins (Touvron et al. 2023, arXiv
    2307.09288, table 27).
    """
    strengths, sources, numbers = array("d"), array("i"), dict[str, int]()
    for row in preferences:
        known = row.strength if isinstance(row, Comparison) else None
        strengths.append(nan if known is None else abs(known))
        sources.append(numbers.setdefault(row.origin.source, len(numbers)))
    values, of, found = np.array(strengths), np.array(sources), np.zeros(len(strengths))
    graded = np.flatnonzero(~np.isnan(values))
    ordered = graded[np.lexsort((values[graded], of[graded]))]
    for here in np.split(ordered, np.flatnonzero(np.diff(of[ordered])) + 1):
        found[here] = np.searchsorted(values[here], values[here], "left") / max(1, len(here))
    return found


def endless_batches(elements: Sequence[Element], size: int, seed: int) -> Iterator[list[Element]]:
    """Yield batches without end; each epoch is shuffled anew."""
    generator = torch.Generator().manual_seed(seed)
    longest = np.array([len(one.prompt) + max(map(len, one.responses)) for one in elements], np.int32)
    while True:
        for batch in shuffled_batches(longest, size, generator):
            yield [elements[i] for i in batch]


def shuffled_batches(
    longest: NDArray[np.int32], size: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """Divide elements into random batches of at most `size` elements of similar length, and yield their
    numbers; `longest` has the length of each element's longest conversation.

    They are sorted by length within random stretches of `STRETCH` batches, which halves the padding, and the
    batches are shuffled again. Who is in the batch that is not full is drawn before the sorting: it would
    always be the longest, each of which then weighs more than any other element.
    """
    order = torch.randperm(len(longest), generator=generator).numpy()
    in_full_batches = len(order) // size * size
    for start, end in pairwise([*range(0, in_full_batches, STRETCH * size), in_full_batches, len(order)]):
        stretch = order[start:end]
        order[start:end] = stretch[np.argsort(longest[stretch], kind="stable")]
    batches = torch.randperm(-(-len(order) // size), generator=generator)
    for batch in batches.flip(0).tolist():
        yield order[batch * size : (batch + 1) * size].tolist()


def passes(elements: Sequence[Element], comparisons: int) -> Iterator[tuple[list[Element], float]]:
    """Yield this rank's elements in micro-batches, with their weight; see `World.passes`."""
    mine = world().mine(range(len(elements)))
    parts = list(_parts(((i, len(elements[i].responses)) for i in mine), comparisons))
    for part, weight in world().passes(parts, [0]):
        yield [elements[i] for i in part], weight


def micro_batches(elements: Iterable[Element], comparisons: int) -> Iterator[list[Element]]:
    """Yield parts with at most as many responses as so many comparisons have, but no ranking is split."""
    return _parts(((element, len(element.responses)) for element in elements), comparisons)


def _parts(sized: Iterable[tuple[T, int]], comparisons: int) -> Iterator[list[T]]:
    """Yield parts of what stands for elements, each with its number of responses."""
    part: list[T] = []
    rows = 0
    for one, responses in sized:
        if part and rows + responses > 2 * comparisons:
            yield part
            part, rows = [], 0
        part.append(one)
        rows += responses
    if part:
        yield part
