"""A run that died without a word is found, and closed in its record and in MLflow."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from plumbline.errors import UserError
from plumbline.project.flow_processes import any_died, has_died, note_flow
from plumbline.project.home import Home
from plumbline.project.locks import file_lock
from plumbline.project.processes import local_process
from plumbline.project.run_record import RunRecord, read_record
from plumbline.runs.cancel import cancel, mark_dead
from plumbline.runs.retry import retry_request
from plumbline.tracking.outbox import Outbox, close, deliver, pending
from plumbline.tracking.recording import TRIGGER, Recording
from plumbline.tracking.store import OURS, connect
from plumbline.tracking.writes import PARENT

RUN = "20260101-000000-abcdef"


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def recording(home: Home, name: str, tags: dict[str, str]) -> Recording:
    """A recording whose outbox sorts behind MLflow's id, by which some would name it."""
    while (found := Recording(home, name, tags)).outbox.removeprefix(OURS) < found.run_id:
        pass
    return found


def a_run(home: Home, pid: int, host: str | None = None, older: bool = False) -> tuple[RunRecord, Recording, Recording]:
    """A run in whose first stage its process is; its record, and the MLflow runs of the whole and of the stage.

    What an older version wrote does not say which outboxes are theirs.
    """
    whole = recording(home, RUN, {})
    stage = recording(home, "base", {PARENT: whole.run_id})
    folder = home.runs / RUN
    (folder / "logs").mkdir(parents=True)
    begun = {"mlflow_run": stage.run_id, **({} if older else {"outbox": stage.outbox})}
    (folder / "logs/base.progress.jsonl").write_text(json.dumps(begun) + '\n{"step": 1, "tot')
    record = RunRecord(id=RUN, created="2026-01-01T00:00:00+00:00", project=str(home.root), mlflow_run=whole.run_id,
                       outbox=None if older else whole.outbox, pid=pid, pid_began=local_process(pid).began,
                       host=host or socket.gethostname())
    record.save(folder)
    return record, whole, stage


def statuses(home: Home, *recordings: Recording) -> list[str]:
    client = connect(home)
    return [client.get_run(one.run_id).info.status for one in recordings]


@pytest.mark.parametrize("older", [False, True])
def test_a_killed_run_is_closed_everywhere(recording_home: Home, process: "subprocess.Popen[bytes]",
                                           older: bool) -> None:
    home = recording_home
    _, whole, stage = a_run(home, process.pid, older=older)
    assert mark_dead(home) == []
    assert read_record(home.runs / RUN).status == "running"
    process.kill()
    process.wait()
    assert mark_dead(home) == [RUN]
    record = RunRecord.model_validate_json((home.runs / RUN / "run.json").read_text())
    assert (record.status, record.message) == ("killed", "Its process was gone without a word: killed, or the machine "
                                                         "went down.")
    assert record.ended is not None
    assert statuses(home, whole, stage) == ["KILLED", "KILLED"]
    assert connect(home).get_run(whole.run_id).data.tags["status"] == "killed"
    assert mark_dead(home) == []


def test_the_end_of_a_killed_run_is_not_lost_while_another_process_delivers_what_waits(recording_home: Home) -> None:
    stage = Recording(recording_home, "base", {})
    delivering, done = threading.Event(), threading.Event()

    def deliver_slowly() -> None:
        with file_lock(Outbox(recording_home, stage.run_id).lock):
            delivering.set()
            done.wait(0.3)

    other = threading.Thread(target=deliver_slowly)
    other.start()
    assert delivering.wait(5)
    close(recording_home, stage.run_id)
    other.join()
    assert statuses(recording_home, stage) == ["KILLED"]


def test_a_process_that_nobody_has_waited_for_is_dead(process: "subprocess.Popen[bytes]") -> None:
    running = local_process(process.pid)
    assert running.has_ended() is False
    process.kill()
    deadline = time.monotonic() + 10
    while not running.has_ended():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_another_process_with_the_number_of_the_run(recording_home: Home) -> None:
    record, _, _ = a_run(recording_home, os.getpid())
    assert read_record(recording_home.runs / RUN).status == "running"
    assert record.pid_began is not None
    record.pid_began -= 1
    record.save(recording_home.runs / RUN)
    assert mark_dead(recording_home) == [RUN]


