"""All judgements of two responses as columns: a million comparisons in about 45 MB, and what they show
together.

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

from plumbline.preferences.report.intervals import Estimate, Ints, estimate, share_by_prompt, shares_by_group
from plumbline.preferences.types import Comparison, Preference

Hashes = NDArray[np.uint64]
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
    """Collects judgements."""

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

    def table(self) -> Judgements:
        """Return all judgements so far. None can be added afterwards, because the columns share memory."""
        prompts = np.frombuffer(self._prompts, np.uint64)
        hashes = np.frombuffer(self._hashes, ">u8").reshape(-1, 2)
        firsts, seconds = hashes[:, 0].astype(np.uint64), hashes[:, 1].astype(np.uint64)
        pairs = prompts * _MIX[0] + firsts * _MIX[1] + seconds * _MIX[2]  # modulo 2**64
        return Judgements(
            np.unique(prompts, return_inverse=True)[1], np.unique(pairs, return_inverse=True)[1], firsts,
            seconds, np.frombuffer(self._labels, np.int8), np.frombuffer(self._annotators, np.int32),
            np.frombuffer(self._sources, np.int32), np.frombuffer(self._lengths, np.int32).reshape(-1, 2),
            np.frombuffer(self._shown, np.int8))


def text_hash(text: str) -> bytes:
    """Return an eight-byte hash of a text, the same in every process."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


class Bias(TypedDict):
    """How often something that should not matter wins; half is fair."""

    overall: Estimate
    by_source: dict[str, Estimate]
    by_annotator: dict[str, Estimate]


class Contradictions(TypedDict):
    """Pairs of responses that were judged more than once, and those among them with both labels.

    `by_one_annotator` counts the pairs that somebody judged both ways, `between_annotators` those on which
    two known annotators differ; a pair can be both, or neither where annotators are unknown.
    """

    pairs_judged_again: int
    contradictions: int
    by_one_annotator: int
    between_annotators: int


def ties(found: Judgements) -> Estimate | None:
    """Return how often neither response was preferred."""
    return share_by_prompt(found.labels == 0, found.prompts)


def longer_wins(found: Judgements, sources: list[str], annotators: list[str], most: int) -> Bias | None:
    """Return how often the longer response, in characters, won, among decided pairs of different lengths."""
    longer = np.sign(found.lengths[:, 0] - found.lengths[:, 1]) * found.labels
    return _bias(found, longer, np.flatnonzero(longer), sources, annotators, most)


def first_shown_wins(found: Judgements, sources: list[str], annotators: list[str], most: int) -> Bias | None:
    """Return how often the response shown first won.

    Sources in which always the same side wins are left out: formats with `chosen` and `rejected` have no
    order.
    """
    shown = np.abs(found.shown) == 1
    wins = [np.bincount(found.sources[found.shown == side], minlength=len(sources)) for side in (1, -1)]
    either = (wins[0] > 0) & (wins[1] > 0)
    return _bias(found, found.shown, np.flatnonzero(shown & either[found.sources]), sources, annotators, most)


def _bias(found: Judgements, won: NDArray[np.int8], rows: Ints, sources: list[str], annotators: list[str],
          most: int) -> Bias | None:
    overall = share_by_prompt(won[rows] > 0, found.prompts[rows])
    if overall is None:
        return None
    known = rows[found.annotators[rows] != NOBODY]
    by_source = shares_by_group(won[rows] > 0, found.prompts[rows], found.sources[rows].astype(np.int64),
                                most)
    by_annotator = shares_by_group(won[known] > 0, found.prompts[known],
                                   found.annotators[known].astype(np.int64), most)
    return {"overall": overall, "by_source": {sources[code]: share for code, share in by_source.items()},
            "by_annotator": {annotators[code]: share for code, share in by_annotator.items()}}


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
