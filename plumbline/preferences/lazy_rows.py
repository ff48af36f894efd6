"""Rows that are made when they are asked for, so that memory need not hold all of them."""

from abc import abstractmethod
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

Row = TypeVar("Row", covariant=True)


class LazyRows(Sequence[Row], Generic[Row]):
    """A sequence of which a subclass says how long it is and how to make a row."""

    @abstractmethod
    def row(self, number: int) -> Row:
        """Make the row of this number, from 0 to the length."""

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        numbers = range(len(self))[index]
        return [self.row(number) for number in numbers] if isinstance(numbers, range) else self.row(numbers)


@dataclass(frozen=True)
class SomeRows(LazyRows[Row]):
    """Some of other rows, by their numbers."""

    rows: Sequence[Row]
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def row(self, number: int) -> Row:
        """Return the row of this number among those chosen."""
        return self.rows[self.numbers[number]]


def parted(rows: Sequence[Row], belongs: Callable[[Row], bool]) -> tuple[SomeRows[Row], SomeRows[Row]]:
    """Return the rows that belong, and all others. Each row is made once here, and again when it is used."""
    those, others = array("q"), array("q")
    for number, row in enumerate(rows):
        (those if belongs(row) else others).append(number)
    return SomeRows(rows, those), SomeRows(rows, others)
