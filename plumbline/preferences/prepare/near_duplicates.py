"""Near-duplicates among prompts: which training prompts nearly repeat a held-out one.

Two prompts are near-duplicates when the sets of their words and pairs of neighbouring words have a Jaccard
similarity of at least the threshold, both those of all turns and those of the turns without the system
message: neither a system prompt that all share nor one question about many documents makes prompts alike.
MinHash signatures (Broder 1997, "On the resemblance and containment of documents") find the candidates in
bands (Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4); what leaves a prompt out of
training is decided on the texts themselves.

Where prompts share a long preamble, thousands of them meet in a band. Those are put in the order of their
signatures, read from another place on in each band, and a prompt is compared with its neighbours in that
order (Bawa, Condie and Ganesan 2005, "LSH Forest"). Equal sets are neighbours always.

Signatures and bands lie on the disk, 536 bytes a prompt, or up to 1,352 where the threshold is low; what is
looked at in memory is a shard of one band.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from io import FileIO
from itertools import pairwise, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from plumbline.preferences.shards import Hashes, Records, Shards, made_of, shards_for
from plumbline.preferences.types import Prompt
from plumbline.workers import Workers

PERMUTATIONS, SEED = 64, 42
BAND_WIDTHS = ((0.7, 4), (0.4, 2), (0.0, 1))
"""How many MinHashes a band has from which threshold on. With four, similar by 0.8 is found in 9,998 of
10,000 cases, by 0.7 in 98 of 100; with two, by 0.5 in 9,999 and by 0.4 in 99; with one, by 0.2 in all."""
HASH_BYTES = 8
COLUMNS = PERMUTATIONS + HASH_BYTES // 4
ESTIMATE_ERROR = 0.2
"""Four standard deviations of the signatures' estimate at 0.8."""
CANDIDATES = 16
"""With at most so many held-out prompts of its key a prompt is compared in a band."""
CHUNK = 8192
KEPT = 1024
"""Prompts that are looked at together, and whose words are kept: a few megabytes."""

# Chinese, Japanese and Korean put no space between words: there each character counts as one.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")

Signatures = NDArray[np.uint32]
Positions = NDArray[np.int64]
Flags = NDArray[np.bool_]
PromptOf = Callable[[int], Prompt]
"""Gives the prompt with a number; processes can be handed it."""
BAND = np.dtype([("key", np.uint64), ("number", np.int64), ("heldout", np.bool_)])
PLACE = np.dtype(f"S{8 + PERMUTATIONS + HASH_BYTES}")
"""A key, one byte of each MinHash, and the hash of the words: as text, because that is put in order quickly.
"""


@dataclass(frozen=True)
class NearDuplicate:
    """A prompt that nearly repeats a held-out one: the held-out one's number, and how similar they are."""

    of: int
    similarity: float


def tokens(text: str) -> set[str]:
    """Return the words of a text and its pairs of neighbouring words."""
    return _with_pairs(_words(text))


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _with_pairs(words: Sequence[str]) -> set[str]:
    return {*words, *map(" ".join, pairwise(words))}


def prompt_text(prompt: Prompt) -> str:
    """Return all turns of a prompt as one text."""
    return "\n".join(message.content for message in prompt)


def asked_text(prompt: Prompt) -> str:
    """Return the turns of a prompt without the system message as one text."""
    return "\n".join(message.content for message in prompt if message.role != "system")


def has_system(prompt: Prompt) -> bool:
    """Return whether a prompt has a system message."""
    return any(message.role == "system" for message in prompt)


def signatures_of(prompts: Sequence[Prompt]) -> Signatures:
    """Return the (N, COLUMNS) signatures of prompts: PERMUTATIONS MinHashes, and a hash of all their words.

    They are of the turns without the system message. Of a prompt that has one, every second number is of all
    turns: where thousands ask one question about different documents, candidates have to be alike in both.
    """
    parts = [np.zeros((0, COLUMNS), np.uint32)]
    for start in range(0, len(prompts), CHUNK):
        some = prompts[start : start + CHUNK]
        signatures = _signed([asked_text(prompt) for prompt in some])
        instructed = [number for number, prompt in enumerate(some) if has_system(prompt)]
        if instructed:
            whole = _signed([prompt_text(some[number]) for number in instructed])
            signatures[instructed, 1::2] = whole[:, 1::2]
        parts.append(signatures)
    return np.concatenate(parts)


