"""Lost are the rows that a model learned from and that nobody judges any more."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from plumbline.data.changes import remove, supersede
from plumbline.data.intake import take_in_rows
from plumbline.data.lost_rows import lost_rows
from plumbline.preferences.batches.snapshot import Simulation, fix_snapshot
from plumbline.preferences.reading.formats import Reading
from plumbline.preferences.types import Comparison, Message, Origin, to_line
from plumbline.project.digests import cached_file, digest, listing
from plumbline.project.home import Home
from testing.fake_project import CHECKOUT

ROWS = [Comparison((Message("user", f"Question {name}?"),), ("Yes.", "No."), "A", Origin("test", name))
        for name in ("ada", "ben", "cleo", "finn")]


@pytest.fixture
def project(home: Home) -> Home:
    """A project that learns from what arrived: a comparison of each of four annotators."""
    shutil.copytree(CHECKOUT / ".dvc", home.root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "*.local"))
    text = (CHECKOUT / "params.yaml").read_text().replace("sources: [simulated, added]", "sources: [added]")
    (home.root / "params.yaml").write_text(text)
    take_in_rows(home, ROWS, "first")
    return home


def snapshot(home: Home, name: str) -> Path:
    fix_snapshot(["added"], Simulation(0, 0, 0, 0), home.preferences, home.root / name)
    return home.root / name


def cached(home: Home, folder: Path) -> str:
    """Put a folder into DVC's cache, as a run does. Returns its digest."""
    name = digest(folder)
    entries = [{"md5": md5, "relpath": file} for file, md5 in sorted(listing(folder).items())]
    for place in (cached_file(home.cache, name), *(cached_file(home.cache, one["md5"]) for one in entries)):
        place.parent.mkdir(parents=True, exist_ok=True)
    for one in entries:
        shutil.copyfile(folder / one["relpath"], cached_file(home.cache, one["md5"]))
    cached_file(home.cache, name).write_text(json.dumps(entries))
    return name


def test_rows_that_were_judged_again_with_the_same_verdict_or_another_are_not_lost(project: Home) -> None:
    before = cached(project, snapshot(project, "before"))
    ada, ben, *_ = ROWS
    again = [replace(ada, origin=replace(ada.origin, time="2026-11-21T09:00:00Z")), replace(ben, label="B")]
    corrected = project.root / "corrected.jsonl"
    corrected.write_text("".join(map(to_line, again)))
    assert len(supersede(project, str(corrected), Reading(), "asked again", None).gone) == 2
    assert lost_rows(project, before, snapshot(project, "corrected")) == 0
    remove(project, [], "finn", None, "withdrew consent")
    assert lost_rows(project, before, snapshot(project, "removed")) == 1


def test_what_was_lost_cannot_be_told_where_the_earlier_snapshot_is_nowhere(project: Home) -> None:
    assert lost_rows(project, "0" * 32 + ".dir", snapshot(project, "now")) is None
