"""What reading a source gives: rows, what was set aside and why, and what was not read."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from plumbline.preferences.types import Row

SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Quarantined:
    """A row that cannot be used. `line` counts from 1; for files without lines it counts records."""

    file: str
    line: int
    field: str
    reason: str


@dataclass
class Unread:
    """What was not read: fields, each with the number of records that held something in it; and what was
    taken back."""

    left_alone: Counter[str] = field(default_factory=Counter)
    """Known, and known to say nothing about which response is better."""
    unknown: Counter[str] = field(default_factory=Counter)
    taken_back: list[Row] = field(default_factory=list)
    """What the judgements had said that their annotators have taken back."""


Read = Iterable[Row | Quarantined | Unread]
"""What a source holds, in its order; what was not read of a file, or was taken back, follows its rows."""


def shown_name(name: str) -> str:
    """Return the name of a file or a field, or words that quote one, as text that can be written.

    What is not UTF-8 in a file's name, and halves of surrogate pairs, which JSON allows, are replaced.
    """
    return SURROGATE.sub("\ufffd", name)
