"""All judgements of two responses as columns, 42 bytes each, and what they show together.

A judgement is a pair of responses and which was preferred. A ranking counts as its pairs. The two responses
are put into the order of their hashes, so that the same pair is found again however it was shown. Hashes have
64 bits: among a million texts two different ones share a hash once in 37 million data sets.
"""

from array import array
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from plumbline.preferences.report.intervals import Estimate, Ints, estimate
from plumbline.preferences.shards import Hashes, Records, made_of
from plumbline.preferences.types import Comparison, Preference

NOBODY = -1
NOT_SHOWN = 2
"""In the column `shown`: a ranking, or a comparison derived from ratings, has no first and second on the
screen."""
_FIRST_WINS = {"A": 1, "tie": 0, "B": -1}
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9))


class Names:
    """Names as small numbers, in the order in which they first come."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def code(self, name: str) -> int:
        """Return the number of a name."""
        return self._codes.setdefault(name, len(self._codes))

    def all(self) -> list[str]:
        """Return the names in the order of their numbers."""
        return list(self._codes)


JUDGEMENT = np.dtype([("key", np.uint64), ("first", np.uint64), ("second", np.uint64), ("label", np.int8),
                      ("annotator", np.int32), ("source", np.int32), ("lengths", np.int32, (2,)),
                      ("shown", np.int8)])
"""`key` is 64 bits of the prompt's hash."""


@dataclass(frozen=True)
class Judgements:
    """Columns of N judgements: `prompts` and `pairs` number distinct ones from 0; `labels` 1 the first, -1, 0
    a tie."""

    prompts: Ints
    pairs: Ints
    firsts: Hashes
    seconds: Hashes
    labels: NDArray[np.int8]
    annotators: NDArray[np.int32]
    """NOBODY where unknown."""
    sources: NDArray[np.int32]
    lengths: NDArray[np.int32]
    """(N, 2): characters of the first and the second response."""
    shown: NDArray[np.int8]
    """Did the one that was shown first win? 1, -1, 0 a tie; NOT_SHOWN where there is no such order."""


class JudgementColumns:
    """Collects the judgements of some part of the rows."""

    def __init__(self) -> None:
        self._prompts, self._hashes = array("Q"), bytearray()
        self._labels, self._shown = array("b"), array("b")
        self._annotators, self._sources, self._lengths = array("i"), array("i"), array("i")

    def add(self, preference: Preference, prompt: int, source: int, annotator: int, shown: bool) -> None:
        """Add a comparison, or all pairs of a ranking; `prompt` is 64 bits of the prompt's hash."""
        hashes = [text_hash(response) for response in preference.responses]
        lengths = [len(response) for response in preference.responses]
        if isinstance(preference, Comparison):
            first_wins = _FIRST_WINS[preference.label]
            self._add(prompt, hashes, lengths, first_wins, source, annotator,
                      first_wins if shown else NOT_SHOWN)
            return
        for i, j in combinations(range(len(hashes)), 2):
            better = preference.ranks[j] - preference.ranks[i]
            self._add(prompt, [hashes[i], hashes[j]], [lengths[i], lengths[j]], (better > 0) - (better < 0),
                      source, annotator, NOT_SHOWN)

    def _add(self, prompt: int, hashes: list[bytes], lengths: list[int], label: int, source: int,
             annotator: int, shown: int) -> None:
        (first, second), (length, other) = hashes, lengths
        if first == second:
            return  # two equal texts are no choice
        if first > second:
            first, second, length, other, label = second, first, other, length, -label
        self._prompts.append(prompt)
        self._hashes += first + second
        self._lengths.append(length)
        self._lengths.append(other)
        self._labels.append(label)
        self._shown.append(shown)
        self._sources.append(source)
        self._annotators.append(annotator)

    def records(self, sources: NDArray[np.int32], annotators: NDArray[np.int32]) -> Records:
        """Return the judgements; `sources` and `annotators` say which number each of their own numbers is
        elsewhere.

        None can be added afterwards, because the columns share memory.
        """
        hashes = np.frombuffer(self._hashes, ">u8").reshape(-1, 2)
        return made_of(
            JUDGEMENT, key=np.frombuffer(self._prompts, np.uint64), first=hashes[:, 0], second=hashes[:, 1],
            label=np.frombuffer(self._labels, np.int8), shown=np.frombuffer(self._shown, np.int8),
            annotator=annotators[np.frombuffer(self._annotators, np.int32)],
            source=sources[np.frombuffer(self._sources, np.int32)],
            lengths=np.frombuffer(self._lengths, np.int32).reshape(-1, 2))


def table(records: Records) -> Judgements:
    """Return judgements as columns."""
    prompts, firsts, seconds = (np.ascontiguousarray(records[name]) for name in ("key", "first", "second"))
    return Judgements(
        np.unique(prompts, return_inverse=True)[1],
        np.unique(mixed(prompts, firsts, seconds), return_inverse=True)[1], firsts, seconds,
        *(np.ascontiguousarray(records[name])
          for name in ("label", "annotator", "source", "lengths", "shown")))


def mixed(*numbers: Hashes) -> Hashes:
    """Return one hash for each (N,) tuple of up to three hashes, modulo 2**64."""
    out = np.zeros(len(numbers[0]), np.uint64)
    for column, factor in zip(numbers, _MIX, strict=False):
        out += column * factor
    return out


def text_hash(text: str) -> bytes:
    """Return an eight-byte hash of a text, the same in every process."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


class Contradictions(TypedDict):
    """Pairs of responses that were judged more than once, and those among them with both labels.

    `by_one_annotator` counts the pairs that somebody judged both ways, `between_annotators` those on which
    two known annotators differ; a pair can be both, or neither where annotators are unknown.
    """

    pairs_judged_again: int
    contradictions: int
    by_one_annotator: int
    between_annotators: int


def contradictions(found: Judgements) -> Contradictions:
    """Count pairs of responses with both labels, by one annotator or by several."""
    both = _both_labels(found.pairs, found.labels)
    known = np.flatnonzero((found.annotators != NOBODY) & (found.labels != 0))
    judge_and_pair = found.pairs[known] * (found.annotators.max(initial=0) + 1) + found.annotators[known]
    distinct, inverse = np.unique(judge_and_pair, return_inverse=True)
    pair_of = distinct // (found.annotators.max(initial=0) + 1)
    own = pair_of[_both_labels(inverse, found.labels[known])]
    several = np.bincount(pair_of, minlength=len(both)) > 1
    between = several & _both_labels(found.pairs[known], found.labels[known], len(both))
    return {"pairs_judged_again": int((np.bincount(found.pairs) > 1).sum()),
            "contradictions": int(both.sum()),
            "by_one_annotator": len(np.unique(own)), "between_annotators": int(between.sum())}


def contradicted(found: Contradictions) -> Estimate | None:
    """Return the share of pairs judged again that have both labels."""
    again = found["pairs_judged_again"]
    return estimate(found["contradictions"], again) if again else None


def _both_labels(groups: Ints, labels: NDArray[np.int8], size: int = 0) -> NDArray[np.bool_]:
    """Return (groups,) flags of the groups that have a label for either side."""
    size = max(size, int(groups.max(initial=-1)) + 1)
    first, second = (np.bincount(groups[labels == side], minlength=size) for side in (1, -1))
    return (first > 0) & (second > 0)
