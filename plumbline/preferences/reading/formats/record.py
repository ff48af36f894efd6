"""A record of somebody else's file, which knows which of its fields were read.

Nothing of a record may be lost in silence: what a format has not asked for is left alone by name, sets the
record aside, or is counted and told (see meaning.py).
"""

import math
from collections.abc import Iterator, Mapping

from plumbline.preferences.reading.conversations import SPOKEN, Unusable, shown, written_messages

NOTHING = frozenset({"", "[]", "{}", "null", "nan", "NaN", "<NA>"})
"""Texts that stand for an absent value, as CSV and data frames write it."""


def says_nothing(value: object) -> bool:
    """True if the value of a field is the same as an absent one, however deep its lists are nested."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list | dict):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str):
            if value.strip() not in NOTHING:
                return False
        elif not (value is None or (isinstance(value, float) and math.isnan(value))):
            return False
    return True


class Record(Mapping[str, object]):
    """The fields of a record that hold something; null and what is not a number count as absent.

    Asking for a field, with `get` or `[...]`, is reading it; looking whether it is there is not.
    """

    def __init__(self, values: Mapping[str, object], place: str = "", question: str | None = None) -> None:
        self.question = question
        """The question of an annotation tool whose answers are the judgements, where the import was told."""
        self.names = values.keys()
        """All field names, those that hold nothing included."""
        self._values = {name: value for name, value in values.items()
                        if value is not None and (type(value) is not float or value == value)}
        self._place = place
        self._read: set[str] = set()
        self._left: set[str] = set()
        self._apart: set[str] = set()
        self._inner: list[Record] = []

    def __getitem__(self, name: str) -> object:
        self._mark(name)
        return self._values[name]

    def get(self, name: str, default: object = None) -> object:
        """Return the value of a field, or `default` if it is absent, and count the field as read."""
        self._mark(name)
        return self._values.get(name, default)

    def _mark(self, name: str) -> None:
        self._read.add(name)
        self._left.discard(name)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def may_hold(self, names: frozenset[str]) -> bool:
        """True if any of these fields is there."""
        return not names.isdisjoint(self._values)

    def holds(self, name: str) -> bool:
        """True if the field is there and its value is not the same as an absent one."""
        return name in self._values and not says_nothing(self._values[name])

    def peek(self, name: str) -> object:
        """Return the value of a field without counting the field as read."""
        return self._values.get(name)

    def was_read(self, name: str) -> bool:
        """True if the field has been read."""
        return name in self._read

    def apart(self, name: str) -> object:
        """Return the value of a field, or None; its format accounts for what is in it, with `inner`."""
        self._apart.add(name)
        return self.get(name)

    def leave(self, name: str) -> None:
        """Leave the field alone: its format knows it, and that it says nothing of what is judged."""
        self._left.add(name)
        self._read.discard(name)

    def left(self) -> Iterator[str]:
        """Yield the places of filled fields that were left alone by their format."""
        left = (name for name in self._values if name in self._left and self.holds(name))
        yield from (f"{self._place}{name}" for name in left)
        for record in self._inner:
            yield from record.left()

    def within(self, name: str) -> "Record":
        """Return the object in this field as a record. Raises Unusable if there is none."""
        value = self.get(name)
        if not isinstance(value, dict):
            raise Unusable(f"{self._place}{name}",
                           "it is missing" if value is None else f"expected an object, found {shown(value)}")
        return self.inner(name, value)

    def inner(self, name: str, values: Mapping[str, object]) -> "Record":
        """Return an object anywhere in the field of this name as a record."""
        found = Record(values, f"{self._place}{name}.", self.question)
        self._inner.append(found)
        return found

    def unread(self) -> Iterator[tuple[str, object]]:
        """Yield place and value of each filled field that was not read, such as `messages[].weight`, 0.5."""
        for name, value in self._values.items():
            if name not in self._read:
                if name not in self._left and not says_nothing(value):
                    yield f"{self._place}{name}", value
            elif name not in self._apart:
                held = _messages_in(value) if type(value) is str else value
                if type(held) is list or type(held) is dict:
                    yield from ((f"{self._place}{name}{inner}", said)
                                for inner, said in _beside_messages(held))
        for record in self._inner:
            yield from record.unread()


def _messages_in(text: str) -> object:
    """Return the messages that a text holds; the text itself where its format has taken it for one."""
    try:
        return written_messages(text, "")
    except Unusable:
        return text


def _beside_messages(value: list[object] | dict[str, object]) -> Iterator[tuple[str, object]]:
    """Yield what messages hold besides role and text, once for each name."""
    turns, place = ([value], ".") if isinstance(value, dict) else (value, "[].")
    found: dict[str, object] = {}
    for turn in turns:
        if isinstance(turn, dict) and not SPOKEN.isdisjoint(turn):
            found.update((place + name, said) for name, said in turn.items()
                         if name not in SPOKEN and not says_nothing(said))
    return iter(found.items())
