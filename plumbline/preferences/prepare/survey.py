"""The first reading of a snapshot: which rows are duplicates, which prompts are new or repeat a held-out one.

It reads ids and prompts alone, range by range, and decides on columns of numbers: rows and prompts are known
by 64 bits of their SHA-256. What the second reading needs is a byte a row, and the prompts that go.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plumbline.preferences.prepare.near_duplicates import (
    COLUMNS,
    Flags,
    PromptSurvey,
    Signatures,
    prompt_text,
    signatures_of,
)
from plumbline.preferences.prepare.ranges import Range, lines_at
from plumbline.preferences.prepare.writer import DUPLICATE, NEAR, NEW_PROMPT, Repeat, Splitting
from plumbline.preferences.shards import Column, Hashes, Shards, made_of, shards_for
from plumbline.preferences.splits import prompt_key
from plumbline.preferences.types import Prompt, prompt_on, row_id
from plumbline.workers import Workers

SEEN = np.dtype([("key", np.uint64), ("id", np.uint64), ("row", np.int64)])
PLACE = np.dtype([("row", np.int64), ("file", np.int32), ("position", np.int64), ("heldout", np.bool_)])
SIGNED = np.dtype([*PLACE.descr, ("signature", np.uint32, (COLUMNS,))])
COMPARED_AT_ONCE = 20_000

Rows = NDArray[np.int64]
Decisions = NDArray[np.uint8]


@dataclass(frozen=True)
class _Seen:
    """The rows of a range: of each its prompt's key and its id; then of each prompt's first row here."""

    keys: Hashes
    ids: Hashes
    rows: Rows
    """Counted from 0 in the range."""
    files: Rows
    positions: Rows
    heldout: Flags
    signatures: Signatures


@dataclass(frozen=True)
class Prompts:
    """The prompts, by their numbers."""

    files: Sequence[Path]
    places: Column[np.void]

    def __call__(self, number: int) -> Prompt:
        """Return a prompt, from the first row that has it."""
        place = self.places.read(number, 1)[0]
        return prompt_on(next(lines_at(self.files, [(place["file"], int(place["position"]))])))


class Survey:
    """What is decided on the rows of a snapshot, as far as that needs all others."""

    def __init__(self, files: Sequence[Path], ranges: Sequence[Range], splitting: Splitting, most: int,
                 folder: Path, workers: Workers) -> None:
        """Read the ranges of `files`, at `most` so many rows.

        `folder` is for what does not stay in memory.
        """
        self._keys = Column(folder / "keys", np.dtype(np.uint64))
        self._rows = Shards(folder / "rows", SEEN, shards_for(most))
        self.starts = [0]
        """The number of each range's first row, and that of all rows."""
        self.near_duplicates = 0
        """How many prompts nearly repeat any other."""
        self._near_rows, self._near = np.zeros(0, np.int64), list[tuple[int, float]]()
        self._prompts = Prompts(files, Column(folder / "prompts", PLACE))
        signed = Column(folder / "signed", SIGNED)
        self._read(ranges, splitting, signed, workers)
        self._decisions = np.zeros(self.starts[-1], np.uint8)
        self._look_for_earlier_rows(workers)
        if splitting.near_duplicate is not None:
            compared = PromptSurvey(folder / "near", splitting.near_duplicate, most)
            self._fill(compared, signed)
            self.near_duplicates = compared.near_duplicates(workers)
            self._leave_out(compared, workers)

    def decided(self, start: int, end: int) -> tuple[Hashes, Decisions, dict[int, Repeat]]:
        """Return what is decided of the rows `start` to `end`, as `RangeDecisions` has it."""
        first, last = np.searchsorted(self._near_rows, [start, end]).tolist()
        repeats = {int(self._near_rows[i]) - start: Repeat(prompt_text(self._prompts(of)), similarity)
                   for i, (of, similarity) in enumerate(self._near[first:last], first)}
        return self._keys.read(start, end - start), self._decisions[start:end], repeats

    def _read(self, ranges: Sequence[Range], splitting: Splitting, signed: Column[np.void],
              workers: Workers) -> None:
        for seen in workers.map(_see, ((part, splitting) for part in ranges)):
            start = self.starts[-1]
            self.starts.append(start + len(seen.keys))
            self._keys.append(seen.keys)
            rows = np.arange(start, self.starts[-1])
            self._rows.append(made_of(SEEN, key=seen.keys, id=seen.ids, row=rows))
            if len(seen.signatures):
                signed.append(made_of(SIGNED, row=seen.rows + start, file=seen.files, position=seen.positions,
                                      heldout=seen.heldout, signature=seen.signatures))

    def _look_for_earlier_rows(self, workers: Workers) -> None:
        tasks = ((self._rows, number) for number in range(self._rows.count))
        for repeated, new in workers.map(_compare_rows, tasks):
            self._decisions[repeated] |= DUPLICATE
            self._decisions[new] |= NEW_PROMPT

    def _fill(self, compared: PromptSurvey, signed: Column[np.void]) -> None:
        """Give `compared` the prompts, each once: what is first in a range need not be first in all."""
        for start in range(0, len(signed), COMPARED_AT_ONCE):
            some = signed.read(start, COMPARED_AT_ONCE)
            some = some[(self._decisions[some["row"]] & NEW_PROMPT).astype(bool)]
            self._prompts.places.append(made_of(PLACE, **{name: some[name] for name in PLACE.names or ()}))
            compared.add(some["signature"], some["heldout"])

    def _leave_out(self, compared: PromptSurvey, workers: Workers) -> None:
        """Mark the rows whose prompts nearly repeat a held-out one."""
        found = compared.repeats(self._prompts, workers)
        rows = {int(self._prompts.places.read(number, 1)["row"][0]): near for number, near in found.items()}
        self._near_rows = np.array(sorted(rows), np.int64)
        self._near = [(rows[row].of, rows[row].similarity) for row in sorted(rows)]
        keys = np.array([self._keys.read(row, 1)[0] for row in sorted(rows)], np.uint64)
        tasks = ((self._rows, number, keys) for number in range(self._rows.count))
        for near in workers.map(_rows_with, tasks) if rows else ():
            self._decisions[near] |= NEAR


