"""The second reading of a snapshot: a part of its rows written row by row into a folder of its own.

What becomes of a row is decided (survey.py), so that any process can write any range; `gather.py` puts the
folders together. A file is there only if something was written to it.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import orjson

from plumbline.preferences.jsonl import jsonl
from plumbline.preferences.prepare.ranges import Range, SnapshotLine, lines_at
from plumbline.preferences.prepare.ratings import derive
from plumbline.preferences.report.reporter import Reporter
from plumbline.preferences.shards import Hashes
from plumbline.preferences.splits import SPLITS, Split, prompt_key, split_of
from plumbline.preferences.types import (
    Comparison,
    Demonstration,
    Preference,
    Ranking,
    Rating,
    Row,
    demonstration_line,
    from_json,
    prompt_json,
    prompt_part,
    row_id,
    to_line,
)

DEMONSTRATIONS, PREFERENCES, PROMPTS, CHOSEN = "demonstrations", "preferences", "prompts", "chosen"
PARTS = (DEMONSTRATIONS, PREFERENCES, PROMPTS)
NEAR_HELDOUT = "near_heldout"
ROWS_FILE, NEAR_FILE = "rows.csv", f"{NEAR_HELDOUT}.jsonl"
SHORT = 16
DUPLICATE, NEW_PROMPT, NEAR = 1, 2, 4
"""Bits of what is decided of a row: an earlier row is the same; no earlier row has its prompt; its prompt
nearly repeats a held-out one."""


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
class Repeat:
    """The held-out prompt that a prompt nearly repeats, and how similar they are."""

    of: str
    similarity: float


@dataclass(frozen=True)
class RangeDecisions:
    """A range of rows, and what is decided of each."""

    range: Range
    keys: Hashes
    """The first 64 bits of the prompts' keys."""
    decisions: "np.typing.NDArray[np.uint8]"
    repeats: dict[int, Repeat]
    """What is repeated by the prompts that are first on a row."""


@dataclass
class Written:
    """What was written into a folder, and what of it has to be looked at together with the rest."""

    folder: Path
    sizes: Counter[tuple[str, Split]] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    near_kinds: Counter[str] = field(default_factory=Counter)
    """The kinds of the rows that would have been trained on but for a held-out prompt that they repeat."""
    reporter: Reporter = field(default_factory=Reporter)
    demonstrated: list[int] = field(default_factory=list)
    """Hashes of prompt and response of each demonstration."""
    chosen: list[int] = field(default_factory=list)
    """The same of each line of the file CHOSEN, and the position of its split."""
    chosen_splits: list[int] = field(default_factory=list)
    rated: list[int] = field(default_factory=list)
    """Hashes of prompt, source and annotator of each rating, and its place: the batch's number, and the
    position of the line."""
    rated_at: list[tuple[int, int]] = field(default_factory=list)


class PartWriter:
    """Finds for each row where it belongs, counts, and writes all of them in the end."""

    def __init__(self, folder: Path, splitting: Splitting) -> None:
        self.written = Written(folder)
        self._splitting = splitting
        self._texts = defaultdict[str, list[bytes]](list)

    def add(self, line: SnapshotLine, key: int, decision: int, near: Repeat | None) -> None:
        """Write a row to its files, and count it; `key` is the beginning of its prompt's key."""
        row = from_json(orjson.loads(line.text))
        if decision & DUPLICATE:
            self.written.counts["duplicates"] += 1
            # After another rating of the same response in between, it is the last word once more.
            if isinstance(row, Rating) and not decision & NEAR:
                self._rate(row, key, line)
            return
        split = self._splitting.split(f"{key:016x}")
        went_to = NEAR_HELDOUT if decision & NEAR else split
        self._put(ROWS_FILE, f"{row_id(line.text)},{line.piece.batch[:SHORT]},{went_to}\n".encode())
        if decision & NEAR:
            self.written.counts[NEAR_HELDOUT] += 1
            if split == "train":
                self.written.near_kinds[_kind(row)] += 1
            if near:
                self._put(NEAR_FILE, jsonl([{"prompt": prompt_json(row.prompt), "repeats": near.of,
                                             "similarity": round(near.similarity, 3)}]).encode())
            return
        self.written.counts["rows_accepted"] += 1
        self.written.kinds[_kind(row)] += 1
        self.written.reporter.add(row, key, split)
        if decision & NEW_PROMPT:
            self._write(PROMPTS, split, b'{"prompt": %b}\n' % prompt_part(line.text))
        match row:
            case Demonstration():
                self.written.demonstrated.append(text_hash(key, row.response))
                self._write(DEMONSTRATIONS, split, line.text)
            case Rating():
                self._rate(row, key, line)
            case Comparison() | Ranking():
                self._prefer(row, key, split, line.text)

    def derived(self, preference: Preference) -> None:
        """Write a preference that ratings imply."""
        key = int(prompt_key(preference.prompt)[:16], 16)
        self.written.reporter.derived(preference, key)
        self._prefer(preference, key, self._splitting.split(f"{key:016x}"), to_line(preference).encode())

    def _rate(self, rating: Rating, key: int, line: SnapshotLine) -> None:
        origin = rating.origin
        self.written.rated.append(text_hash(key, repr((origin.source, origin.annotator))))
        self.written.rated_at.append((line.piece.number, line.position))

    def _prefer(self, preference: Preference, key: int, split: Split, text: bytes) -> None:
        self._write(PREFERENCES, split, text)
        if self._splitting.chosen_as_demonstrations and (best := _best(preference)) is not None:
            self._put(CHOSEN, demonstration_line(text, best))
            self.written.chosen.append(text_hash(key, best))
            self.written.chosen_splits.append(SPLITS.index(split))

    def _write(self, part: str, split: Split, text: bytes) -> None:
        self._put(f"{part}/{split}.jsonl", text)
        self.written.sizes[part, split] += 1

    def _put(self, name: str, text: bytes) -> None:
        self._texts[name].append(text)

    def finish(self) -> Written:
        """Write the files; return what was written."""
        for name, texts in self._texts.items():
            file = self.written.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"".join(texts))
        return self.written


