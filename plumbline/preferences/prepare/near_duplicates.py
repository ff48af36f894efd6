"""Near-duplicates among prompts: which training prompts nearly repeat a held-out one.

Two prompts are near-duplicates when the sets of their words and pairs of neighbouring words have a Jaccard
similarity of at least the threshold. MinHash signatures (Broder 1997, "On the resemblance and containment of
documents") find the candidates in bands (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets",
section 3.4); what leaves a prompt out of training is decided on the texts themselves.
"""

import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from plumbline.preferences.batches.index import Flags, Hashes
from plumbline.preferences.types import Prompt

PERMUTATIONS, BANDS, SEED = 64, 16, 42
"""Sixteen bands of four: similar by 0.8 is found in 9,998 of 10,000 cases, similar by 0.7 in 98 of 100."""
ESTIMATE_ERROR = 0.2
"""Four standard deviations of the signatures' estimate at 0.8."""
CANDIDATES = 16
CHUNK = 8192

# Chinese, Japanese and Korean put no space between words: there each character counts as one.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")

Signatures = NDArray[np.uint32]
Positions = NDArray[np.intp]


@dataclass(frozen=True)
class NearDuplicate:
    """A prompt that nearly repeats a held-out one: the held-out one's number, and how similar they are."""

    of: int
    similarity: float


def tokens(text: str) -> set[str]:
    """Return the words of a text and its pairs of neighbouring words."""
    words = WORD.findall(text.lower())
    return {*words, *map(" ".join, pairwise(words))}


def prompt_text(prompt: Prompt) -> str:
    """Return all turns of a prompt as one text."""
    return "\n".join(message.content for message in prompt)


class PromptSurvey:
    """The distinct prompts of a data set, numbered from 0 as they come; 260 bytes each, whatever their
    lengths."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._waiting: list[list[str]] = []
        self._parts: list[Signatures] = []
        self._heldout = array("b")

    def add(self, text: str, heldout: bool) -> None:
        """Take in the next prompt."""
        self._waiting.append(list(tokens(text)))
        self._heldout.append(heldout)
        if len(self._waiting) == CHUNK:
            self._sign()

    def repeats(self, text_of: Callable[[int], str]) -> dict[int, NearDuplicate]:
        """Return the prompts outside of held-out that nearly repeat a held-out one, by number.

        `text_of` gives the text of the prompt with a number.
        """
        signatures, heldout = self._signatures(), np.frombuffer(self._heldout, np.int8).astype(bool)
        found: dict[int, NearDuplicate] = {}
        for one, other in _candidates(signatures, heldout, self.threshold - ESTIMATE_ERROR):
            similarity = jaccard(tokens(text_of(one)), tokens(text_of(other)))
            if similarity >= self.threshold and (one not in found or similarity > found[one].similarity):
                found[one] = NearDuplicate(other, similarity)
        return found

    def near_duplicates(self) -> int:
        """Return how many prompts nearly repeat another one, estimated from the signatures."""
        signatures = self._signatures()
        flagged = np.zeros(len(signatures), bool)
        for keys in _bands(signatures):
            order = np.argsort(keys, kind="stable")
            same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
            left, right = order[same], order[same + 1]
            alike = _estimates(signatures, left, right) >= self.threshold
            flagged[left[alike]] = flagged[right[alike]] = True
        return int(flagged.sum())

    def _sign(self) -> None:
        if self._waiting:
            digests = RMinHash.digests_from_token_sets(self._waiting, PERMUTATIONS, SEED)
            self._parts.append(np.array(digests, dtype=np.uint32))
            self._waiting = []

    def _signatures(self) -> Signatures:
        self._sign()
        self._parts = [np.concatenate([np.zeros((0, PERMUTATIONS), np.uint32), *self._parts])]
        return self._parts[0]


def jaccard(one: set[str], other: set[str]) -> float:
    """Return the size of the intersection divided by that of the union; 1 for two empty sets."""
    return len(one & other) / len(one | other) if one or other else 1.0


def _bands(signatures: Signatures) -> Iterator[Hashes]:
    """Yield (P,) numbers for each band: prompts with the same number in any band are candidates."""
    rows = PERMUTATIONS // BANDS
    for start in range(0, PERMUTATIONS, rows):
        pairs = np.ascontiguousarray(signatures[:, start : start + rows]).view(np.uint64)
        yield pairs[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ pairs[:, 1]  # Knuth's multiplicative hashing


def _candidates(signatures: Signatures, heldout: Flags, least: float) -> Iterator[tuple[int, int]]:
    """Yield pairs of a prompt and a held-out prompt with an estimated similarity of at least `least`.

    A pair can be yielded more than once.
    """
    kept, others = np.flatnonzero(heldout), np.flatnonzero(~heldout)
    for keys in _bands(signatures):
        ordered = kept[np.argsort(keys[kept], kind="stable")]
        first = np.searchsorted(keys[ordered], keys[others], "left")
        last = np.searchsorted(keys[ordered], keys[others], "right")
        for nth in range(CANDIDATES):
            some = np.flatnonzero(first + nth < last)
            if not len(some):
                break
            left, right = others[some], ordered[first[some] + nth]
            alike = _estimates(signatures, left, right) >= least
            yield from zip(left[alike].tolist(), right[alike].tolist(), strict=True)


def _estimates(signatures: Signatures, left: Positions, right: Positions) -> NDArray[np.float64]:
    """Return the share of equal entries of each pair of signatures: an estimate of the Jaccard similarity."""
    parts = [(signatures[left[i : i + CHUNK]] == signatures[right[i : i + CHUNK]]).mean(axis=1)
             for i in range(0, len(left), CHUNK)]
    return np.concatenate(parts) if parts else np.zeros(0)
