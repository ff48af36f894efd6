"""A run comes back whole, on this machine and on another one; or nothing of it does."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.project.dvc_yaml import outputs_of
from testing.fake_project import CHECKOUT, environment, plumbline
from testing.in_process import command

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def run(project: Path) -> Path:
    """The workspace of the first run."""
    return project / "runs" / json.loads((project / "first.json").read_text())["id"]


@pytest.fixture(scope="module")
def shelf(project: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC remote that holds the first run."""
    shelf = tmp_path_factory.mktemp("shelf")
    subprocess.run([sys.executable, "-m", "dvc", "remote", "add", "-d", "shelf", str(shelf)], cwd=project,
                   env=environment(), check=True)
    pushed = command(project, "push", run.name, "--json")
    assert pushed.returncode == 0, pushed.stderr
    assert json.loads(pushed.stdout)["left_out"] == []
    return shelf


@pytest.fixture
def elsewhere(project: Path, shelf: Path, tmp_path: Path) -> Path:
    """The same checkout on another machine: nothing but what git holds."""
    root = tmp_path / "elsewhere"
    subprocess.run(["git", "clone", "-q", str(project), str(root)], check=True)
    shutil.copy(project / ".dvc/config", root / ".dvc/config")
    return root


def records(project: Path) -> dict[str, str]:
    """Settings that let another machine use the project's MLflow."""
    return {"MLFLOW_TRACKING_URI": f"sqlite:///{project / '.plumbline/mlflow.db'}"}


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for room in ("data", "models", "reports")
            for path in sorted((folder / room).rglob("*")) if path.is_file() and path.name != ".gitignore"}


def evaluate_again(workspace: Path, **more: str) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", "--single-item", "--force", "preference_eval"],
                          cwd=workspace, env=environment(**more), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    found: dict[str, object] = json.loads((workspace / "reports/preference/metrics.json").read_text())
    return found


def test_on_another_machine(project: Path, run: Path, elsewhere: Path) -> None:
    done = command(elsewhere, "restore", run.name[:-3], "--json", **records(project))
    assert done.returncode == 0, done.stderr
    restored = elsewhere / "runs" / run.name
    found = json.loads(done.stdout)
    assert (found["was_whole"], found["other_code"], found["outputs"]) == (False, [], outputs_of(run))
    assert files(restored) == files(run)
    for file in ("params.yaml", "dvc.yaml", "dvc.lock"):
        assert (restored / file).read_text() == (run / file).read_text()
    shown = json.loads(command(elsewhere, "show", run.name, "--json", **records(project)).stdout)
    assert shown["results"] == json.loads((project / "first.json").read_text())["results"]

    before = json.loads((run / "reports/preference/metrics.json").read_text())
    assert evaluate_again(restored, **records(project)) == before

    # What was restored is reused: the other machine need not train again.
    again = plumbline(elsewhere, "run", "--json", "--until", "ppo", **records(project))
    assert again.returncode == 0, again.stderr
    assert {stage["status"] for stage in json.loads(again.stdout)["stages"].values()} == {"reused"}


def test_a_workspace_that_lost_its_models(project: Path, run: Path, shelf: Path, tmp_path: Path) -> None:
    root = tmp_path / "own"
    shutil.copytree(project, root, symlinks=True)
    lost = root / "runs" / run.name
    shutil.rmtree(lost / "models")
    shutil.rmtree(root / ".plumbline/cache/files")
    pulled = command(root, "pull", run.name)
    assert pulled.returncode == 0, pulled.stderr
    done = command(root, "restore", run.name)
    assert done.returncode == 0, done.stderr
    assert files(lost) == files(run)
    assert (lost / "logs").is_dir()
    again = command(root, "restore", run.name)
    assert "nothing had to be done" in again.stdout


def test_nothing_half_is_restored(project: Path, run: Path, elsewhere: Path, shelf: Path) -> None:
    listing = outputs_of(run)["models/policy/model"]
    gone = shelf / "files/md5" / listing[:2] / listing[2:]
    kept = gone.read_bytes()
    gone.unlink()
    try:
        done = command(elsewhere, "restore", run.name, **records(project))
    finally:
        gone.write_bytes(kept)
    assert done.returncode == 2
    assert "1 of its" in done.stderr and "models/policy/model" in done.stderr and str(shelf) in done.stderr
    assert not (elsewhere / "runs").exists() or not list((elsewhere / "runs").iterdir())
    unknown = command(elsewhere, "restore", "20010101", **records(project))
    assert unknown.returncode == 2
    assert "No run's id begins with `20010101`" in unknown.stderr


def test_code_that_is_other_now_is_named(project: Path, run: Path, elsewhere: Path) -> None:
    """The commit is not in this checkout: the code of the checkout has to do."""
    shutil.rmtree(elsewhere / ".git")
    with (elsewhere / "tasks/ppo.py").open("a") as out:
        out.write("# another line\n")
    done = command(elsewhere, "restore", run.name, "--json", **records(project))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["other_code"] == ["tasks/ppo.py"]


def test_a_folder_that_exists_is_left_alone(project: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    done = command(project, "restore", run.name, "--to", str(tmp_path / "mine"))
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert command(project, "restore", run.name, "--to", str(tmp_path / "new")).returncode == 0
    assert files(tmp_path / "new") == files(run)


def test_the_shipped_checkout_has_no_remote() -> None:
    assert "remote" not in (CHECKOUT / ".dvc/config").read_text()