def write_range(asked: tuple[RangeDecisions, Splitting, Path]) -> Written:
    """Write the rows of a range into a folder."""
    given, splitting, folder = asked
    rows = zip(given.range.lines(), given.keys.tolist(), given.decisions.tolist(), strict=True)
    parts = PartWriter(folder, splitting)
    for row, (line, key, decision) in enumerate(rows):
        parts.add(line, key, decision, given.repeats.get(row))
    return parts.finish()


@dataclass(frozen=True)
class Derivation:
    """Ratings of whole groups, by where their lines begin, whose preferences go into `folder`."""

    files: Sequence[Path]
    file: "np.typing.NDArray[np.int32]"
    position: "np.typing.NDArray[np.int64]"
    splitting: Splitting
    folder: Path


def write_derived(asked: Derivation) -> Written:
    """Write the preferences that ratings imply."""
    places = zip(asked.file.tolist(), asked.position.tolist(), strict=True)
    ratings = (from_json(orjson.loads(line)) for line in lines_at(asked.files, places))
    parts = PartWriter(asked.folder, asked.splitting)
    for preference in derive(rating for rating in ratings if isinstance(rating, Rating)).preferences:
        parts.derived(preference)
    return parts.finish()


@dataclass(frozen=True)
class Choices:
    """Chosen responses as demonstrations, one a line of `file`; those that are kept go into `folder`."""

    file: Path
    splits: "np.typing.NDArray[np.int8]"
    kept: "np.typing.NDArray[np.bool_]"
    folder: Path


def write_chosen(asked: Choices) -> Written:
    """Write the chosen responses that are kept."""
    written = Written(asked.folder)
    with ExitStack() as stack, asked.file.open("rb") as lines:
        (asked.folder / DEMONSTRATIONS).mkdir(parents=True)
        files = [stack.enter_context((asked.folder / DEMONSTRATIONS / f"{split}.jsonl").open("wb"))
                 for split in SPLITS]
        for line, split, kept in zip(lines, asked.splits.tolist(), asked.kept.tolist(), strict=True):
            if kept:
                files[split].write(line)
                written.sizes[DEMONSTRATIONS, SPLITS[split]] += 1
    return written


def text_hash(key: int, text: str) -> int:
    """Return 64 bits of a hash of a prompt's key and a text, the same in every process."""
    hashed = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=key.to_bytes(8, "big"))
    return int.from_bytes(hashed.digest(), "big")


def _kind(row: Row) -> str:
    return type(row).__name__.lower()


def _best(preference: Preference) -> str | None:
    """Return the best response, or None for a tie: two equally bad responses are not worth imitating."""
    match preference:
        case Comparison():
            return None if preference.label == "tie" else preference.chosen
        case Ranking():
            if min(preference.ranks) == max(preference.ranks):
                return None
            return preference.responses[preference.ranks.index(min(preference.ranks))]
