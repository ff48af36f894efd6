"""A run's data comes back on another machine, through MLflow's record and an S3-compatible bucket."""

import contextlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from dvc.repo import Repo

from plumbline.errors import UserError
from plumbline.project.digests import digest
from plumbline.project.home import Home
from plumbline.project.run_record import RunRecord
from plumbline.runs.restore import restore
from plumbline.runs.run_files import CODE_ARCHIVE, RECORD
from plumbline.storage import push_pull as sharing
from plumbline.tracking.store import connect
from testing.remotes import KEYS, add_remote
from testing.stored_runs import RUN


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


def test_a_run_that_goes_on_elsewhere_is_not_put_into_its_place(here: Home, there: Home, tmp_path: Path) -> None:
    """Here it would never end."""
    folder = here.runs / RUN
    record = RunRecord.model_validate_json((folder / "run.json").read_text())
    record.status = "running"
    record.save(folder)
    assert record.mlflow_run is not None
    connect(there).log_artifact(record.mlflow_run, str(folder / "run.json"), RECORD)
    shutil.copytree(here.cache, there.cache)
    with pytest.raises(UserError, match=rf"The run {RUN} is still going on, .* on here\. .* --to DIR.*--gone"):
        restore(there, RUN)
    assert not (there.runs / RUN).exists()
    assert restore(there, RUN, tmp_path / "so far").folder == tmp_path / "so far"


def test_what_is_damaged_in_the_cache_is_pulled_again(here: Home, there: Home) -> None:
    for home in (here, there):
        add_remote(home, "shelf", str(here.root.parent / "shelf"))
    sharing.push(here, RUN, None)
    assert sharing.pull(there, RUN).fetched == [f"{RUN}: data/snapshot"]
    assert sharing.pull(there, RUN).fetched == []
    for file in there.cache.glob("files/md5/*/*"):  # a listing and three files
        file.chmod(0o644)
        file.write_text("")
    assert sharing.pull(there, RUN).fetched == [f"{RUN}: data/snapshot"]
    restore(there, RUN)
    assert digest(there.runs / RUN / "data/snapshot") == digest(here.runs / RUN / "data/snapshot")


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
    client = connect(there)
    record.save(folder)
    assert record.mlflow_run is not None
    client.log_artifact(record.mlflow_run, str(folder / "run.json"), RECORD)
    shutil.rmtree(folder)
    artifacts = Path(client.get_run(record.mlflow_run).info.artifact_uri.removeprefix("file://"))
    (artifacts / RECORD / CODE_ARCHIVE).unlink()
    assert restore(there, RUN).other_code == []
    assert (folder / "tasks/snapshot.py").read_text() == "print('take it')\n"
