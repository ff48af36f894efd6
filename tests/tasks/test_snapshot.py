"""A retry goes on with the snapshot of its run, unless rows of it were removed since."""

import shutil
from pathlib import Path

import pytest

from plumbline.data.changes import remove
from plumbline.data.intake import take_in_rows
from plumbline.errors import UserError
from plumbline.preferences.batches.manifest import read_manifest
from plumbline.preferences.types import Comparison, Message, Origin
from plumbline.project.home import Home
from plumbline.runs.pipeline import open_workspace, resolve
from plumbline.runs.stage_process import Child
from plumbline.runs.workspace import CODE, Request, Workspace
from tasks.as_prefect_task import _do
from tasks.snapshot import snapshot

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(home: Home) -> Home:
    """A project that learns from what arrived: three comparisons of three annotators."""
    for room in CODE:
        shutil.copytree(CHECKOUT / room, home.root / room, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("dvc.yaml", ".dvcignore"):
        shutil.copy(CHECKOUT / file, home.root / file)
    (home.root / ".dvc").mkdir()
    (home.root / ".dvc/config").write_text(f"[core]\n    no_scm = true\n[cache]\n    dir = {home.cache}\n")
    text = (CHECKOUT / "params.yaml").read_text().replace("sources: [simulated, added]", "sources: [added]")
    (home.root / "params.yaml").write_text(text)
    rows = [Comparison((Message("user", "Why?"),), ("Because.", "No."), "A", Origin("test", name))
            for name in ("ada", "ben", "finn")]
    take_in_rows(home, rows, "first")
    return home


def take(home: Home, request: Request) -> Workspace:
    """Begin a run, and do its stage `snapshot`."""
    workspace = open_workspace(home, resolve(home, request), request)
    child = Child(home, workspace.folder, workspace.stages["snapshot"], on_progress=lambda _: None, on_line=print)
    _do(snapshot, workspace, child)
    return workspace


def test_a_retry_keeps_its_snapshot_unless_rows_of_it_were_removed(project: Home) -> None:
    first = take(project, Request())
    retried = first.record.id
    later = [Comparison((Message("user", "How?"),), ("So.", "No."), "A", Origin("test", "ada"))]
    take_in_rows(project, later, "second")
    again = take(project, Request(retry_of=retried))
    assert read_manifest(again.folder / "data/snapshot") == read_manifest(first.folder / "data/snapshot")
    remove(project, [], "finn", None, "withdrew consent")
    with pytest.raises(UserError, match=rf"run {retried}, of which 1 rows were removed since. Start a new run instead"):
        take(project, Request(retry_of=retried))
    new = read_manifest(take(project, Request()).folder / "data/snapshot")
    assert [batch.rows for batch in new.batches] == [2, 1]
