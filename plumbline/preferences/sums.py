"""Sums of what was counted in parts: of the shards of a data set, in their order."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import reduce
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", np.int64, np.float64)


@dataclass(frozen=True)
class Summed:
    """Figures of a part, each of which is a sum: numbers, (groups, ...) arrays, counters,
    dictionaries of the same names, or others of these.

    A part with fewer groups has the last ones not.
    """


Part = TypeVar("Part", bound=Summed)


def total(parts: Iterable[Part]) -> Part:
    """Return the sum of at least one part."""
    return reduce(_sum, parts)


def added(one: NDArray[Number], other: NDArray[Number]) -> NDArray[Number]:
    """Return the sum of two arrays, the shorter one with zeros behind it."""
    if len(one) < len(other):
        one, other = other, one
    whole = one.copy()
    whole[: len(other)] += other
    return whole


def _sum(one: Part, other: Part) -> Part:
    return type(one)(**{field.name: _plus(getattr(one, field.name), getattr(other, field.name))
                        for field in fields(one)})


def _plus(one: object, other: object) -> object:
    match one, other:
        case Summed(), Summed():
            return _sum(one, other)
        case np.ndarray(), np.ndarray():
            return added(one, other)
        case Counter(), Counter():
            return one + other
        case dict(), dict():
            return {name: _plus(value, other[name]) for name, value in one.items()}
        case int(), int():
            return one + other
    raise TypeError(f"{type(one).__name__} and {type(other).__name__} are no sums")
