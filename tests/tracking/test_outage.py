"""MLflow's store goes away while a stage is recorded: the stage goes on, and everything arrives later, once."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from plumbline.project.home import Home
from plumbline.project.run_record import RunRecord
from plumbline.runs.stage_program import run_stage
from plumbline.runs.stage_run import StageRun
from plumbline.tracking.outbox import deliver, pending
from plumbline.tracking.receipts import Receipt
from plumbline.tracking.recording import Recording
from plumbline.tracking.registry import Registry
from plumbline.tracking.store import OURS, MlflowStore, is_away, prepare
from plumbline.tracking.writes import PARENT, CreateRun, LogInputs, LogMetrics, LogModel, LogParams, SetTags, now_ms

CHECKOUT = Path(__file__).resolve().parents[2]
DVC_YAML = """
stages:
  base:
    cmd: python -m tasks.base
    deps: [code.py]
    params: [seed, base]
    outs: [models/base/model, models/base/receipt.json]
    metrics: [models/base/metrics.json]
  sft:
    cmd: python -m tasks.sft
    deps: [models/base/model, code.py]
    params: [seed, sft]
    outs: [models/sft/model, models/sft/receipt.json]
    metrics: [models/sft/metrics.json]
"""
STEPS = 5


RUN = "20260101-000000-abcdef"


@pytest.fixture
def project(recording_home: Home) -> Home:
    return recording_home


class Server:
    """`mlflow server` over one database."""

    def __init__(self, folder: Path, database: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        folder.mkdir()
        shutil.copy(database, folder / "db")

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self._folder}/db",
                   "--artifacts-destination", str(self._folder / "files"), "--port", str(self.port), "--workers", "1"]
        self._process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL,
                                         stderr=subprocess.DEVNULL, cwd=self._folder,
                                         env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
        deadline = time.monotonic() + 90
        while not self._answers():
            assert time.monotonic() < deadline, "mlflow server did not start"
            time.sleep(0.2)

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                return True
        except OSError:
            return False


@pytest.fixture
def server(project: Home, tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(tmp_path / "server", mlflow_database)
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    try:
        yield server
    finally:
        server.kill()


def workspace(home: Home) -> Path:
    return home.runs / RUN


def in_a_run(home: Home) -> str:
    """Make a run's workspace, as the stages of `plumbline run` find it; returns the MLflow run of the whole."""
    prepare(home)
    parent = Recording(home, RUN, {})
    workspace(home).mkdir(parents=True)
    (workspace(home) / "dvc.yaml").write_text(DVC_YAML)
    (workspace(home) / "code.py").write_text("pass\n")
    shutil.copy(CHECKOUT / "params.yaml", workspace(home) / "params.yaml")
    record = RunRecord(id=RUN, created="2026-01-01T00:00:00+00:00", project=str(home.root), mlflow_run=parent.run_id,
                       pid=os.getpid(), host=socket.gethostname())
    record.save(workspace(home))
    return parent.run_id


def train(run: StageRun) -> None:
    for step in range(1, STEPS + 1):
        run.report(step, STEPS, {"loss": 1.0 / step}, "training")
    (run.folder / "model").mkdir()
    (run.folder / "model/weights").write_text(run.folder.name)
    run.finish({"loss": 0.25})


def receipt_of(home: Home, name: str) -> Receipt:
    return Receipt.model_validate_json((workspace(home) / f"models/{name}/receipt.json").read_text())


def check_delivered(home: Home, name: str, parent: str) -> None:
    """Everything that a stage records is in MLflow, once."""
    store, receipt = MlflowStore(home), receipt_of(home, name)
    run_id = store.find(receipt.mlflow_run)
    assert run_id is not None
    run = store.client.get_run(run_id)
    assert (run.info.run_name, run.info.status) == (name, "FINISHED")
    assert run.data.tags["mlflow.parentRunId"] == store.find(parent)
    assert run.data.params["seed"] == "0"
    assert run.data.tags["output.models/" + name + "/model"] == receipt.outputs[f"models/{name}/model"].md5
    points = store.client.get_metric_history(run_id, "training/loss")
    assert [(point.step, point.value) for point in points] == [(step, 1.0 / step) for step in range(1, STEPS + 1)]
    assert run.data.metrics["loss"] == 0.25
    assert {file.path for file in store.client.list_artifacts(run_id)} == {"metrics.json", "receipt.json"}
    made = receipt.outputs[f"models/{name}/model"].model_id
    assert made is not None
    assert [one.model_id for one in run.outputs.model_outputs] == [store.find(made)]
    same = store.client.search_runs([store.experiment], f"attributes.run_name = '{name}'")
    assert len(same) == 1


