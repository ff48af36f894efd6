"""What `dvc repro` would do with a stage's files, done in our own process."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from plumbline.errors import UserError
from plumbline.project.digests import cached_file, digest
from plumbline.project.dvc_yaml import lock_entry
from plumbline.project.home import Home
from plumbline.runs import dvc_stage
from plumbline.runs.workspace import init_dvc

DVC_YAML = """
stages:
  one:
    cmd: python make.py
    deps: [make.py]
    outs: [out, note.txt]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    init_dvc(tmp_path, Home(tmp_path, tmp_path))
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "make.py").write_text("")
    return tmp_path


def make(root: Path, text: str) -> None:
    """What the stage's command would leave."""
    (root / "out").mkdir(exist_ok=True)
    (root / "out/a.txt").write_text(text)
    (root / "note.txt").write_text("a note")


def test_a_stage_kept_is_one_that_dvc_finds_done(project: Path) -> None:
    make(project, "1")
    dvc_stage.commit(project, "one")
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", "one"], cwd=project, capture_output=True, text=True,
                          check=True)
    assert "didn't change" in done.stdout


def test_what_was_kept_comes_back(project: Path) -> None:
    make(project, "1")
    dvc_stage.commit(project, "one")
    dvc_stage.clear(project, "one")
    assert not (project / "out").exists() and not (project / "note.txt").exists()
    assert dvc_stage.restore(project, "one")
    assert (project / "out/a.txt").read_text() == "1"
    (project / "make.py").write_text("print()")
    assert not dvc_stage.restore(project, "one")


def test_two_stages_stand_in_the_lock_as_dvc_writes_them(project: Path) -> None:
    with (project / "dvc.yaml").open("a") as out:
        out.write("  two:\n    cmd: [echo 'yes', 'true']\n    deps: [note.txt]\n    outs: [late.txt]\n")
    make(project, "1")
    (project / "late.txt").write_text("late")
    dvc_stage.commit(project, "one")
    dvc_stage.commit(project, "two")
    ours = (project / "dvc.lock").read_text()
    subprocess.run([sys.executable, "-m", "dvc", "commit", "--force"], cwd=project, check=True, capture_output=True)
    assert YAML(typ="safe").load(ours) == YAML(typ="safe").load(project / "dvc.lock")
    assert list(YAML(typ="safe").load(ours)["stages"]) == ["one", "two"]


def spoil(file: Path, text: str) -> None:
    """Leave other bytes under the name of a cached file, and protected, as a power loss does."""
    file.chmod(0o644)
    file.write_text(text)
    file.chmod(0o444)


@pytest.mark.parametrize("text", ["", "2"])
@pytest.mark.parametrize("which", ["out/a.txt", "note.txt"])
def test_what_is_damaged_in_the_cache_is_not_restored_but_made_again(
        project: Path, capsys: pytest.CaptureFixture[str], which: str, text: str) -> None:
    make(project, "1")
    dvc_stage.commit(project, "one")
    lock = (project / "dvc.lock").read_text()
    cached = cached_file(project / "cache", digest(project / which))
    spoil(cached, text)
    dvc_stage.clear(project, "one")
    assert not dvc_stage.restore(project, "one")
    assert "left before was damaged in the cache: 1 of its files" in capsys.readouterr().err
    assert not cached.exists() and (project / "dvc.lock").read_text() == lock
    dvc_stage.clear(project, "one")
    make(project, "1")
    dvc_stage.commit(project, "one")
    dvc_stage.clear(project, "one")
    assert dvc_stage.restore(project, "one")
    assert digest(cached) == digest(project / which)


def test_a_damaged_listing_is_replaced_when_the_stage_has_run_again(project: Path) -> None:
    make(project, "1")
    dvc_stage.commit(project, "one")
    listing = cached_file(project / "cache", digest(project / "out"))
    whole = listing.read_text()
    spoil(listing, "")
    dvc_stage.clear(project, "one")
    assert not dvc_stage.restore(project, "one")
    make(project, "1")
    dvc_stage.commit(project, "one")
    assert listing.read_text() == whole
    dvc_stage.clear(project, "one")
    assert dvc_stage.restore(project, "one")


def test_a_lock_that_another_process_holds_is_waited_for(project: Path, capsys: pytest.CaptureFixture[str],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    make(project, "1")
    other = Repo(str(project))
    monkeypatch.setattr("dvc.lock.DEFAULT_TIMEOUT", 0.06)
    other.lock.lock()
    release = threading.Timer(0.3, other.lock.unlock)
    release.start()
    dvc_stage.commit(project, "one")
    release.join()
    assert capsys.readouterr().err == f"Waiting for DVC's lock of {project}, which another process has.\n"
    monkeypatch.setattr(dvc_stage, "LOCK_SECONDS", 0.0)
    with other.lock, pytest.raises(UserError, match="has had DVC's lock of"):
        dvc_stage.restore(project, "one")


def test_clearing_needs_no_outputs(project: Path) -> None:
    dvc_stage.clear(project, "one")
    assert lock_entry(project, "one") is None


def test_outputs_that_are_not_there_are_named(project: Path) -> None:
    (project / "note.txt").write_text("a note")
    with pytest.raises(UserError, match=r"stage `one`.*output 'out' does not exist"):
        dvc_stage.commit(project, "one")
    assert lock_entry(project, "one") is None


def test_a_file_that_the_cache_does_not_take_is_no_success(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make(project, "1")
    in_the_way = cached_file(Home(project, project).cache, digest(project / "out/a.txt")).parent
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("a file where a folder must be")
    with pytest.raises(UserError, match="could not be kept in the cache"):
        dvc_stage.commit(project, "one")
    assert lock_entry(project, "one") is None
    assert capfd.readouterr().err == "", "the message says it all"



def test_a_draft_of_another_run_in_the_run_cache_is_waited_out(tmp_path: Path) -> None:
    draft = tmp_path / ".F8ejVz84.tmp"
    draft.symlink_to("renamed at this moment")
    read = []

    def look() -> None:
        read.append(draft.exists())
        if len(read) == 3:
            draft.unlink()
        for file in tmp_path.iterdir():
            file.read_text()

    dvc_stage._again_if_disturbed(look)
    assert len(read) == 3
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml"):
        dvc_stage._again_if_disturbed((tmp_path / "gone.yaml").read_text)
