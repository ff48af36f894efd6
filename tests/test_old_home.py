"""What the version before made opens as before: its runs, models, data and pages; an interrupted run is retried."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from plumbline.preferences.types import row_id
from plumbline.project.digests import digest
from plumbline.project.home import Home
from testing.databases import Databases
from testing.fake_project import CHECKOUT, plumbline
from testing.in_process import command
from testing.old_home import FINISHED, KILLED, REFUSED, SECOND, unpack
from testing.sites import entered, visit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Path:
    root = unpack(tmp_path_factory.mktemp("old") / "project")
    databases.give(root / ".plumbline")
    return root


@pytest.fixture(scope="module")
def client(old: Path) -> Iterator[TestClient]:
    with entered(Home(old, old / ".plumbline")) as home, visit(home) as client:
        yield client


def said(root: Path, *arguments: str) -> object:
    done = command(root, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_its_runs_are_listed_and_shown(old: Path) -> None:
    runs = said(old, "runs")
    assert {run["id"]: run["status"] for run in runs} == {  # type: ignore[attr-defined]
        FINISHED: "finished", REFUSED: "failed", SECOND: "finished", KILLED: "killed"}
    shown = said(old, "show", FINISHED)
    assert {stage["status"] for stage in shown["stages"].values()} == {"ran"}  # type: ignore[index]
    assert "is too low" in command(old, "show", REFUSED).stdout


def test_its_pages_show_them(client: TestClient) -> None:
    pages = {"/": FINISHED, f"/runs/{REFUSED}": "is too low", f"/runs/{KILLED}": "killed", "/models": "champion",
             "/models/2": SECOND, "/data": "pairs.jsonl", "/lineage": "policy"}
    for path, text in pages.items():
        page = client.get(path)
        assert page.status_code == 200, path
        assert text in page.text, path


def test_its_data_is_known_row_by_row(old: Path) -> None:
    [added] = said(old, "data", "list")  # type: ignore[misc]
    assert (added["batch"]["source"], added["batch"]["rows"]) == ("pairs.jsonl", 20)
    first = next(old.glob("data/batches/*/rows.jsonl")).read_bytes().splitlines()[0]
    found = said(old, "data", "blame", row_id(first))
    assert [arrival["batch"]["source"] for arrival in found["batches"]] == ["pairs.jsonl"]  # type: ignore[index]
    assert not found["removed"]  # type: ignore[index]


def test_a_run_whose_folder_is_gone_is_restored(old: Path) -> None:
    model = old / "runs" / FINISHED / "models/policy/model"
    before = digest(model)
    shutil.rmtree(old / "runs" / FINISHED)
    said(old, "restore", FINISHED)
    assert digest(model) == before


def test_an_interrupted_run_is_retried_with_its_own_code(old: Path) -> None:
    shutil.copy(CHECKOUT / "params.yaml", old)  # as an update of the code brings it
    done = plumbline(old, "retry", KILLED, "--json", timeout=400)
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert again["status"] == "finished"
    stages = again["stages"]
    assert [name for name, stage in stages.items() if stage["status"] == "reused"] == [
        "snapshot", "ingest", "base", "sft", "reward_model", "reward_eval"]
    assert stages["promote"]["status"] == "ran"
    assert said(old, "show", "latest")["id"] == again["id"]  # type: ignore[index]
    assert (old / "runs" / again["id"] / "plumbline/lineage/home.py").exists()
