"""What a person can do to MLflow's store: delete what is recorded, damage the file, use it with another version."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbline.commands.machine import examine
from plumbline.errors import UserError
from plumbline.history.history import History
from plumbline.project.home import Home
from plumbline.project.run_record import run_folders
from plumbline.retraining.due import due
from plumbline.runs.pipeline import pipeline_run
from plumbline.runs.run_files import recorded
from plumbline.runs.workspace import Request
from plumbline.tracking.outbox import PATIENCE, deliver, patiently, pending
from plumbline.tracking.recording import TRIGGER, Recording
from plumbline.tracking.registry import Registry
from plumbline.tracking.store import (
    EXPERIMENT,
    asking_mlflow,
    broken_store,
    connect,
    deleted_experiment,
    experiment,
    prepare,
)
from testing.fake_project import CHECKOUT
from testing.servers import free_port

RUN = {TRIGGER: "test", "plumbline.pipeline_run": "20260101-000000-abcdef"}


@pytest.fixture
def project(recording_home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    for file in ("params.yaml", "dvc.yaml"):
        shutil.copy(CHECKOUT / file, recording_home.root / file)
    recording_home.artifacts.mkdir()
    monkeypatch.chdir(recording_home.root)
    return recording_home


def delete_experiment(home: Home) -> str:
    client = connect(home)
    found = client.get_experiment_by_name(EXPERIMENT)
    client.delete_experiment(found.experiment_id)
    return str(found.experiment_id)


def stage_of(home: Home, run: str) -> str:
    return str(connect(home).get_run(run).info.lifecycle_stage)


def test_a_deleted_experiment_is_restored_with_a_sentence_by_the_next_run(
        project: Home, capsys: pytest.CaptureFixture[str]) -> None:
    old = Recording(project, "old", RUN)
    old.end("FINISHED")
    experiment = delete_experiment(project)
    capsys.readouterr()
    prepare(project)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "`plumbline` had been deleted in MLflow" in said and "restored" in said
    new = Recording(project, "new", RUN)
    new.end("FINISHED")
    found = connect(project).search_runs([experiment])
    assert {run.info.run_id: run.info.status for run in found} == {old.run_id: "FINISHED", new.run_id: "FINISHED"}


@pytest.mark.parametrize("delete", [lambda home, run: delete_experiment(home),
                                    lambda home, run: connect(home).delete_run(run)],
                         ids=["experiment", "run"])
def test_what_is_deleted_while_it_is_recorded_comes_back_and_lacks_nothing(
        project: Home, delete: Callable[[Home, str], object], capsys: pytest.CaptureFixture[str]) -> None:
    recording = Recording(project, "sft", RUN)
    recording.params({"sft.epochs": 2})
    delete(project, recording.run_id)
    recording.tags({"stage.sft": "ran"})
    recording.point("loss", 0.5, 1)
    model = recording.model("sft", {"dvc.md5": "0" * 32})
    recording.end("FINISHED")
    run = connect(project).get_run(recording.run_id)
    assert (run.info.lifecycle_stage, run.info.status) == ("active", "FINISHED")
    assert (run.data.params, run.data.metrics) == ({"sft.epochs": "2"}, {"loss": 0.5})
    assert run.data.tags["stage.sft"] == "ran"
    assert [one.model_id for one in run.outputs.model_outputs] == [model]
    assert capsys.readouterr().err.count("had been deleted in MLflow") == 1


def test_reading_restores_nothing_and_says_what_is_wrong(project: Home, capsys: pytest.CaptureFixture[str]) -> None:
    recording = Recording(project, "20260101-000000-abcdef", RUN)
    recording.end("FINISHED")
    history = History(project)
    history.refresh()
    seen = dict(history.runs)
    assert len(seen) == 1
    delete_experiment(project)

    def restore() -> None:
        with recorded(project, "20260101"):
            pass

    for look in (history.refresh, History(project).refresh, restore):
        with pytest.raises(UserError, match="experiment `plumbline` was deleted in MLflow"):
            look()
    assert history.runs == seen  # what was read before stays
    finding = next(one for one in examine(project) if one.about == "mlflow store")
    assert (finding.status, "was deleted in MLflow" in finding.found) == ("note", True)
    assert due(project).enough
    assert stage_of(project, recording.run_id) == "deleted"
    prepare(project)
    history.refresh()
    assert history.runs.keys() == seen.keys()


def test_a_registered_model_that_was_deleted_is_begun_anew(project: Home) -> None:
    def register() -> int:
        recording = Recording(project, "ppo", RUN)
        model = recording.model("policy", {})
        registry = Registry.open(project, "policy")
        version = registry.register("1" * 32, model, recording.run_id, None, {}).version
        registry.make_champion(version, "the first", "test")
        return version

    assert register() == 1
    connect(project).delete_registered_model("policy")
    registry = Registry.open(project, "policy")
    assert (registry.champion(), registry.versions(), registry.find("1" * 32)) == (None, [], None)
    assert due(project).since is None
    assert register() == 1
    champion = Registry.open(project, "policy").champion()
    assert champion is not None and champion.version == 1


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garbage(file: Path) -> None:
    file.write_bytes(os.urandom(5000))


def of_another_version(file: Path) -> None:
    with sqlite3.connect(file) as store:
        store.execute("update alembic_version set version_num = 'ffffffffffff'")
    store.close()


@pytest.mark.parametrize(("spoil", "words"), [(half, "is damaged"), (garbage, "is damaged"),
                                              (of_another_version, "another version of MLflow")])
def test_a_store_that_cannot_be_used_is_said_in_a_paragraph_and_no_run_begins(
        project: Home, spoil: Callable[[Path], None], words: str) -> None:
    spoil(project.folder / "mlflow.db")

    def run() -> None:
        with pipeline_run(Request()):
            pass

    for use in (run, lambda: due(project), lambda: Registry.open(project, "policy").champion(),
                lambda: Recording(project, "sft", RUN), History(project).refresh):
        with pytest.raises(UserError, match=words) as caught:
            use()
        assert "\n" not in str(caught.value) and "SELECT" not in str(caught.value)
        assert str(project.folder / "mlflow.db") in str(caught.value)
    assert not list(project.runs.glob("*"))
    finding = next(one for one in examine(project) if one.about == "mlflow store")
    assert finding.status == "broken" and words in finding.found


def test_a_delivery_that_meets_a_damaged_store_loses_nothing(project: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    other = project.folder / "other.db"
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
        recording = Recording(project, "sft", RUN)  # it is not there
        recording.end("FINISHED")
        garbage(other)
        with pytest.raises(UserError, match="is damaged"):
            deliver(project)
        assert len(pending(project)) == 1
    assert deliver(project) == 0
    found = connect(project).search_runs([experiment(connect(project), project)])
    assert [(run.info.run_name, run.info.status) for run in found] == [("sft", "FINISHED")]


def test_damage_that_is_met_later_is_known_too(tmp_path: Path) -> None:
    """Where only some pages of the file are damaged, it can be opened."""
    file = tmp_path / "some.db"
    with sqlite3.connect(file) as store:
        store.execute("create table runs (name text)")
        store.executemany("insert into runs values (?)", [("x" * 100,)] * 1000)
    store.close()
    content = file.read_bytes()
    file.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    store = sqlite3.connect(file)
    with pytest.raises(sqlite3.DatabaseError) as caught:
        store.execute("select * from runs").fetchall()
    store.close()
    assert "is damaged" in str(broken_store("here", caught.value))
    assert broken_store("here", sqlite3.OperationalError("database is locked")) is None


def test_a_run_whose_record_cannot_be_begun_leaves_no_workspace(project: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    for place in ("plumbline.runs.pipeline.Recording", "plumbline.runs.pipeline._upload",
                  "plumbline.runs.workspace.init_dvc"):
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(place, fail)
            with pipeline_run(Request()):
                pass
        assert not list(project.runs.glob("*"))
    assert run_folders(project) == []


def ask_with_patience(home: Home) -> None:
    patiently(home, lambda: connect(home).get_experiment_by_name(EXPERIMENT))


def ask_once(home: Home) -> None:
    with asking_mlflow(home, "."):
        connect(home).get_experiment_by_name(EXPERIMENT)


@pytest.mark.parametrize("ask", [lambda home: History(home).refresh(), due, ask_with_patience, ask_once],
                         ids=["history", "due", "patiently", "asking"])
def test_no_message_has_the_password_of_a_store_that_is_away(
        project: Home, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Home], object]) -> None:
    """MLflow's own words repeat the address, too."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:s3cret@127.0.0.1:{(port := free_port())}/mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv(PATIENCE, "0")
    with pytest.raises(UserError, match=rf"http://\*\*\*@127.0.0.1:{port}/mlflow") as caught:
        ask(project)
    assert "s3cret" not in str(caught.value)


def test_nor_has_one_about_a_store_that_is_broken_or_in_the_trash(
        project: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "postgresql://ada:s3cret@db/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for said in ("file is not a database", "Detected out-of-date database schema"):
        assert "store postgresql://***@db/mlflow" in str(broken_store(uri, ValueError(f"{said} at {uri}")))
        assert "s3cret" not in str(broken_store(uri, ValueError(f"{said} at {uri}")))
    assert "at postgresql://***@db/mlflow, and" in deleted_experiment(project)
