"""The parts of prepared data, written row by row: demonstrations, preferences and prompts, each by split."""

from array import array
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from plumbline.preferences.jsonl import jsonl
from plumbline.preferences.prepare.ratings import derive
from plumbline.preferences.report.build import Reporter
from plumbline.preferences.splits import SPLITS, Split, prompt_key, split_of
from plumbline.preferences.types import (
    Comparison,
    Demonstration,
    Preference,
    Ranking,
    Rating,
    Row,
    prompt_json,
    row_id,
    to_line,
)

DEMONSTRATIONS, PREFERENCES, PROMPTS, CHOSEN = "demonstrations", "preferences", "prompts", ".chosen"
NEAR_HELDOUT = "near_heldout"
ROWS_FILE = "rows.csv"
SHORT = 16


@dataclass(frozen=True)
class Splitting:
    """How prompts are split, and whether chosen responses are imitated too."""

    validation_fraction: float
    heldout_fraction: float
    chosen_as_demonstrations: bool
    near_duplicate: float | None
    """Jaccard similarity from which a prompt counts as repeating a held-out one; None keeps them all."""
    judge_fraction: float = 0.0
    """Share of what is neither held-out nor validation that is kept for the second reward model."""
    salt: str = ""

    def split(self, key: str) -> Split:
        """Return the split of the prompt with this key."""
        return split_of(key, self.validation_fraction, self.heldout_fraction, self.judge_fraction, self.salt)


@dataclass(frozen=True)
class SnapshotLine:
    """One row of a snapshot, the line that it stands on, its prompt's key, and the batch that it came in."""

    row: Row
    text: bytes
    key: str
    batch: str


@dataclass(frozen=True)
class Repeat:
    """The held-out prompt that a prompt nearly repeats, and how similar they are."""

    of: str
    similarity: float


class Parts:
    """Writes each row where it belongs, and counts. Use it as a context: on leaving, the files are closed."""

    def __init__(self, out: Path, splitting: Splitting, repeats: dict[str, Repeat]) -> None:
        self._out, self._splitting, self._repeats = out, splitting, repeats
        self._files: dict[tuple[str, Split], BinaryIO] = {}
        self._seen: set[int] = set()
        self._prompts: set[str] = set()
        self._demonstrated: set[int] = set()
        self._chosen_numbers, self._chosen_splits = array("q"), array("b")  # one entry a line of `.chosen`
        self._ratings: list[Rating] = []
        self.sizes: dict[str, dict[str, int]] = {}
        self.counts = {"rows_accepted": 0, "duplicates": 0, NEAR_HELDOUT: 0}
        self.kinds = Counter[str]()
        self.reporter = Reporter()

    def __enter__(self) -> "Parts":
        with ExitStack() as stack:
            for part in (DEMONSTRATIONS, PREFERENCES, PROMPTS):
                (self._out / part).mkdir(parents=True)
                self.sizes[part] = dict.fromkeys(SPLITS, 0)
                for split in SPLITS:
                    self._files[part,
                                split] = stack.enter_context((self._out / part / f"{split}.jsonl").open("wb"))
            self._chosen = stack.enter_context((self._out / CHOSEN).open("w+b"))
            self._rows = stack.enter_context((self._out / ROWS_FILE).open("w", encoding="ascii"))
            self._near = stack.enter_context((self._out / f"{NEAR_HELDOUT}.jsonl").open("wb"))
            self._stack = stack.pop_all()
        self._rows.write("row,batch,went_to\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stack.close()
        (self._out / CHOSEN).unlink()

    def add(self, line: SnapshotLine) -> None:
        """Write the next row of the snapshot to its files, and count it."""
        name = row_id(line.text)
        if (number := int(name, 16)) in self._seen:
            self.counts["duplicates"] += 1
            return
        self._seen.add(number)
        near = self._repeats.get(line.key)
        split = self._splitting.split(line.key)
        self._rows.write(f"{name},{line.batch[:SHORT]},{NEAR_HELDOUT if near else split}\n")
        if near:
            self._leave_out(line, near)
            return
        self.counts["rows_accepted"] += 1
        self.kinds[type(line.row).__name__.lower()] += 1
        self.reporter.add(line.row, line.key, split)
        if self._is_new(line.key):
            self._write(PROMPTS, split, jsonl([{"prompt": prompt_json(line.row.prompt)}]).encode())
        self._place(line, split)

    def finish(self) -> None:
        """Write the preferences that ratings imply, then the demonstrations that chosen responses imply."""
        for preference in derive(self._ratings).preferences:
            key = prompt_key(preference.prompt)
            self.reporter.derived(preference, key)
            self._prefer(preference, key, self._splitting.split(key), to_line(preference).encode())
        self._chosen.seek(0)
        for text, number, split in zip(self._chosen, self._chosen_numbers, self._chosen_splits, strict=True):
            if self._is_undemonstrated(number):
                self._write(DEMONSTRATIONS, SPLITS[split], text)

    def _place(self, line: SnapshotLine, split: Split) -> None:
        match line.row:
            case Demonstration():
                self._is_undemonstrated(hash((line.key, line.row.response)))
                self._write(DEMONSTRATIONS, split, line.text)
            case Rating():
                self._ratings.append(line.row)
            case Comparison() | Ranking():
                self._prefer(line.row, line.key, split, line.text)

    def _prefer(self, preference: Preference, key: str, split: Split, text: bytes) -> None:
        self._write(PREFERENCES, split, text)
        if self._splitting.chosen_as_demonstrations and (best := _best(preference)) is not None:
            self._chosen.write(to_line(Demonstration(preference.prompt, best, preference.origin)).encode())
            self._chosen_numbers.append(hash((key, best)))
            self._chosen_splits.append(SPLITS.index(split))

    def _leave_out(self, line: SnapshotLine, near: Repeat) -> None:
        self.counts[NEAR_HELDOUT] += 1
        if self._is_new(line.key):
            self._near.write(jsonl([{"prompt": prompt_json(line.row.prompt), "repeats": near.of,
                                     "similarity": round(near.similarity, 3)}]).encode())

    def _is_new(self, key: str) -> bool:
        new = key not in self._prompts
        self._prompts.add(key)
        return new

    def _is_undemonstrated(self, number: int) -> bool:
        """True for the first demonstration with this hash of its prompt's key and its response."""
        new = number not in self._demonstrated
        self._demonstrated.add(number)
        return new

    def _write(self, part: str, split: Split, text: bytes) -> None:
        self._files[part, split].write(text)
        self.sizes[part][split] += 1


def _best(preference: Preference) -> str | None:
    """Return the best response, or None for a tie: two equally bad responses are not worth imitating."""
    match preference:
        case Comparison():
            return None if preference.label == "tie" else preference.chosen
        case Ranking():
            if min(preference.ranks) == max(preference.ranks):
                return None
            return preference.responses[preference.ranks.index(min(preference.ranks))]
