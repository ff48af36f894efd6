"""A machine with one run that is recorded in MLflow, and another machine without it."""

import contextlib
import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from plumbline.project.home import Home
from plumbline.project.run_record import RunRecord
from plumbline.runs.run_files import CODE_ARCHIVE, RECORD, pack_code
from plumbline.runs.workspace import init_dvc
from plumbline.tracking.recording import TRIGGER, Recording

RUN = "20260101-000000-abcdef"
DVC_YAML = """
stages:
  snapshot:
    cmd: python -m tasks.snapshot
    deps: [tasks/snapshot.py]
    outs: [data/snapshot]
"""


def checkout(root: Path) -> Home:
    """Make a project as a fresh clone has it, and return its home."""
    (root / "tasks").mkdir(parents=True)
    (root / "tasks/snapshot.py").write_text("print('take it')\n")
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "params.yaml").write_text("seed: 0\n")
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    return Home(root, root / ".plumbline")


@pytest.fixture
def here(recording_home: Home) -> Home:
    """A machine with one run, which is recorded in MLflow."""
    home = checkout(recording_home.root / "here")
    folder = home.runs / RUN
    (folder / "data/snapshot").mkdir(parents=True)
    for number in range(3):
        (folder / f"data/snapshot/batch{number}.jsonl").write_text(f'{{"row": {number}}}\n' * 100)
    shutil.copytree(home.root / "tasks", folder / "tasks")
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(home.root / file, folder / file)
    init_dvc(folder, home)
    with contextlib.chdir(folder):
        Repo(str(folder)).commit(force=True)
    recording = Recording(recording_home, RUN, {TRIGGER: "test"})
    RunRecord(id=RUN, created="2026-01-01T00:00:00+00:00", project=str(home.root), mlflow_run=recording.run_id, pid=1,
              host="here", status="finished").save(folder)
    pack_code(folder, folder / CODE_ARCHIVE)
    for file in ("run.json", "params.yaml", "dvc.yaml", "dvc.lock", CODE_ARCHIVE):
        recording.file(folder / file, RECORD)
    recording.end("FINISHED")
    return home


@pytest.fixture
def there(here: Home) -> Home:
    """Another machine with the same checkout, and the same MLflow."""
    return checkout(here.root.parent / "there")
