"""Looking through the rows of a version: filters from the index, texts from the files, a page's worth at a
time.

Filters need the index alone. Searching reads the lines of what the filters leave, in the order of the files,
and ends with a page's worth of hits or when its time is up; it says where to go on.
"""

import json
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from plumbline.preferences.batches.index import KINDS, NOBODY, Flags
from plumbline.preferences.versions.compare import UNKNOWN, Changes, Columns, Rows, count

Agreement = Literal["disputed", "agreed", "once"]
AGREEMENTS: dict[Agreement, str] = {"disputed": "others judged it differently", "agreed": "judged again, all "
                                                                                          "the same",
                                    "once": "judged once"}
DEMONSTRATION = KINDS.index("demonstration")
CHECK_TIME_EVERY = 256


@dataclass(frozen=True)
class Wanted:
    """Which rows: what is None or empty takes any."""

    text: str = ""
    """Part of a prompt or a response; upper and lower case are the same."""
    kind: str | None = None
    source: str | None = None
    annotator: str | None = None
    agreement: Agreement | None = None


@dataclass(frozen=True)
class Page:
    """Some of the rows, as positions in the columns."""

    rows: list[int]
    start: int
    """How many of the rows that the filters leave come before this page."""
    end: int
    """How many of them have been looked at, this page included: where the next page starts."""
    filtered: int
    """How many the filters leave; with a text, not all of them are hits."""
    out_of_time: bool
    """The search ended before the page was full and before the end."""

    @property
    def more(self) -> bool:
        """True if there are rows after `end`."""
        return self.end < self.filtered


class Browser:
    """A version's rows, ready to be looked through."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.disputed, self.judged_again = _agreement(columns)

    def __len__(self) -> int:
        return len(self.columns.once)

    def find(self, wanted: Wanted, start: int, size: int, seconds: float) -> Page:
        """Return the page of `size` rows that begins at `start`. Searching takes at most about `seconds`."""
        rows = self.filtered(wanted)
        if not wanted.text:
            page = rows[start:start + size].tolist()
            return Page(page, start, min(start + size, len(rows)), len(rows), False)
        hits, end, late = self._search(wanted.text, rows[start:], size, seconds)
        return Page(hits, start, start + end, len(rows), late)

    def filtered(self, wanted: Wanted) -> Rows:
        """Return the positions of the rows that pass the filters, in the order of the files."""
        columns, rows = self.columns, self.columns.once
        keep = np.ones(len(columns.row), bool)
        if wanted.kind is not None:
            keep &= columns.kind == _code(list(KINDS), wanted.kind)
        if wanted.source is not None:
            keep &= columns.source == _code(columns.sources, wanted.source)
        if wanted.annotator is not None:
            names = [wanted.annotator, NOBODY] if wanted.annotator == UNKNOWN else [wanted.annotator]
            keep &= np.isin(columns.annotator, [_code(columns.annotators, name) for name in names])
        if wanted.agreement is not None:
            keep &= self._judged(wanted.agreement)
        return rows[keep[rows]]

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        """Return rows by kind, source, annotator and agreement, the most frequent first."""
        columns, rows = self.columns, self.columns.once
        return {"kind": count(columns.kind[rows], KINDS),
                "source": count(columns.source[rows], columns.sources),
                "annotator": count(columns.annotator[rows], columns.annotators),
                "agreement": {name: int(self._judged(name)[rows].sum()) for name in AGREEMENTS}}

    def by_source_and_kind(self) -> dict[str, dict[str, int]]:
        """Return rows by source, the largest first, and within each by kind."""
        columns, rows = self.columns, self.columns.once
        table = np.bincount(columns.source[rows] * len(KINDS) + columns.kind[rows],
                            minlength=len(columns.sources) * len(KINDS)).reshape(-1, len(KINDS))
        order = np.argsort(-table.sum(axis=1), kind="stable").tolist()
        return {columns.sources[i]: dict(zip(KINDS, table[i].tolist(),
                                             strict=True)) for i in order if table[i].any()}

    @cached_property
    def prompts(self) -> int:
        """Return the number of distinct prompts."""
        return len(np.unique(self.columns.prompt[self.columns.once]))

    def others(self, position: int) -> list[int]:
        """Return the positions of other rows that judge the same responses."""
        columns = self.columns
        same = columns.once[(columns.item[columns.once] == columns.item[position])
                            & (columns.kind[columns.once] == columns.kind[position])]
        return [int(one) for one in same if one != position]

    def place(self, row: int) -> int | None:
        """Return the position of the row with this id."""
        rows = self.columns.once
        found = np.flatnonzero(self.columns.row[rows] == np.uint64(row))
        return int(rows[found[0]]) if len(found) else None

    def _judged(self, agreement: Agreement) -> Flags:
        if agreement == "disputed":
            return self.disputed
        judged: Flags = self.columns.kind != DEMONSTRATION
        wanted: Flags = self.judged_again & ~self.disputed if agreement == "agreed" else ~self.judged_again
        wanted &= judged
        return wanted

    def _search(self, text: str, rows: Rows, size: int, seconds: float) -> tuple[list[int], int, bool]:
        """Return hits, the number of rows read, and True if the time ran out first."""
        wanted, hits, looked = text.casefold(), list[int](), 0
        quoted = json.dumps(text, ensure_ascii=False)[1:-1].casefold()
        until = time.monotonic() + seconds
        for position, line in self.columns.lines(rows):
            looked += 1
            # Most lines do not hold it anywhere, which is quick to see; in the others it may stand in a name.
            if quoted in line.decode(errors="replace").casefold() and any(
                    wanted in one.casefold() for one in texts_of(self.columns.parsed(position, line))):
                hits.append(position)
                if len(hits) == size:
                    return hits, looked, False
            if looked % CHECK_TIME_EVERY == 0 and time.monotonic() > until:
                return hits, looked, looked < len(rows)
        return hits, looked, False


def texts_of(row: dict[str, object]) -> list[str]:
    """Return the texts of a row in our schema: its turns and its responses."""
    turns, responses = row["prompt"], row.get("responses", [row.get("response", "")])
    assert isinstance(turns, list) and isinstance(responses, list)
    return [turn["content"] for turn in turns] + responses


def changed(found: Changes, what: Literal["added", "removed", "relabelled"]) -> Rows:
    """Return the positions of the rows in one part of a difference; in `after`, except for removed rows."""
    return {"added": found.added, "removed": found.removed, "relabelled": found.now}[what]


def _code(names: list[str], name: str) -> int:
    return names.index(name) if name in names else -1


def _agreement(columns: Columns) -> tuple[Flags, Flags]:
    """Return for each row if its item has different verdicts, and if it has several."""
    disputed, again = np.zeros(len(columns.row), bool), np.zeros(len(columns.row), bool)
    rows = columns.once[columns.kind[columns.once] != DEMONSTRATION]
    if not len(rows):
        return disputed, again
    rows = rows[np.lexsort((columns.item[rows], columns.kind[rows]))]
    new = np.ones(len(rows), bool)
    items, kinds = columns.item[rows], columns.kind[rows]
    new[1:] = (items[1:] != items[:-1]) | (kinds[1:] != kinds[:-1])
    starts = np.flatnonzero(new)
    lowest = np.minimum.reduceat(columns.verdict[rows], starts)
    highest = np.maximum.reduceat(columns.verdict[rows], starts)
    sizes = np.diff(np.append(starts, len(rows)))
    disputed[rows] = np.repeat(lowest != highest, sizes)
    again[rows] = np.repeat(sizes > 1, sizes)
    return disputed, again
