"""Readers of prepared data: what the stages after `ingest` learn from and are measured on.

Rows are read when they are asked for: of a million of them memory holds their places, eight megabytes.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from plumbline.errors import UserError
from plumbline.preferences.lazy_rows import LazyRows
from plumbline.preferences.splits import Split
from plumbline.preferences.types import Demonstration, Preference, Prompt, from_json, prompt_from_json

Row = TypeVar("Row", covariant=True)
BLOCK = 1 << 24
NEWLINE = 10


class RowFile(LazyRows[Row]):
    """The rows of a file of JSON lines, which stays as it is."""

    def __init__(self, file: Path, parse: Callable[[bytes], Row]) -> None:
        """Find where the rows begin. Raises UserError if there is no such file."""
        if not file.is_file():
            raise UserError(f"There is no prepared data at {file}: run the ingest stage first, for instance "
                            "with `plumbline run --until ingest`.")
        self._parse, ends, size = parse, [np.zeros(1, np.int64)], 0
        with file.open("rb") as opened:
            while block := opened.read(BLOCK):
                ends.append(size + 1 + np.flatnonzero(np.frombuffer(block, np.uint8) == NEWLINE))
                size += len(block)
        self._places = np.concatenate(ends)
        self._lines = file.open("rb")

    def __len__(self) -> int:
        return len(self._places) - 1

    def row(self, number: int) -> Row:
        """Read a row."""
        self._lines.seek(int(self._places[number]))
        return self._parse(self._lines.readline())


def demonstrations(folder: Path, split: Split) -> Sequence[Demonstration]:
    """Return the demonstrations of a split of the prepared data in `folder`.

    Raises UserError if it is missing.
    """
    return RowFile(folder / "demonstrations" / f"{split}.jsonl",
                   lambda line: cast(Demonstration, from_json(json.loads(line))))


def preferences(folder: Path, split: Split) -> Sequence[Preference]:
    """Return the comparisons and rankings of a split, ties included. Raises UserError if it is missing."""
    return RowFile(folder / "preferences" / f"{split}.jsonl",
                   lambda line: cast(Preference, from_json(json.loads(line))))


def prompts(folder: Path, split: Split) -> Sequence[Prompt]:
    """Return the distinct prompts of a split, of rows of every kind. Raises UserError if it is missing."""
    return RowFile(folder / "prompts" / f"{split}.jsonl",
                   lambda line: prompt_from_json(json.loads(line)["prompt"]))