@pytest.mark.slow
def test_a_server_killed_in_the_middle_of_a_stage(project: Home, server: Server,
                                                  capfd: pytest.CaptureFixture[str]) -> None:
    parent = in_a_run(project)

    def killed_half_way(run: StageRun) -> None:
        server.kill()
        train(run)

    started = time.monotonic()
    run_stage(workspace(project), "base", killed_half_way)
    run_stage(workspace(project), "sft", train)  # begins and ends without the server
    assert time.monotonic() - started < 60
    printed = capfd.readouterr()
    assert "MLflow does not answer" in printed.err
    assert "View run" not in printed.out  # standard output is for our own answers
    assert not receipt_of(project, "base").mlflow_run.startswith(OURS)
    assert receipt_of(project, "sft").mlflow_run.startswith(OURS)
    assert len(pending(project)) == 2
    assert deliver(project) == 2

    server.start()
    assert deliver(project) == 0
    assert len(list(project.waiting.iterdir())) == 1  # the lock of the run, which has not ended
    check_delivered(project, "base", parent)
    check_delivered(project, "sft", parent)
    store, sft = MlflowStore(project), receipt_of(project, "sft")
    sft_run = store.client.get_run(store.find(sft.mlflow_run) or "")
    base_model = receipt_of(project, "base").outputs["models/base/model"].model_id or ""
    assert [one.model_id for one in sft_run.inputs.model_inputs] == [store.find(base_model)]
    # A model that MLflow learned of late is registered like any other.
    made = sft.outputs["models/sft/model"]
    version = Registry.open(project, "policy").register(made.md5, made.model_id or "", sft.mlflow_run, None, {})
    found = store.client.get_model_version("policy", str(version.version))
    assert (found.source, found.run_id) == (f"models:/{store.find(made.model_id or '')}", store.find(sft.mlflow_run))


