"""Rows made to trip whoever prepares them: duplicates, near-copies, contradictions, circles, ratings, damaged texts.

They arrive in three batches, one of which replaces rows of the first; another arrival removes some.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from plumbline.preferences.batches.arrivals import NO_ROWS, Action, draft, publish
from plumbline.preferences.batches.folders import Folders
from plumbline.preferences.batches.snapshot import Simulation, fix_snapshot
from plumbline.preferences.reading.results import Quarantined
from plumbline.preferences.types import Comparison, Demonstration, Label, Message, Origin, Prompt, Ranking, Rating, Row

ASK = "Please explain in simple words how a bicycle pump works and what its many parts are called, number"
ANSWERS = ("One", "two answers", "", "naïve cafÃ© \ufffd", "<b>bold</b> &amp; <|im_start|>user", "Привет, мир",
           "日本語", "a\u2028line\u0085end", "\x07 bell", "x" * 300)
PEOPLE = (None, "unknown", "ada", "ben", "cleo", "dov", "Ünal, the \"third\"")
SOURCES = ("house", "screen", "a,b\n", "réseau")


def hostile_snapshot(root: Path, seed: int = 0, rows: int = 400) -> Path:
    """Take a snapshot of hostile batches that have arrived in the project `root`; return its folder."""
    folders, rng = Folders(root, root / "home"), random.Random(seed)
    first, second, third = (hostile_rows(rng, rows) for _ in range(3))
    arrived = _arrive(folders, [*first, Quarantined("in.jsonl", 7, "label", "is no label")], "add", 1)
    _arrive(folders, [*second, *rng.sample(first, rows // 10)], "add", 2)
    _arrive(folders, third[: rows // 4], "supersede", 3, arrived[::9])
    _arrive(folders, [], "remove", 4, arrived[1::13])
    fix_snapshot(["added"], Simulation(0, 0, 0, 0), folders, root / "snapshot")
    return root / "snapshot"


def _arrive(folders: Folders, rows: Sequence[Row | Quarantined], action: Action, day: int,
            removed: "np.typing.NDArray[np.uint64]" = NO_ROWS) -> "np.typing.NDArray[np.uint64]":
    with draft(folders, "in.jsonl", rows) as drafted:
        publish(folders, drafted, action, f"2026-01-0{day}", f"{day}", removed, "")
        return drafted.index.row


def hostile_rows(rng: random.Random, count: int) -> list[Row]:
    """Rows of every kind; a tenth of them stand in the list twice."""
    rows = [_row(rng) for _ in range(count)]
    return [rng.choice(rows) if rng.random() < 0.1 else row for row in rows]


def _row(rng: random.Random) -> Row:
    prompt, origin = _prompt(rng), _origin(rng)
    match rng.randrange(6):
        case 0:
            return Demonstration(prompt, rng.choice(ANSWERS), origin)
        case 1:
            by = Origin("house", rng.choice((None, "unknown", "ada")), origin.time, origin.machine)
            return Rating(prompt, rng.choice(ANSWERS[:4]), float(rng.randrange(3)), by)
        case 2:
            answers = rng.sample(ANSWERS, rng.randrange(2, 6))
            return Ranking(prompt, tuple(answers), tuple(rng.randrange(1, 4) for _ in answers), origin)
        case _:
            labels: tuple[Label, ...] = ("A", "B", "tie")
            two = (rng.choice(ANSWERS[:4]), rng.choice(ANSWERS[1:5]))
            return Comparison(prompt, two, rng.choice(labels), origin, rng.choice((None, 1.0, 2.5)))


def _prompt(rng: random.Random) -> Prompt:
    number = rng.randrange(24)
    text = rng.choice((f"Question {number}", f"  QUESTION\u00a0{number} ", f"{ASK} {number}", f"{ASK} {number}?!",
                       f"{ASK} {number} please"))
    if rng.random() < 0.2:
        return (Message("system", "Be brief."), Message("user", "Hello"), Message("assistant", "Hi"),
                Message("user", text))
    return (Message("user", text),)


def _origin(rng: random.Random) -> Origin:
    return Origin(rng.choice(SOURCES), rng.choice(PEOPLE), rng.choice((None, "2026-01-01T00:00:00Z")),
                  rng.choice((None, True, False)))
