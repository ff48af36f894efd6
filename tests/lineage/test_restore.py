"""A run's data comes back on another machine, through MLflow's record and an S3-compatible bucket."""

import contextlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from dvc.repo import Repo
from test_storage import KEYS, add_remote, s3

from plumbline.errors import UserError
from plumbline.lineage import sharing, tracking
from plumbline.lineage.digests import digest
from plumbline.lineage.home import Home
from plumbline.lineage.recorded import CODE_ARCHIVE, RECORD, pack_code
from plumbline.lineage.records import RunRecord
from plumbline.lineage.restore import restore
from plumbline.lineage.workspace import init_dvc

__all__ = ["s3"]
RUN = "20260101-000000-abcdef"
DVC_YAML = """
stages:
  snapshot:
    cmd: python -m tasks.snapshot
    deps: [tasks/snapshot.py]
    outs: [data/snapshot]
"""


def checkout(root: Path) -> Home:
    """What git holds of a project."""
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
    recording = tracking.Recording(recording_home, RUN, {tracking.TRIGGER: "test"})
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


@pytest.mark.slow
def test_a_snapshot_comes_back_from_a_bucket(here: Home, there: Home, s3: str) -> None:
    for home in (here, there):
        add_remote(home, "bucket", f"s3://kept/{RUN}", endpointurl=s3, **KEYS)
    pushed = sharing.push(here, None, None)
    assert (pushed.things, pushed.files, pushed.left_out) == (1, 4, [])
    found = restore(there, RUN)
    snapshot = there.runs / RUN / "data/snapshot"
    assert digest(snapshot) == found.outputs["data/snapshot"] == digest(here.runs / RUN / "data/snapshot")
    assert found.other_code == []
    assert json.loads((there.runs / RUN / "run.json").read_text())["id"] == RUN


def test_a_missing_file_is_named_with_the_places_that_were_searched(here: Home, there: Home) -> None:
    shelf = here.root.parent / "shelf"
    for home in (here, there):
        add_remote(home, "shelf", str(shelf))
    sharing.push(here, RUN, None)
    next(file for file in shelf.glob("files/md5/*/*") if not file.name.endswith(".dir")).unlink()
    with pytest.raises(UserError, match=rf"1 of its 1 outputs are gone: data/snapshot. Looked in .*{shelf}"):
        restore(there, RUN)
    assert not there.runs.exists() or not list(there.runs.iterdir())


def test_batches_are_pulled_whole(here: Home, there: Home) -> None:
    shelf = here.root.parent / "shelf"
    for home in (here, there):
        add_remote(home, "shelf", str(shelf))
    batch = here.root / "data/batches/0123456789abcdef"
    batch.mkdir(parents=True)
    (batch / "batch.json").write_text("{}")
    (batch / "rows.jsonl").write_text("rows")
    with contextlib.chdir(here.root):
        Repo(str(here.root), config={"cache": {"dir": str(here.cache)}}).add([str(batch)])
    sharing.push(here, None, None)
    # What git carries.
    (there.root / "data/batches").mkdir(parents=True)
    shutil.copy(f"{batch}.dvc", there.root / "data/batches")
    shutil.copy(Path(__file__).resolve().parents[2] / "params.yaml", there.root / "params.yaml")
    pulled = sharing.pull(there, None)
    assert (pulled.fetched, pulled.missing) == (["data/batches/0123456789abcdef"], [])
    assert digest(there.root / "data/batches/0123456789abcdef") == digest(batch)
    shutil.rmtree(shelf)
    shutil.rmtree(there.cache)
    shutil.rmtree(there.root / "data/batches/0123456789abcdef")
    assert sharing.pull(there, None).missing == ["data/batches/0123456789abcdef"]
    assert not (there.root / "data/batches/0123456789abcdef").exists()


def test_git_gives_the_code_of_a_clean_commit(here: Home, there: Home) -> None:
    """Without an archive the code comes from the run's commit, whatever the checkout holds now."""
    for command in (["init", "-q"], ["add", "tasks"],
                    ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "start"]):
        subprocess.run(["git", *command], cwd=there.root, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=there.root, check=True, capture_output=True, text=True)
    (there.root / "tasks/snapshot.py").write_text("print('changed since')\n")
    folder = there.runs / RUN
    shutil.copytree(here.runs / RUN, folder)
    shutil.copytree(here.cache, there.cache)
    (folder / CODE_ARCHIVE).unlink()
    record = RunRecord.model_validate_json((folder / "run.json").read_text())
    record.git_commit = commit.stdout.strip()
    client = tracking.connect(there)
    record.save(folder)
    assert record.mlflow_run is not None
    client.log_artifact(record.mlflow_run, str(folder / "run.json"), RECORD)
    shutil.rmtree(folder)
    artifacts = Path(client.get_run(record.mlflow_run).info.artifact_uri.removeprefix("file://"))
    (artifacts / RECORD / CODE_ARCHIVE).unlink()
    assert restore(there, RUN).other_code == []
    assert (folder / "tasks/snapshot.py").read_text() == "print('take it')\n"