@pytest.mark.slow
@pytest.mark.evidence
def test_a_locked_database(project: Home) -> None:
    parent = in_a_run(project)
    other = sqlite3.connect(project.folder / "mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        run_stage(workspace(project), "base", train)
        assert pending(project)
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert deliver(project) == 0
    check_delivered(project, "base", parent)


def test_a_database_that_is_gone_for_a_while(project: Home) -> None:
    parent = in_a_run(project)
    database, aside = project.folder / "mlflow.db", project.folder / "aside.db"
    database.rename(aside)
    run_stage(workspace(project), "base", train)
    assert not database.exists()  # no empty one was made in its place
    aside.rename(database)
    run_stage(workspace(project), "sft", train)  # a later stage delivers what an earlier one could not
    assert pending(project) == []
    for name in ("base", "sft"):
        check_delivered(project, name, parent)


def test_a_run_that_began_without_the_store_is_delivered_in_order(project: Home) -> None:
    database, aside = project.folder / "mlflow.db", project.folder / "aside.db"
    database.rename(aside)
    parent = Recording(project, "the run", {})
    child = Recording(project, "a stage", {PARENT: parent.run_id})
    parent.tags({"stage.base.run": child.run_id})
    child.end("FINISHED")
    parent.end("FINISHED")
    assert len(pending(project)) == 2
    aside.rename(database)
    assert deliver(project) == 0
    store = MlflowStore(project)
    parent_id, child_id = store.find(parent.run_id), store.find(child.run_id)
    assert parent_id and child_id
    assert store.client.get_run(child_id).data.tags[PARENT] == parent_id
    assert store.client.get_run(parent_id).data.tags["stage.base.run"] == child_id


def test_a_write_that_is_done_twice_leaves_the_same(project: Home) -> None:
    """Nobody knows whether a server that fell silent had done what it was asked for."""
    store = MlflowStore(project)
    create = CreateRun(id=OURS + "1", name="base", tags={}, start=now_ms())
    model = LogModel(id=OURS + "1-1", name="base", tags={"dvc.md5": "a.dir"})
    create.apply(store)
    run = store.known(create.id)
    model.apply(store, run)
    made = [store.known(model.id)]
    for again in (MlflowStore(project), MlflowStore(project)):
        create.apply(again)
        model.apply(again, run)
        assert (again.known(create.id), again.known(model.id)) == (run, made[0])
    for write in (LogParams(values={"seed": "0"}), LogInputs(data={"data/prepared": "b.dir"}, models=made),
                  LogMetrics(points=[("loss", 0.5, 1, 1000), ("loss", 0.25, 2, 2000)]), SetTags(values={"one": "two"})):
        for _ in range(2):
            write.apply(store, run)
    found = store.client.get_run(run)
    assert (len(found.inputs.dataset_inputs), len(found.inputs.model_inputs), len(found.outputs.model_outputs)) \
        == (1, 1, 1)
    assert [point.value for point in store.client.get_metric_history(run, "loss")] == [0.5, 0.25]


OLDER = (
    '{"do":"create","id":"local-0a","name":"sft","tags":{"mlflow.parentRunId":"local-0b"},"start":1000}',
    '{"do":"params","values":{"seed":"0"}}',
    '{"do":"inputs","data":{"data/prepared":"b.dir"},"models":[]}',
    '{"do":"metrics","points":[["loss",0.5,1,1000]]}',
    '{"do":"model","id":"local-0a-1","name":"sft","tags":{"dvc.md5":"a.dir"}}',
    '{"do":"tags","values":{"one":"two"}}',
    '{"do":"file","path":"FILE","folder":null}',
    '{"do":"end","status":"FINISHED","when":2000,"abandoned":false}',
    '{"do":"tags","val')


def test_what_an_older_version_left_is_delivered(project: Home) -> None:
    """Two runs, one the parent of the other, and a line that was cut off."""
    child, parent = project.waiting / "0a", project.waiting / "0b"
    (child / "files/0").mkdir(parents=True)
    (child / "files/0/metrics.json").write_text("{}")
    (child / "run").write_text("local-0a")
    (child / "writes.jsonl").write_text("\n".join(OLDER).replace("FILE", str(child / "files/0/metrics.json")))
    parent.mkdir()
    (parent / "run").write_text("local-0b")
    (parent / "writes.jsonl").write_text(
        '{"do":"create","id":"local-0b","name":"the run","tags":{},"start":900}\n'
        '{"do":"tags","values":{"stage.sft.run":"local-0a"}}\n')
    assert deliver(project) == 0
    assert list(project.waiting.iterdir()) == []
    store = MlflowStore(project)
    run_id, parent_id = store.find("local-0a") or "", store.find("local-0b") or ""
    run = store.client.get_run(run_id)
    assert (run.info.status, run.data.params, run.data.metrics) == ("FINISHED", {"seed": "0"}, {"loss": 0.5})
    assert (run.data.tags["one"], run.data.tags["mlflow.parentRunId"]) == ("two", parent_id)
    assert [one.model_id for one in run.outputs.model_outputs] == [store.find("local-0a-1")]
    assert [file.path for file in store.client.list_artifacts(run_id)] == ["metrics.json"]
    assert store.client.get_run(parent_id).data.tags["stage.sft.run"] == run_id


def test_a_text_with_other_line_separators_waits_whole(project: Home) -> None:
    """JSON leaves them as they are, and Python counts them as the ends of lines."""
    recording, text = Recording(project, "sft", {}), "one\u2028two\u2029three\x85four"
    database, aside = project.folder / "mlflow.db", project.folder / "aside.db"
    database.rename(aside)
    recording.tags({"reason": text})
    aside.rename(database)
    assert deliver(project) == 0
    assert MlflowStore(project).client.get_run(recording.run_id).data.tags["reason"] == text


def test_a_run_that_was_deleted_does_not_hold_up_the_others(project: Home) -> None:
    first, second = Recording(project, "one", {}), Recording(project, "two", {})
    database, aside = project.folder / "mlflow.db", project.folder / "aside.db"
    database.rename(aside)
    first.tags({"a": "b"})
    second.tags({"a": "b"})
    aside.rename(database)
    store = MlflowStore(project)
    store.client.delete_run(first.run_id)
    assert deliver(project) == 0
    assert store.client.get_run(second.run_id).data.tags["a"] == "b"


def test_a_full_disk_is_not_a_store_that_is_away() -> None:
    assert not is_away(OSError(28, "No space left on device"))
    assert not is_away(ValueError("a bug"))
