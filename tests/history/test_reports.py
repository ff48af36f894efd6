"""A run's files are found in MLflow's artifacts or its workspace, and nothing else on the machine is."""

import json
import os
from pathlib import Path

import pytest
from mlflow import MlflowClient

from plumbline.history import reports
from plumbline.history.history import History, Run, Step
from plumbline.history.reports import LARGEST, ArtifactFiles, Curve, Reports
from plumbline.project.home import Home
from plumbline.tracking.receipts import Receipt
from plumbline.tracking.store import connect

RUN = "0" * 32
DVC_YAML = """stages:
  ppo:
    cmd: python -m tasks.ppo
    outs: [models/policy/model, models/policy/curves.jsonl, models/policy/receipt.json]
  ingest:
    cmd: python -m tasks.ingest
    outs: [data/prepared, reports/data, data/ingest/receipt.json]
"""


def step(stage: str, mlflow_run: str | None, made_by: str | None) -> Step:
    return Step(stage, "ran", "", 1.0, None, "1", mlflow_run, made_by, {}, {}, {}, {}, {})


def made(folder: Path | None, id: str = "20261120-100000-aaaaaa", **steps: Step) -> Run:
    return Run(id, "2026-11-20T10:00:00+00:00", None, "finished", None, "command line", None, (), None, None, None, "",
               "", {}, steps, None, (), folder)


@pytest.fixture
def artifacts(home: Home) -> Path:
    """The folder of one MLflow run's files, with one in it."""
    folder = home.artifacts / RUN / "artifacts"
    (folder / "report").mkdir(parents=True)
    (folder / "report" / "report.md").write_text("inside")
    (home.folder / "token").write_text("secret")
    return folder


def test_a_file_of_the_run_is_read(home: Home, artifacts: Path) -> None:
    file = ArtifactFiles(home).file(RUN, "report/report.md")
    assert file is not None and file.read_text() == "inside"
    assert ArtifactFiles(home).file(RUN, "report/other.md") is None
    assert ArtifactFiles(home).file(RUN, "report") is None


def test_nothing_outside_of_the_run_is(home: Home, artifacts: Path) -> None:
    (artifacts / "link").symlink_to(home.folder / "token")
    (artifacts / "folder").symlink_to(home.folder)
    (artifacts / "fifo").parent.mkdir(exist_ok=True)
    os.mkfifo(artifacts / "fifo")
    outside = str(home.folder / "token")
    for name in ("../../../token", "link", "folder/token", outside, "report/../../../../token", "fifo"):
        assert ArtifactFiles(home).file(RUN, name) is None, name
    for run in ("..", "../" + RUN, RUN + "/artifacts", "", "x" * 32, RUN.upper() + "a"):
        assert ArtifactFiles(home).file(run, "report/report.md") is None, run


def test_a_file_that_is_too_large_is_not_shown(home: Home, artifacts: Path) -> None:
    with (artifacts / "large").open("wb") as out:
        out.truncate(LARGEST + 1)
    assert ArtifactFiles(home).file(RUN, "large") is None


def test_an_artifact_store_elsewhere_on_this_machine_is_left_alone(home: Home, tmp_path: Path) -> None:
    """The records say where files are, and records are not believed that far."""
    client = connect(home)
    (tmp_path / "elsewhere").mkdir()
    experiment = client.create_experiment("other", artifact_location=(tmp_path / "elsewhere").as_uri())
    run = client.create_run(experiment).info.run_id
    client.log_text(run, "text", "report.md")
    assert ArtifactFiles(home).file(run, "report.md") is None


@pytest.mark.slow
def test_a_store_of_another_machine_is_asked_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    boto3, server = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3 = server.ThreadedMotoServer(port=0)
    s3.start()
    try:
        host, port = s3.get_host_and_port()
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{host}:{port}")
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="plumbline")
        client: MlflowClient = connect(home)
        run = client.create_run(client.create_experiment("far", artifact_location="s3://plumbline/a")).info.run_id
        client.log_text(run, "from afar", "report/report.md")
        found = ArtifactFiles(home).file(run, "report/report.md")
        assert found is not None and found.read_text() == "from afar"
        assert ArtifactFiles(home).file(run, "report/nothing.md") is None
    finally:
        s3.stop()
    again = ArtifactFiles(home).file(run, "report/report.md")  # its store does not answer any more
    assert again is not None and again.read_text() == "from afar"
    assert ArtifactFiles(home).file(run, "report/unknown.md") is None


def test_a_silent_store_keeps_a_page_waiting_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def silent(_home: Home) -> MlflowClient:
        asked.append("MLflow")
        clock.append(clock[-1] + 30.0)
        raise ConnectionError("http://ada:s3cret@far/ does not answer")

    clock = [1000.0]
    monkeypatch.setattr("plumbline.history.reports.time.monotonic", lambda: clock[-1])
    monkeypatch.setattr(reports, "connect", silent)
    files = ArtifactFiles(home)
    for name in ("receipt.json", "curves.jsonl", "receipt.json"):
        assert files.file(RUN, name) is None
    assert files.file("1" * 32, "receipt.json") is None
    assert len(asked) == 1
    clock.append(clock[-1] + reports.ASK_AGAIN_SECONDS)
    assert files.file(RUN, "curves.jsonl") is None
    assert len(asked) == 2


