"""Prepared data put together from what was written in parts, in their order.

What has to be known of all parts first is decided here: which ratings belong together, and which chosen
responses are demonstrated by nobody yet. Both are looked at a shard at a time.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from plumbline.preferences.prepare.writer import (
    CHOSEN,
    NEAR_FILE,
    NEAR_HELDOUT,
    PARTS,
    ROWS_FILE,
    Choices,
    Derivation,
    Splitting,
    Written,
    write_chosen,
    write_derived,
)
from plumbline.preferences.report.build import ReportBuilder
from plumbline.preferences.shards import Shards, made_of, shards_for
from plumbline.preferences.splits import SPLITS
from plumbline.workers import Workers

RATED = np.dtype([("key", np.uint64), ("rating", np.int64), ("file", np.int32), ("position", np.int64)])
GROUPED = np.dtype([("key", np.uint64), ("first", np.int64), *RATED.descr[1:]])
CHOICE = np.dtype([("key", np.uint64), ("number", np.int64)])
DEMONSTRATED = np.dtype([("key", np.uint64)])
COPIED_AT_ONCE = 1 << 20
RATINGS_AT_ONCE = 5000

Numbers = NDArray[np.int64]


class Gathered:
    """The prepared data in `out` as they grow. Use it as a context: on leaving, the files are closed.

    `batches` are the files of the snapshot, with at `most` so many rows; `folder` is for what does not stay
    in memory.
    """

    def __init__(self, out: Path, batches: Sequence[Path], most: int, folder: Path, splitting: Splitting,
                 workers: Workers) -> None:
        self._out, self._batches, self._folder = out, batches, folder
        self._splitting, self._workers = splitting, workers
        self._files: dict[str, BinaryIO] = {}
        self._written = 0
        self._rated = Shards(folder / "rated-by", RATED, shards_for(most))
        self._ratings = 0
        self._chosen: list[tuple[Path, NDArray[np.int8]]] = []
        self._choices = Shards(folder / "chosen", CHOICE, shards_for(most))
        self._demonstrated = Shards(folder / "demonstrated", DEMONSTRATED, shards_for(most))
        self.sizes: dict[str, dict[str, int]] = {part: dict.fromkeys(SPLITS, 0) for part in PARTS}
        self.counts = {"rows_accepted": 0, "duplicates": 0, NEAR_HELDOUT: 0}
        self.kinds = dict.fromkeys(("demonstration", "comparison", "ranking", "rating"), 0)
        self.near_kinds = dict.fromkeys(self.kinds, 0)
        self.report = ReportBuilder(folder / "report", most)

    def __enter__(self) -> "Gathered":
        for name in (*(f"{part}/{split}.jsonl" for part in PARTS for split in SPLITS), ROWS_FILE, NEAR_FILE):
            file = self._out / name
            file.parent.mkdir(parents=True, exist_ok=True)
            self._files[name] = file.open("wb")
        self._files[ROWS_FILE].write(b"row,batch,went_to\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for file in self._files.values():
            file.close()

    def new_folder(self) -> Path:
        """Return where the next part is to be written."""
        self._written += 1
        return self._folder / f"part-{self._written:06d}"

    def take(self, part: Written) -> None:
        """Add the next part."""
        self._append(part.folder)
        for (name, split), size in part.sizes.items():
            self.sizes[name][split] += size
        for counted, more in ((self.counts, part.counts), (self.kinds, part.kinds),
                              (self.near_kinds, part.near_kinds)):
            for name, n in more.items():
                counted[name] += n
        self.report.take(part.reporter)
        self._demonstrated.append(made_of(DEMONSTRATED, key=np.array(part.demonstrated, np.uint64)))
        self._choices.append(made_of(CHOICE, key=np.array(part.chosen, np.uint64),
                                     number=np.arange(len(part.chosen)) + self._choices_so_far()))
        self._chosen.append((part.folder / CHOSEN, np.array(part.chosen_splits, np.int8)))
        self._rate(part)

    def finish(self) -> None:
        """Write the preferences that ratings imply, then the demonstrations that chosen responses imply."""
        for part in self._workers.map(write_derived, self._groups()):
            self.take(part)
        self._imitate()

    def _append(self, folder: Path) -> None:
        """Move what was written for our files to their ends."""
        for name, file in self._files.items():
            if (part := folder / name).exists():
                with part.open("rb") as opened:
                    shutil.copyfileobj(opened, file, COPIED_AT_ONCE)
                part.unlink()

    def _rate(self, part: Written) -> None:
        files, positions = np.array(part.rated_at, np.int64).reshape(-1, 2).T
        numbers = np.arange(self._ratings, self._ratings + len(part.rated))
        self._ratings += len(part.rated)
        self._rated.append(made_of(RATED, key=np.array(part.rated, np.uint64), rating=numbers, file=files,
                                   position=positions))

    def _groups(self) -> Iterator[Derivation]:
        """Yield the ratings that belong together, in the order in which the first of each group came."""
        if not self._ratings:
            return
        grouped = Shards(self._folder / "grouped", GROUPED, shards_for(self._ratings))
        spread = np.uint64(2**64 // (self._ratings + 1))  # of numbers over the keys, in their order
        for number in range(self._rated.count):
            rated = self._rated.read(number)
            _, first, group = np.unique(rated["key"], return_index=True, return_inverse=True)
            firsts = rated["rating"][first][group]
            grouped.append(made_of(GROUPED, key=firsts.astype(np.uint64) * spread, first=firsts,
                                   **{name: rated[name] for name in ("rating", "file", "position")}))
        for number in range(grouped.count):
            ratings = grouped.read(number)
            ratings = ratings[np.lexsort((ratings["rating"], ratings["first"]))]
            begins = np.flatnonzero(np.diff(ratings["first"], prepend=-1))
            cuts = begins[np.flatnonzero(np.diff(begins // RATINGS_AT_ONCE, prepend=0))]
            for some in np.split(ratings, cuts):
                yield Derivation(self._batches, some["file"], some["position"], self._splitting,
                                 self.new_folder())

    def _imitate(self) -> None:
        """Write the chosen responses that nobody has demonstrated, each once."""
        kept = np.zeros(self._choices_so_far(), bool)
        shards = [(self._choices, self._demonstrated, number) for number in range(self._choices.count)]
        for numbers in self._workers.map(_first_choices, shards):
            kept[numbers] = True
        ends = np.cumsum([len(splits) for _, splits in self._chosen])
        tasks = [Choices(file, splits, some, self.new_folder()) for (file, splits), some
                 in zip(self._chosen, np.split(kept, ends[:-1]), strict=True) if some.any()]
        for part in self._workers.map(write_chosen, tasks):
            self.take(part)

    def _choices_so_far(self) -> int:
        return sum(len(splits) for _, splits in self._chosen)


def _first_choices(shard: tuple[Shards, Shards, int]) -> Numbers:
    """Return the numbers of the chosen responses of a shard that nobody demonstrated or chose before."""
    choices, demonstrated, number = shard
    here = choices.read(number)
    keys, first = np.unique(here["key"], return_index=True)
    return here["number"][first[~np.isin(keys, demonstrated.read(number)["key"])]]
