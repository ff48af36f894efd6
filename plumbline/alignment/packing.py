"""Demonstrations as token ids, packed into rows of one length.

A row is made when it is asked for: what is kept is which demonstrations are in it.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plumbline.preferences.lazy_rows import LazyRows

IGNORED = -100


@dataclass(frozen=True)
class TokenizedDemonstration:
    """A demonstration as ids; the response, on which the loss is, begins at `start`."""

    ids: list[int]
    start: int
    cut: bool
    """True if its end, with the stop token, is beyond the longest length."""


@dataclass(frozen=True)
class PackedRow:
    """One or more demonstrations: labels are IGNORED at prompts, positions start at 0 with each of them."""

    ids: list[int]
    labels: list[int]
    positions: list[int]
    alone: bool
    """True if each row holds one demonstration, so that a mask can mark the padding."""


def pack(examples: Sequence[TokenizedDemonstration], length: int | None) -> list[PackedRow]:
    """Pack demonstrations into rows of at most `length` tokens, greedily and in order; none is split.

    If `length` is None, each demonstration gets a row of its own.
    """
    return list(Packed(examples, np.array([len(example.ids) for example in examples], np.int32), length))


class Packed(LazyRows[PackedRow]):
    """Demonstrations of these lengths, in some order, packed as `pack` says; a row is made when asked for."""

    def __init__(self, examples: Sequence[TokenizedDemonstration], lengths: NDArray[np.int32],
                 length: int | None, order: NDArray[np.int64] | None = None) -> None:
        self._examples, self._alone = examples, length is None
        self._order = np.arange(len(examples)) if order is None else order
        self._starts = _starts(lengths[self._order], length)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def row(self, number: int) -> PackedRow:
        """Pack a row."""
        row = PackedRow([], [], [], self._alone)
        for place in self._order[self._starts[number] : self._starts[number + 1]].tolist():
            example = self._examples[place]
            row.ids.extend(example.ids)
            row.labels.extend([IGNORED] * example.start + example.ids[example.start :])
            row.positions.extend(range(len(example.ids)))
        return row


def _starts(lengths: NDArray[np.int32], length: int | None) -> NDArray[np.int64]:
    """Return where the rows begin that examples of these lengths are packed into, and where the last ends."""
    if length is None:
        return np.arange(len(lengths) + 1)
    starts, filled = array("q"), length
    for place, tokens in enumerate(lengths.tolist()):
        filled += tokens
        if not place or filled > length:
            starts.append(place)
            filled = tokens
    return np.array([*starts, len(lengths)])