def test_what_is_on_this_machine_is_not_asked_of_mlflow(home: Home, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "connect", lambda _home: pytest.fail("MLflow was asked"))
    folder = tmp_path / "run"
    for file in ("models/policy/curves.jsonl", "reports/data/report.json", "comparison/comparison.json"):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text("{}")
    (folder / "dvc.yaml").write_text(DVC_YAML)
    history = History(home)
    maker = made(folder, ppo=step("ppo", RUN, None), ingest=step("ingest", RUN, None))
    user = made(None, "20261120-110000-bbbbbb", ppo=step("ppo", RUN, maker.id))
    history.runs = {user.id: user, maker.id: maker}
    for run in (maker, user):
        assert Reports(history).file(run, "ppo", "curves.jsonl") == folder / "models/policy/curves.jsonl"
    assert Reports(history).data_report(maker) == {}
    assert Reports(history).of_comparison(maker, "comparison.json") == folder / "comparison/comparison.json"


def test_a_workspace_that_is_restored_after_a_page_missed_it_is_read(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = made(folder, ppo=step("ppo", None, None))
    assert Reports(History(home)).file(run, "ppo", "curves.jsonl") is None
    (folder / "models/policy").mkdir(parents=True)
    (folder / "models/policy/curves.jsonl").write_text("")
    (folder / "dvc.yaml").write_text(DVC_YAML)
    assert Reports(History(home)).file(run, "ppo", "curves.jsonl") == folder / "models/policy/curves.jsonl"


def test_curves_are_read_as_far_as_they_are_written(home: Home, artifacts: Path) -> None:
    (artifacts / "curves.jsonl").write_text('{"what": "", "step": 1, "loss": 2.0, "kl": null}\n'
                                            '{"what": "validation", "step": 1, "loss": 3.0}\n'
                                            '{"what": "", "step": 2, "loss": 1.0, "kl": 0.5}\n{"what": "", "st')
    found = Reports(History(home)).curves(made(None, ppo=step("ppo", RUN, None)), "ppo")
    assert found == (Curve("loss", ((1.0, 2.0), (2.0, 1.0))), Curve("validation/loss", ((1.0, 3.0),)),
                     Curve("kl", ((2.0, 0.5),)))


def test_what_mlflow_lacks_is_read_from_the_workspace(home: Home, tmp_path: Path) -> None:
    """Of the run itself while it is running, and of the run that made what was reused."""
    folder = tmp_path / "run"
    (folder / "models/policy").mkdir(parents=True)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "models/policy/curves.jsonl").write_text('{"what": "", "step": 1, "loss": 2.0}\n')
    history = History(home)
    maker = made(folder, ppo=step("ppo", None, None))
    user = made(None, "20261120-110000-bbbbbb", ppo=step("ppo", None, maker.id))
    history.runs = {user.id: user, maker.id: maker}
    for run in (maker, user):
        assert [curve.name for curve in Reports(history).curves(run, "ppo")] == ["loss"]
    assert Reports(history).curves(maker, "sft") == () and Reports(history).samples(user) == ()
    assert Reports(history).receipt(maker, "ppo") is None


def test_a_workspace_gives_nothing_from_outside_either(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "models/policy").mkdir(parents=True)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "secret").write_text("secret")
    (folder / "models/policy/curves.jsonl").symlink_to(tmp_path / "secret")
    run = made(folder, ppo=step("ppo", None, None))
    assert Reports(History(home)).file(run, "ppo", "curves.jsonl") is None
    assert Reports(History(home)).file(run, "ppo", "../../../secret") is None


def test_the_data_report_of_a_workspace(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "reports/data").mkdir(parents=True)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "reports/data/report.json").write_text('{"snapshot": "abc"}')
    run = made(folder, ingest=step("ingest", None, None))
    assert Reports(History(home)).data_report(run) == {"snapshot": "abc"}
    (folder / "reports/data/report.json").write_text("[broken")
    assert Reports(History(home)).data_report(run) is None


def test_what_is_wrong_with_a_training_is_read_from_mlflow_alone(home: Home, artifacts: Path) -> None:
    """As on another machine: the curves and the receipt of the MLflow run, and no workspace."""
    points = [{"what": "", "step": i, "reward": 0.1 * i, "kl": 0.5, "validation_kl": float(i)} for i in range(1, 13)]
    (artifacts / "curves.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    run, read = made(None, ppo=step("ppo", RUN, None)), Reports(History(home))
    assert read.findings(run, "ppo") == [] == read.findings(run, "sft")
    (artifacts / "receipt.json").write_text(Receipt(
        stage="ppo", version="1", mlflow_run=RUN, pipeline_run=None, git_commit=None, git_dirty=None, inputs={},
        outputs={}, code="", params={"ppo.kl_limit": 8.0}, seed=0, started="", seconds=1.0, host={}).model_dump_json())
    (finding,) = read.findings(run, "ppo")
    assert finding.name == "KL beyond its limit" and "At update 9 " in finding.seen
