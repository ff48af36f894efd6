"""Where the code of a run comes from whose workspace is on another machine: its archive, git, or nowhere."""

import shutil
import subprocess
from pathlib import Path

import pytest

from plumbline.errors import UserError
from plumbline.project.home import Home
from plumbline.project.run_record import RunRecord
from plumbline.runs.restore import restore
from plumbline.runs.retry import take_code
from plumbline.runs.run_files import CODE_ARCHIVE, RECORD
from plumbline.tracking.store import connect
from testing.stored_runs import RUN


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """The folder of a retry that begins."""
    (tmp_path / "retry").mkdir()
    return tmp_path / "retry"


def commit(root: Path, repository: Path) -> str:
    """Commit the tasks of a checkout, and then change them; return the commit."""
    subprocess.run(["git", "init", "-q"], cwd=repository, check=True)
    for command in (["add", "tasks"],
                    ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "start"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True)
    (root / "tasks/snapshot.py").write_text("print('changed since')\n")
    return found.stdout.strip()


def recorded_at(here: Home, commit: str) -> None:
    """Let the run be recorded as one of a clean commit, which has no archive of its code."""
    record = RunRecord.model_validate_json((here.runs / RUN / "run.json").read_text())
    record.git_commit, record.git_dirty = commit, False
    record.save(here.runs / RUN)
    assert record.mlflow_run is not None
    client = connect(here)
    client.log_artifact(record.mlflow_run, str(here.runs / RUN / "run.json"), RECORD)
    artifacts = Path(client.get_run(record.mlflow_run).info.artifact_uri.removeprefix("file://"))
    (artifacts / RECORD / CODE_ARCHIVE).unlink()


def test_a_retry_does_not_take_the_checkout_for_the_run(here: Home, there: Home, workspace: Path) -> None:
    commit(there.root, there.root)
    recorded_at(here, "0123456789abcdef0123456789abcdef01234567")
    with pytest.raises(UserError, match=r"does not have its commit, 0123456789abcdef.*--new-code"):
        take_code(there, RUN, workspace)
    shutil.copytree(here.cache, there.cache)
    assert restore(there, RUN).other_code == ["tasks/snapshot.py"]  # to look at it the checkout's has to do


def test_git_gives_a_commit_without_what_came_later(here: Home, there: Home, workspace: Path) -> None:
    """The checkout has got a room and a .dvcignore since."""
    recorded_at(here, found := commit(there.root, there.root))
    (there.root / ".dvcignore").write_text("*.tmp\n")
    (there.root / "flows").mkdir()
    (there.root / "flows/retrain.py").write_text("print('new')\n")
    assert take_code(there, RUN, workspace) == (found, False)
    assert (workspace / "tasks/snapshot.py").read_text() == "print('take it')\n"
    assert sorted(path.name for path in workspace.iterdir()) == ["dvc.yaml", "tasks"]


def test_the_project_is_a_folder_of_its_repository(here: Home, there: Home, workspace: Path) -> None:
    recorded_at(here, found := commit(there.root, there.root.parent))
    assert take_code(there, RUN, workspace) == (found, False)
    assert (workspace / "tasks/snapshot.py").read_text() == "print('take it')\n"