def _signed(texts: Sequence[str]) -> Signatures:
    sets, hashes = [], bytearray()
    for words in map(_words, texts):
        sets.append(list(_with_pairs(words)))
        hashes += blake2b("\n".join(sorted(set(words))).encode(), digest_size=HASH_BYTES).digest()
    return np.hstack([np.array(RMinHash.digests_from_token_sets(sets, PERMUTATIONS, SEED), np.uint32),
                      np.frombuffer(hashes, np.uint32).reshape(len(sets), -1)])


class PromptSurvey:
    """The distinct prompts of a data set, numbered from 0 as they come, whose signatures lie in a folder.

    `most` is at least the number of prompts.
    """

    def __init__(self, folder: Path, threshold: float, most: int) -> None:
        self._threshold, self._signatures, self._size = threshold, folder / "signatures", 0
        self._width = next(width for least, width in BAND_WIDTHS if threshold >= least)
        self._bands = [Shards(folder / f"band-{start:02d}", BAND, shards_for(most))
                       for start in range(0, PERMUTATIONS, self._width)]
        folder.mkdir(parents=True)
        self._signatures.touch()

    def add(self, signatures: Signatures, heldout: Flags) -> None:
        """Take in the next prompts: (N, COLUMNS) signatures, and whether each is held-out."""
        with self._signatures.open("ab") as out:
            out.write(signatures.tobytes())
        numbers = np.arange(self._size, self._size + len(signatures))
        for band, keys in zip(self._bands, _keys(signatures, self._width), strict=True):
            band.append(made_of(BAND, key=keys, number=numbers, heldout=heldout))
        self._size += len(signatures)

    def repeats(self, prompt_of: PromptOf, workers: Workers) -> dict[int, NearDuplicate]:
        """Return the prompts outside of held-out that nearly repeat a held-out one, by number.

        Each names the most similar one that it was compared with, the first of equally similar ones.
        """
        found: dict[int, NearDuplicate] = {}
        tasks = list(self._parts(prompt_of))
        for pairs in workers.map(_near_heldout, tasks):
            for one, other, similarity in pairs:
                if one not in found or (similarity, -other) > (found[one].similarity, -found[one].of):
                    found[one] = NearDuplicate(other, similarity)
        return found

    def near_duplicates(self, workers: Workers) -> int:
        """Return how many prompts nearly repeat another one, estimated from the signatures."""
        flagged = np.zeros(self._size, bool)
        for numbers in workers.map(_near_any, list(self._parts(None))):
            flagged[numbers] = True
        return int(flagged.sum())

    def _parts(self, prompt_of: PromptOf | None) -> "Iterator[_Joined]":
        """Yield every shard of every band, the bands in their order."""
        for (band, shards), number in product(enumerate(self._bands), range(self._bands[0].count)):
            yield _Joined(self._signatures, self._threshold, band * self._width, shards, number, prompt_of)


@dataclass(frozen=True)
class _Joined:
    """A shard of a band, whose prompts are to be looked at beside each other."""

    signatures: Path
    threshold: float
    start: int
    """The first of the band's MinHashes."""
    shards: Shards
    number: int
    prompt_of: PromptOf | None

    def in_order(self, most: int) -> Records:
        """Return the prompts in the order of their keys.

        Where more than `most` have one key, they are in the order of their signatures from this band on, so
        that those are neighbours that are alike in most of what follows.
        """
        prompts = self.shards.read(self.number)
        prompts = prompts[np.argsort(prompts["key"], kind="stable")]
        _, counts = np.unique(prompts["key"], return_counts=True)
        crowd = np.flatnonzero(np.repeat(counts > most, counts))
        places = self._places(prompts[crowd])
        # A place begins with the key, so that each crowd stays where it is.
        prompts[crowd] = prompts[crowd][np.argsort(places, kind="stable")]
        return prompts

    def _places(self, prompts: Records) -> NDArray[np.bytes_]:
        """Return the (N,) places of prompts; that of the MinHashes begins after this band's."""
        places = np.zeros(len(prompts), PLACE)
        with self.signatures.open("rb", buffering=0) as file:
            for start in range(0, len(prompts), KEPT):
                some = prompts[start : start + KEPT]
                hashes, of_words = np.split(_signatures(file, some["number"]), [PERMUTATIONS], axis=1)
                parts = [some["key"].astype(">u8").reshape(-1, 1).view(np.uint8),
                         np.roll(hashes, -self.start, axis=1).astype(np.uint8),
                         of_words.copy().view(np.uint8)]
                places[start : start + KEPT] = np.hstack(parts).view(PLACE)[:, 0]
        return places

    def alike(self, left: Positions, right: Positions, least: float) -> Flags:
        """Return which pairs of prompts have an estimated similarity of at least `least`."""
        parts = [np.zeros(0, bool)]
        with self.signatures.open("rb", buffering=0) as file:
            for start in range(0, len(left), KEPT):
                one, other = (_signatures(file, numbers[start : start + KEPT]) for numbers in (left, right))
                same = (one == other)[:, :PERMUTATIONS]
                parts.append(same.mean(axis=1) >= least)  # estimates of the Jaccard similarity
        return np.concatenate(parts)