def _see(asked: tuple[Range, Splitting]) -> _Seen:
    """Read a range; its prompts are signed if they are to be compared."""
    part, splitting = asked
    keys, ids, known, prompts = list[int](), list[int](), set[str](), list[Prompt]()
    places, heldout = list[tuple[int, int, int]](), list[bool]()
    for row, line in enumerate(part.lines()):
        prompt = prompt_on(line.text)
        key = prompt_key(prompt)
        keys.append(int(key[:16], 16))
        ids.append(int(row_id(line.text), 16))
        if key not in known:
            known.add(key)
            prompts.append(prompt)
            places.append((row, line.piece.number, line.position))
            heldout.append(splitting.split(key) == "heldout")
    signatures = signatures_of(prompts if splitting.near_duplicate is not None else [])
    rows, files, positions = np.array(places, np.int64).reshape(-1, 3).T
    return _Seen(np.array(keys, np.uint64), np.array(ids, np.uint64), rows, files, positions,
                 np.array(heldout, bool), signatures)


def _compare_rows(shard: tuple[Shards, int]) -> tuple[Rows, Rows]:
    """Return the rows of a shard that an earlier row is the same as, and those with a new prompt."""
    rows, number = shard
    here = rows.read(number)
    first = np.unique(here["id"], return_index=True)[1]
    repeated = np.ones(len(here), bool)
    repeated[first] = False
    return here["row"][repeated], here["row"][np.unique(here["key"], return_index=True)[1]]


def _rows_with(wanted: tuple[Shards, int, Hashes]) -> Rows:
    """Return the rows of a shard whose prompts have one of these keys."""
    rows, number, keys = wanted
    here = rows.read(number)
    return here["row"][np.isin(here["key"], keys)]
