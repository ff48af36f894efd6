"""What `plumbline doctor` says of the stores that it was told of."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from plumbline.commands import machine
from plumbline.commands.machine import MachineCheck
from plumbline.feedback.store import FeedbackStore
from plumbline.project.home import Home

GONE = "http://ada:hunter2@127.0.0.1:9"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in ("MLFLOW_TRACKING_URI", "PLUMBLINE_FEEDBACK_URL", "PREFECT_API_URL", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    return Home(tmp_path, tmp_path / ".plumbline")


def test_a_store_that_does_not_answer_is_broken_and_its_password_is_not_printed(
        project: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", GONE)
    monkeypatch.setenv("PREFECT_API_URL", f"{GONE}/api")
    monkeypatch.setenv("HF_ENDPOINT", GONE)
    found = {check.about: check for check in (machine._mlflow(project), machine._prefect(), machine._hub())}
    assert {about: check.status for about, check in found.items()} == {
        "mlflow store": "broken", "prefect server": "broken", "hub": "note"}
    assert found["mlflow store"].found.startswith("http://***@127.0.0.1:9 (MLFLOW_TRACKING_URI) cannot be used: ")
    for check in found.values():
        assert "http://***@127.0.0.1:9" in check.found and "hunter2" not in check.found


def test_the_database_of_mlflow_is_asked_and_gets_no_tables_by_that(
        project: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mlflow_database: Path) -> None:
    monkeypatch.setattr("plumbline.tracking.store.SQLITE", "none of these")  # as if it were on a server
    for name in ("empty.db", "broken.db"):
        sqlite3.connect(tmp_path / name).close()
    (tmp_path / "broken.db").write_bytes(b"no database" * 100)
    shutil.copy(mlflow_database, tmp_path / "made.db")

    def asked(name: str) -> MachineCheck:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / name}")
        return machine._mlflow(project)

    made, empty, broken = asked("made.db"), asked("empty.db"), asked("broken.db")
    assert made == MachineCheck("mlflow store", "ok", f"sqlite:///{tmp_path}/made.db (MLFLOW_TRACKING_URI)")
    assert (empty.status, (tmp_path / "empty.db").stat().st_size) == ("note", 0)
    assert "the first run will make MLflow's tables there" in empty.found
    assert broken.status == "broken" and "file is not a database" in broken.found


def test_an_answer_that_takes_too_long_is_none() -> None:
    import threading

    ever = threading.Event()
    assert machine._asked(ever.wait, 0.2) == (None, "nothing within 0 s")
    ever.set()
    assert machine._asked(lambda: 7, 5.0) == (7, None)


def test_the_feedback_store_is_opened(project: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = project.folder / "feedback.db"
    assert machine._feedback(project) == MachineCheck("feedback", "ok", f"sqlite:///{file} will be made by the first "
                                                                        "pair")
    assert not file.exists()
    FeedbackStore.open(project).close()
    assert machine._feedback(project) == MachineCheck("feedback", "ok", f"sqlite:///{file}")
    monkeypatch.setenv("PLUMBLINE_FEEDBACK_URL", "postgresql://ada:hunter2@127.0.0.1:9/feedback")
    found = machine._feedback(project)
    assert found.status == "broken" and "hunter2" not in found.found
    assert found.found.startswith("The feedback store postgresql+psycopg://***@127.0.0.1:9/feedback cannot be used: ")
    monkeypatch.setenv("PLUMBLINE_FEEDBACK_URL", "mysql://ada:hunter2@db/feedback")
    found = machine._feedback(project)
    assert found.status == "broken" and "hunter2" not in found.found
    assert "expected postgresql or sqlite" in found.found


def test_the_stores_are_among_what_is_examined(project: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_mlflow", "_feedback", "_compute", "_disk", "_git", "_clock", "_cache"):
        monkeypatch.setattr(machine, name, lambda _, name=name: MachineCheck(name, "ok", ""))
    for name in ("_prefect", "_hub"):
        monkeypatch.setattr(machine, name, lambda name=name: MachineCheck(name, "ok", ""))
    monkeypatch.setattr(machine, "_devices", list)
    assert {"_mlflow", "_feedback", "_prefect", "_hub"} <= {check.about for check in machine.examine(project)}
