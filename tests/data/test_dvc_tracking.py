"""A batch counts whether or not DVC can track it; why it cannot is said in a sentence."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbline.commands.machine import examine
from plumbline.data.changes import DataChange, add, remove
from plumbline.data.dvc_tracking import track, untracked
from plumbline.preferences.batches.arrivals import arrivals
from plumbline.preferences.reading.formats import Reading
from plumbline.project.home import Home
from plumbline.project.run_record import RunRecord
from plumbline.runs.restore import put_code
from plumbline.runs.run_files import Recorded
from plumbline.runs.workspace import git_state
from testing.fake_project import CHECKOUT


@pytest.fixture
def project(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A checkout that somebody unpacked from an archive: DVC's settings, but no git."""
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(CHECKOUT / file, home.root / file)
    shutil.copytree(CHECKOUT / ".dvc", home.root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "*.local"))
    pair = {"prompt": "How?", "chosen": "So.", "rejected": "No.", "annotator": "ada"}
    (home.root / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    monkeypatch.chdir(home.root)
    return home


def is_one_sentence(changed: DataChange) -> str:
    assert changed.written and changed.not_tracked is not None and "\n" not in changed.not_tracked
    return changed.not_tracked


def git(home: Home, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=home.root, check=True)


def test_without_git_a_batch_is_added_and_it_is_said_that_dvc_needs_git(project: Home) -> None:
    said = is_one_sentence(add(project, "pairs.jsonl", Reading()))
    assert "DVC cannot track the newest batches without git" in said and "`git init`" in said
    assert len(arrivals(project.preferences)) == 1
    said = is_one_sentence(remove(project, [], "ada", None, "withdrew"))
    assert "without git" in said
    again = add(project, "pairs.jsonl", Reading())
    assert again.already_there and "without git" in (again.not_tracked or "")
    git(project, "init", "-q")
    assert (track(project), untracked(project)) == (None, [])


def test_a_repository_without_commits_is_enough(project: Home) -> None:
    git(project, "init", "-q")
    assert add(project, "pairs.jsonl", Reading()).not_tracked is None
    assert untracked(project) == []


def no_dvc(home: Home) -> None:
    git(home, "init", "-q")
    shutil.rmtree(home.root / ".dvc")


def broken_settings(home: Home) -> None:
    git(home, "init", "-q")
    (home.root / ".dvc/config").write_text("[cache\n")


def no_room_for_the_cache(home: Home) -> None:
    git(home, "init", "-q")
    (home.root / ".dvc/config").write_text(f"[cache]\n    dir = {home.root / 'pairs.jsonl' / 'cache'}\n")


@pytest.mark.parametrize("spoil", [no_dvc, broken_settings, no_room_for_the_cache])
def test_whatever_else_keeps_dvc_from_it_the_batch_counts(project: Home, spoil: Callable[[Home], None]) -> None:
    spoil(project)
    assert "DVC does not track the newest batches yet" in is_one_sentence(add(project, "pairs.jsonl", Reading()))
    assert len(arrivals(project.preferences)) == 1


def test_without_the_program_git_too(project: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    git(project, "init", "-q")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert git_state(project.root) == (None, None)
    finding = next(one for one in examine(project) if one.about == "git")
    assert finding.status == "note" and "git is not installed" in finding.found
    recorded = RunRecord(id="20260101-000000-abcdef", created="", project="", pid=1, host="", git_commit="0" * 40)
    put_code(project, Recorded(recorded, tmp_path / "record", False), tmp_path)  # the checkout's, and no error
