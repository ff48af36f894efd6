"""A removal holds, whatever the clock says and whatever is not here."""

import json
import shutil
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from plumbline.data.changes import remove, supersede
from plumbline.data.intake import take_in_rows
from plumbline.errors import UserError
from plumbline.preferences.batches import arrivals as room
from plumbline.preferences.batches.snapshot import Simulation, fix_snapshot
from plumbline.preferences.reading.formats import Reading
from plumbline.preferences.types import Comparison, Message, Origin, row_id, to_line
from plumbline.project.home import Home

CHECKOUT = Path(__file__).parents[2]
ROWS = [Comparison((Message("user", f"Question {name}?"),), ("Yes.", "No."), "A", Origin("test", name))
        for name in ("ada", "ben", "finn")]


class PutBack(datetime):
    """A clock that was put back by a minute."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) - timedelta(minutes=1)


@pytest.fixture
def project(home: Home) -> Home:
    """A project that learns from what arrived: a comparison of each of three annotators."""
    text = (CHECKOUT / "params.yaml").read_text().replace("sources: [simulated, added]", "sources: [added]")
    (home.root / "params.yaml").write_text(text)
    take_in_rows(home, ROWS, "first")
    return home


def annotators(home: Home) -> list[str]:
    """The annotators of the rows that a run would learn from."""
    out = home.folder / "snapshot"
    manifest = fix_snapshot(["added"], Simulation(0, 0, 0, 0), home.preferences, out)
    return [json.loads(line)["annotator"] for batch in manifest.batches
            for line in (out / f"{batch.digest}.jsonl").read_bytes().splitlines()]


def test_a_removal_comes_after_the_correction_before_it_though_the_clock_was_put_back(
        project: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    corrected = project.root / "corrected.jsonl"
    corrected.write_text(to_line(ROWS[2]))
    supersede(project, str(corrected), Reading(), "it was right", None)
    monkeypatch.setattr(room, "datetime", PutBack)
    remove(project, [], "finn", None, "withdrew consent")
    assert annotators(project) == ["ada", "ben"]


def test_nothing_is_removed_while_an_arrival_that_may_hold_more_of_it_is_not_here(project: Home) -> None:
    folder, = project.preferences.arrived.iterdir()
    folder.with_suffix(".dvc").write_text("outs: []\n")
    elsewhere = shutil.move(folder, project.root / "elsewhere")
    take_in_rows(project, ROWS[:1], "second")
    with pytest.raises(UserError, match=f"{folder.name}.*`plumbline pull` brings them"):
        remove(project, [], "ada", None, "withdrew consent")
    shutil.move(elsewhere, folder)
    remove(project, [], "ada", None, "withdrew consent")
    assert annotators(project) == ["ben", "finn"]


def test_rows_are_removed_by_name_only_where_all_of_them_are_there(project: Home) -> None:
    first, last = (row_id(to_line(row).encode()) for row in (ROWS[0], ROWS[2]))
    with pytest.raises(UserError, match=r"learn from: 00000000000000aa, 00000000000000bb\. `plumbline data blame"):
        remove(project, ["00000000000000aa", first, "00000000000000bb"], None, None, "withdrew consent")
    assert annotators(project) == ["ada", "ben", "finn"]
    remove(project, [first.upper(), last], None, None, "withdrew consent")
    assert annotators(project) == ["ben"]


def test_nothing_is_corrected_while_an_arrival_that_may_hold_what_is_replaced_is_not_here(project: Home) -> None:
    folder, = project.preferences.arrived.iterdir()
    corrected = project.root / "corrected.jsonl"
    corrected.write_text(to_line(replace(ROWS[0], label="B")))
    folder.with_suffix(".dvc").write_text("outs: []\n")
    elsewhere = shutil.move(folder, project.root / "elsewhere")
    with pytest.raises(UserError, match=f"{folder.name}.*`plumbline pull` brings them"):
        supersede(project, str(corrected), Reading(), "she meant the other", None)
    shutil.move(elsewhere, folder)
    assert len(supersede(project, str(corrected), Reading(), "she meant the other", None).gone) == 1
    assert sorted(annotators(project)) == ["ada", "ben", "finn"]
