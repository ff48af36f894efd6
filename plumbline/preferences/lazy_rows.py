"""Rows that are made when they are asked for, so that memory need not hold all of them."""

from abc import abstractmethod
from collections.abc import Sequence
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
