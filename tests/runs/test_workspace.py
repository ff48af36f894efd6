"""A run's workspace, and what a request may ask for."""

import shutil
import time
from pathlib import Path

import pytest
from dvc.config import Config

from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.project.digests import digest
from plumbline.project.home import Home
from plumbline.project.run_record import read_record
from plumbline.runs.pipeline import open_workspace, resolve
from plumbline.runs.workspace import CODE, Request, init_dvc

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(home: Home) -> Home:
    for room in CODE:
        shutil.copytree(CHECKOUT / room, home.root / room)
    for file in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(CHECKOUT / file, home.root / file)
    return home


@pytest.mark.parametrize("name", ["a#b", "a, b", "it's a folder", "Übung %s"])
def test_stages_go_to_the_projects_cache_whatever_its_folder_is_called(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    root.mkdir()
    init_dvc(root, Home(root, root / ".plumbline"))
    assert Config(str(root / ".dvc"))["cache"]["dir"] == str(root / ".plumbline/cache")


def test_a_folder_that_dvc_cannot_name_is_refused(tmp_path: Path) -> None:
    root = tmp_path / """both ' and " """
    root.mkdir()
    with pytest.raises(UserError, match="has both kinds of quotes in its path"):
        init_dvc(root, Home(root, root / ".plumbline"))


def test_a_workspace_is_a_copy_that_dvc_sees_the_same(project: Home) -> None:
    request = Request(settings=["ppo.kl_coef=0.125"], force=["sft"])
    workspace = open_workspace(project, resolve(project, request), request)
    for room in CODE:
        assert digest(workspace.folder / room) == digest(project.root / room)
        assert not list((workspace.folder / room).rglob("__pycache__"))
    assert load_params(workspace.folder) == workspace.params
    assert workspace.params.ppo.kl_coef == 0.125
    record = read_record(workspace.folder)
    assert (record.status, record.force, record.project) == ("running", ["sft"], str(project.root))
    assert str(project.cache) in (workspace.folder / ".dvc/config").read_text()


def test_ids_sort_by_time(project: Home) -> None:
    first = open_workspace(project, resolve(project, Request()), Request())
    time.sleep(1.1)
    second = open_workspace(project, resolve(project, Request()), Request())
    assert first.folder.name < second.folder.name


@pytest.mark.parametrize(("request_", "words"), [
    (Request(until="reward"), "--until reward: there is no such stage. Did you mean `reward_"),
    (Request(force=["pppo"]), "--force pppo: there is no such stage. Did you mean `ppo`?"),
    (Request(until="xyz"), "The stages are snapshot, ingest, base"),
    (Request(params_file="missing.yaml"), "does not exist"),
])
def test_a_wrong_request_is_named(project: Home, request_: Request, words: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(project, request_)
    assert words in str(caught.value)


def test_a_workspace_has_the_remotes_of_the_checkout(project: Home) -> None:
    (project.root / ".dvc").mkdir()
    (project.root / ".dvc/config").write_text("[core]\n    remote = shelf\n"
                                              "['remote \"shelf\"']\n    url = ../shelf\n"
                                              "['remote \"bucket\"']\n    url = s3://kept/here\n")
    (project.root / ".dvc/config.local").write_text("['remote \"bucket\"']\n    secret_access_key = hidden\n")
    folder = open_workspace(project, resolve(project, Request()), Request()).folder
    found = Config(str(folder / ".dvc"))
    assert found["core"]["remote"] == "shelf"
    assert Path(found["remote"]["shelf"]["url"]) == project.root / "shelf"
    bucket = found["remote"]["bucket"]
    assert (bucket["url"], bucket["secret_access_key"]) == ("s3://kept/here", "hidden")
    assert Path(found["cache"]["dir"]) == project.cache
    assert (folder / ".dvc/config.local").stat().st_mode & 0o077 == 0
    assert "hidden" not in (folder / ".dvc/config").read_text()