def _near_heldout(part: _Joined) -> list[tuple[int, int, float]]:
    """Return the prompts of a shard that nearly repeat a held-out one: both numbers, and the similarity."""
    assert part.prompt_of is not None
    prompt_of, found = part.prompt_of, []
    known = lru_cache(KEPT)(lambda number: words_of(prompt_of(number)))
    for one, other in _candidates(part):
        similarity = similarity_of(known(one), known(other))
        if similarity >= part.threshold:
            found.append((one, other, similarity))
    return found


def _near_any(part: _Joined) -> Positions:
    """Return the numbers of a shard's prompts that nearly repeat another one of their key."""
    prompts = part.in_order(2)
    same = np.flatnonzero(prompts["key"][1:] == prompts["key"][:-1])
    left, right = prompts["number"][same], prompts["number"][same + 1]
    alike = part.alike(left, right, part.threshold)
    return np.concatenate([left[alike], right[alike]])


@dataclass(frozen=True)
class PromptWords:
    """The tokens of a prompt: of the turns without the system message, and of all turns. Without such a
    message they are the same set."""

    asked: set[str]
    whole: set[str]


def words_of(prompt: Prompt) -> PromptWords:
    """Return the tokens of a prompt."""
    asked = tokens(asked_text(prompt))
    return PromptWords(asked, tokens(prompt_text(prompt)) if has_system(prompt) else asked)


def similarity_of(one: PromptWords, other: PromptWords) -> float:
    """Return how similar two prompts are: without their system messages or with them, whichever is less."""
    asked = jaccard(one.asked, other.asked)
    if one.whole is one.asked and other.whole is other.asked:
        return asked
    return min(asked, jaccard(one.whole, other.whole))


def jaccard(one: set[str], other: set[str]) -> float:
    """Return the size of the intersection divided by that of the union; 1 for two empty sets."""
    return len(one & other) / len(one | other) if one or other else 1.0


def _keys(signatures: Signatures, width: int) -> Iterator[Hashes]:
    """Yield (N,) numbers for each band: prompts with the same number in any band are candidates."""
    for start in range(0, PERMUTATIONS, width):
        band = signatures[:, start : start + width]
        pairs = np.ascontiguousarray(np.repeat(band, 2, axis=1) if width == 1 else band).view(np.uint64)
        # Knuth's multiplicative hashing
        yield pairs[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ np.bitwise_xor.reduce(pairs[:, 1:], axis=1)


def _candidates(part: _Joined) -> Iterator[tuple[int, int]]:
    """Yield pairs of a prompt and a held-out prompt whose estimated similarity could be enough.

    All pairs of a prompt come one after the other. Of many held-out prompts its neighbours are taken.
    """
    prompts = part.in_order(CANDIDATES)
    heldout = prompts["heldout"]
    kept, others, before = prompts[heldout], prompts[~heldout], np.cumsum(heldout)[~heldout]
    for start in range(0, len(others), KEPT):
        some, here = others[start : start + KEPT], before[start : start + KEPT]
        first, last = (np.searchsorted(kept["key"], some["key"], side) for side in ("left", "right"))
        begin = np.clip(here - CANDIDATES // 2, first, np.maximum(first, last - CANDIDATES))
        row, nth = np.nonzero(begin[:, None] + np.arange(CANDIDATES) < last[:, None])
        left, right = some["number"][row], kept["number"][begin[row] + nth]
        alike = part.alike(left, right, part.threshold - ESTIMATE_ERROR)
        yield from zip(left[alike].tolist(), right[alike].tolist(), strict=True)


def _signatures(file: FileIO, numbers: Positions) -> Signatures:
    """Return the signatures of prompts, read one by one: pages of a mapped file would count as our memory."""
    found, size = np.zeros((len(numbers), COLUMNS), np.uint32), 4 * COLUMNS
    for signature, number in zip(found, numbers.tolist(), strict=True):
        file.seek(number * size)
        file.readinto(signature.data)
    return found
