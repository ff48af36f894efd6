"""Readers of prepared data: what the stages after `ingest` learn from and are measured on."""

import json
from collections.abc import Iterator
from pathlib import Path

from plumbline.errors import UserError
from plumbline.preferences.splits import Split
from plumbline.preferences.types import (
    Comparison,
    Demonstration,
    Preference,
    Prompt,
    Ranking,
    RowJson,
    from_json,
    prompt_from_json,
)


def demonstrations(folder: Path, split: Split) -> list[Demonstration]:
    """Return the demonstrations of a split of the prepared data in `folder`.

    Raises UserError if it is missing.
    """
    rows = [from_json(values) for values in _read(folder / "demonstrations" / f"{split}.jsonl")]
    return [row for row in rows if isinstance(row, Demonstration)]


def preferences(folder: Path, split: Split) -> list[Preference]:
    """Return the comparisons and rankings of a split, ties included. Raises UserError if it is missing."""
    rows = [from_json(values) for values in _read(folder / "preferences" / f"{split}.jsonl")]
    return [row for row in rows if isinstance(row, Comparison | Ranking)]


def prompts(folder: Path, split: Split) -> list[Prompt]:
    """Return the distinct prompts of a split, of rows of every kind. Raises UserError if it is missing."""
    return [prompt_from_json(values["prompt"]) for values in _read(folder / "prompts" / f"{split}.jsonl")]


def _read(file: Path) -> Iterator[RowJson]:
    if not file.is_file():
        raise UserError(f"There is no prepared data at {file}: run the ingest stage first, for instance with "
                        "`plumbline run --until ingest`.")
    with file.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield json.loads(line)