def test_a_run_of_another_machine_is_left_alone(recording_home: Home, process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    a_run(recording_home, process.pid, host="elsewhere")
    assert mark_dead(recording_home) == []


def lost_machine(home: Home) -> tuple[Recording, Recording]:
    """A run that goes on elsewhere, by MLflow's record: no workspace is here. The MLflow runs of it and its stage."""
    record, whole, stage = a_run(home, 1, host="elsewhere")
    folder = home.runs / RUN
    for name in ("params.yaml", "dvc.yaml"):
        (folder / name).write_text("{}\n")
    whole.tags({TRIGGER: "test"})
    for file in ("run.json", "params.yaml", "dvc.yaml"):
        whole.file(folder / file, "record")
    shutil.rmtree(folder)
    assert record.host == "elsewhere"
    return whole, stage


def test_a_run_of_a_lost_machine_is_closed_and_then_retried(recording_home: Home) -> None:
    home = recording_home
    whole, stage = lost_machine(home)
    with pytest.raises(UserError, match=f"The run {RUN} is going on"):
        retry_request(home, RUN, new_code=False)
    with pytest.raises(UserError, match="There are no runs"):
        cancel(home, RUN)
    assert cancel(home, RUN, gone=True) == (RUN, "killed")
    assert statuses(home, whole, stage) == ["KILLED", "KILLED"]
    assert connect(home).get_run(whole.run_id).data.tags["status"] == "killed"
    assert retry_request(home, RUN, new_code=False).retry_of == RUN
    assert not list(home.runs.iterdir())
    with pytest.raises(UserError, match=f"The run {RUN} is not going on: it is killed"):
        cancel(home, RUN, gone=True)


@pytest.mark.parametrize("here", [False, True])
def test_a_run_that_has_finished_elsewhere_is_not_recorded_as_killed(recording_home: Home, here: bool) -> None:
    """Its record that is here says otherwise: it is a copy of one that was restored while the run went on."""
    home = recording_home
    if here:
        record, whole, _ = a_run(home, 1, host="elsewhere")
        assert record.status == "running"
    else:
        whole, _ = lost_machine(home)
    whole.tags({"status": "finished"})
    whole.end("FINISHED")
    with pytest.raises(UserError, match=f"The run {RUN} has ended on elsewhere: MLflow says FINISHED"):
        cancel(home, RUN, gone=True)
    found = connect(home).get_run(whole.run_id)
    assert (found.info.status, found.data.tags["status"]) == ("FINISHED", "finished")


def test_a_run_of_a_lost_machine_is_not_closed_while_mlflow_is_away(recording_home: Home) -> None:
    a_run(recording_home, 1, host="elsewhere")
    (recording_home.folder / "mlflow.db").rename(recording_home.folder / "aside.db")
    with pytest.raises(UserError, match=r"mlflow.db is not there"):
        cancel(recording_home, RUN, gone=True)
    assert read_record(recording_home.runs / RUN).status == "running"


def test_a_workspace_that_gc_deletes_at_this_moment_is_no_dead_run(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plumbline.runs.cancel.run_folders", lambda home: [home.runs / RUN])
    assert mark_dead(home) == []


def test_a_stage_that_had_ended_stays_as_it_is(recording_home: Home, process: "subprocess.Popen[bytes]") -> None:
    _, whole, stage = a_run(recording_home, process.pid)
    stage.end("FINISHED")
    process.kill()
    process.wait()
    mark_dead(recording_home)
    assert statuses(recording_home, whole, stage) == ["KILLED", "FINISHED"]


def test_while_the_store_is_away_the_record_is_marked_and_mlflow_later(recording_home: Home,
                                                                       process: "subprocess.Popen[bytes]") -> None:
    home = recording_home
    _, whole, stage = a_run(home, process.pid)
    process.kill()
    process.wait()
    database, aside = home.folder / "mlflow.db", home.folder / "aside.db"
    database.rename(aside)
    assert mark_dead(home) == [RUN]
    aside.rename(database)
    assert deliver(home) == 0
    assert statuses(home, whole, stage) == ["KILLED", "KILLED"]


def test_what_waits_of_a_killed_run_does_not_undo_its_end(recording_home: Home, tmp_path: Path,
                                                         process: "subprocess.Popen[bytes]") -> None:
    home = recording_home
    _, whole, stage = a_run(home, process.pid)
    database, aside = home.folder / "mlflow.db", home.folder / "aside.db"
    database.rename(aside)
    whole.tags({"status": "running"})
    whole.file(home.runs / RUN / "run.json", "record")
    stage.tags({"host.cpus": "2"})
    process.kill()
    process.wait()
    assert mark_dead(home) == [RUN]
    assert len(pending(home)) == 2  # one outbox a run
    aside.rename(database)
    assert deliver(home) == 0
    client = connect(home)
    assert statuses(home, whole, stage) == ["KILLED", "KILLED"]
    assert client.get_run(whole.run_id).data.tags["status"] == "killed"
    kept = client.download_artifacts(whole.run_id, "record/run.json", str(tmp_path))
    assert json.loads(Path(kept).read_text())["status"] == "killed"


def test_the_number_of_a_dead_process_may_be_that_of_another_user_s(home: Home,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", "before the reboot")
    note_flow(home)
    file = home.folder / "flows" / "before the reboot"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pid": 1, "born": "999999999999"}))

    def refused(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)
    assert has_died(home, "before the reboot")


def test_a_flow_run_whose_process_is_gone_is_noticed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any_died(home)
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", "lives")
    note_flow(home)
    assert not any_died(home)
    note = ("from pathlib import Path; from plumbline.project.home import Home; "
            "from plumbline.project.flow_processes import note_flow; "
            f"note_flow(Home(Path({str(home.root)!r}), Path({str(home.folder)!r})))")
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", "dies")
    subprocess.run([sys.executable, "-c", note], check=True)
    assert (has_died(home, "lives"), has_died(home, "dies"), any_died(home)) == (False, True, True)
