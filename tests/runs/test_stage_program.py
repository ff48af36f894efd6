"""What a stage's program leaves: metrics, curves, receipt, and MLflow's records of it."""

import errno
import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.progress import PROGRESS_FILE
from plumbline.project.digests import digest
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home
from plumbline.runs.stage_process import Child
from plumbline.runs.stage_program import run_as_command, run_stage
from plumbline.runs.stage_record import StageRecord
from plumbline.runs.stage_run import StageRun
from plumbline.tracking.store import connect, experiment, prepare

CHECKOUT = Path(__file__).resolve().parents[2]
DVC_YAML = """
stages:
  base:
    cmd: python -m tasks.base
    deps: [code.py]
    params: [seed, base]
    outs: [models/base/model, models/base/curves.jsonl, models/base/receipt.json]
    metrics: [models/base/metrics.json]
  sft:
    cmd: python -m tasks.sft
    deps: [models/base/model, data/prepared, code.py]
    params: [seed, sft]
    outs: [models/sft/model, models/sft/receipt.json]
    metrics: [models/sft/metrics.json]
"""


@pytest.fixture
def project(home: Home) -> Home:
    (home.root / "dvc.yaml").write_text(DVC_YAML)
    (home.root / "code.py").write_text("pass\n")
    shutil.copy(CHECKOUT / "params.yaml", home.root / "params.yaml")
    (home.root / "data/prepared").mkdir(parents=True)
    (home.root / "data/prepared/rows.jsonl").write_text("{}\n")
    return home


def train(run: StageRun) -> None:
    for step in range(1, 4):
        run.report(step, 3, {"loss": 1.0 / step, "broken": float("nan")}, "training")
    (run.folder / "model").mkdir()
    (run.folder / "model/weights").write_text(str(run.params.seed))
    run.finish({"loss": 0.25, "unknown": None, "note": "text", "passed": True})


def receipt_of(home: Home, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((home.root / f"models/{name}/receipt.json").read_text())
    return found


def test_files(project: Home) -> None:
    run_stage(project.root, "base", train)
    folder = project.root / "models/base"
    assert json.loads((folder / "metrics.json").read_text()) == {"loss": 0.25, "note": "text", "passed": True}
    curves = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
    assert curves[1] == {"what": "training", "step": 2, "loss": 0.5, "broken": None}
    receipt = receipt_of(project, "base")
    assert (receipt["stage"], receipt["version"], receipt["seed"]) == ("base", "1", 0)
    assert receipt["pipeline_run"] is None
    assert receipt["params"]["base.source"] == "pretrain"  # type: ignore[index]
    model = receipt["outputs"]["models/base/model"]  # type: ignore[index]
    assert model["md5"] == digest(folder / "model")
    assert model["model_id"].startswith("m-")


def test_the_same_run_leaves_the_same_files(project: Home) -> None:
    run_stage(project.root, "base", train)
    folder = project.root / "models/base"
    before = {file: digest(folder / file) for file in ("metrics.json", "curves.jsonl", "model")}
    shutil.rmtree(folder)
    run_stage(project.root, "base", train)
    assert {file: digest(folder / file) for file in before} == before


def test_mlflow_has_the_lineage(project: Home) -> None:
    run_stage(project.root, "base", train)
    run_stage(project.root, "sft", train)
    client = connect(project)
    made = receipt_of(project, "base")["outputs"]["models/base/model"]["model_id"]  # type: ignore[index]
    run = client.get_run(receipt_of(project, "sft")["mlflow_run"])
    assert run.info.status == "FINISHED"
    assert run.data.params["sft.epochs"] == "2" or "sft.epochs" in run.data.params
    assert (run.data.metrics["loss"], run.data.tags["result.note"]) == (0.25, "text")
    assert [one.model_id for one in run.inputs.model_inputs] == [made]
    sets = {one.dataset.name: one.dataset.digest for one in run.inputs.dataset_inputs}
    assert sets == {"data/prepared": digest(project.root / "data/prepared")}
    assert len(run.outputs.model_outputs) == 1
    points = client.get_metric_history(run.info.run_id, "training/loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert "metrics.json" in [file.path for file in client.list_artifacts(run.info.run_id)]
    assert "model" not in [file.path for file in client.list_artifacts(run.info.run_id)]


def test_scratch_is_found_again_after_a_crash_and_deleted_on_success(project: Home) -> None:
    def crash(run: StageRun) -> None:
        (run.scratch() / "checkpoint").write_text("half way")
        raise RuntimeError("out of luck")

    def resume(run: StageRun) -> None:
        assert (run.scratch() / "checkpoint").read_text() == "half way"
        train(run)

    def other(run: StageRun) -> None:
        assert not (run.scratch() / "checkpoint").exists()
        train(run)

    with pytest.raises(RuntimeError):
        run_stage(project.root, "base", crash)
    params = (project.root / "params.yaml").read_text()
    (project.root / "params.yaml").write_text(params.replace("seed: 0", "seed: 1"))
    run_stage(project.root, "base", other)
    shutil.rmtree(project.root / "models/base")
    (project.root / "params.yaml").write_text(params)
    run_stage(project.root, "base", resume)
    assert list(project.scratch.iterdir()) == []


def test_two_runs_of_the_same_stage_at_the_same_time_have_checkpoints_of_their_own(project: Home) -> None:
    found: list[Path] = []

    def both(run: StageRun) -> None:
        found.append(run.scratch())
        if len(found) == 1:
            run_stage(project.root, "base", both)
            shutil.rmtree(project.root / "models/base/model")
        assert run.scratch().exists(), "the end of the other run leaves it"
        train(run)

    run_stage(project.root, "base", both)
    assert len(set(found)) == 2
    assert list(project.scratch.iterdir()) == []


def going_on(first: int, last: int, updates_from: int = 1) -> Callable[[StageRun], None]:
    """A training of five steps after a warm-up of two, from its step `first`; killed in step `last`."""

    def program(run: StageRun) -> None:
        run.scratch()
        for step in range(updates_from, 3):
            run.report(step, 2, {"loss": step / 10}, "warm-up")
        for step in range(first, last + 1):
            run.report(step, 5, {"loss": float(step)})
        if last < 5:
            raise RuntimeError("killed")
        (run.folder / "model").mkdir()
        run.finish({"loss": 5.0})

    return program


@pytest.mark.parametrize("parts", [
    [(1, 5, 1)],
    [(1, 4, 1), (3, 5, 3)],  # steps since the checkpoint are done again
    [(1, 3, 1), (4, 5, 3)],  # none was done since
    [(1, 2, 1), (1, 5, 1)],  # no checkpoint yet: all is done again
    [(1, 0, 1), (1, 4, 3), (2, 3, 3), (4, 5, 3)]])
def test_a_training_that_was_killed_and_goes_on_has_whole_curves(project: Home, parts) -> None:
    for first, last, warm_up in parts:
        shutil.rmtree(project.root / "models/base", ignore_errors=True)  # as DVC does before a stage
        if last < 5:
            with pytest.raises(RuntimeError, match="killed"):
                run_stage(project.root, "base", going_on(first, last, warm_up))
        else:
            run_stage(project.root, "base", going_on(first, last, warm_up))
    lines = (project.root / "models/base/curves.jsonl").read_text().splitlines()
    points = [(one["what"], one["step"], one["loss"]) for one in map(json.loads, lines)]
    steps = [("", step, float(step)) for step in range(1, 6)]
    assert points == [("warm-up", 1, 0.1), ("warm-up", 2, 0.2), *steps]
    history = connect(project).get_metric_history(str(receipt_of(project, "base")["mlflow_run"]), "loss")
    assert [(point.step, point.value) for point in history if point.step] == [(n, value) for _, n, value in steps]
    assert list(project.scratch.iterdir()) == []


def test_a_point_that_a_kill_cut_off_is_made_again(project: Home) -> None:
    with pytest.raises(RuntimeError):
        run_stage(project.root, "base", going_on(1, 3))
    [kept] = project.scratch.glob("*/curves.jsonl")
    kept.write_text(kept.read_text()[:-5])
    shutil.rmtree(project.root / "models/base")
    run_stage(project.root, "base", going_on(3, 5, 3))
    lines = (project.root / "models/base/curves.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 1, 2, 3, 4, 5]


def fails_with(error: Exception) -> Callable[[StageRun], None]:
    def program(run: StageRun) -> None:
        raise error

    return program


def test_errors_reach_the_flow(project: Home, monkeypatch: pytest.MonkeyPatch,
                               capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(project.root)
    progress = project.root / "progress.jsonl"
    monkeypatch.setenv(PROGRESS_FILE, str(progress))
    assert run_as_command("base", fails_with(UserError("The rows are empty."))) == 2
    assert run_as_command("base", fails_with(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/file"))) == 2
    assert run_as_command("base", fails_with(ValueError("a bug"))) == 1
    lines = [json.loads(line) for line in progress.read_text().splitlines()]
    assert lines == [
        {"error": "The rows are empty.", "exit_code": 2},
        {"error": "The disk is full: /full/file could not be written. Make room (`plumbline gc --dry-run` says what "
                  "nothing needs), then run again: finished stages are kept.", "exit_code": 2},
        {"crashed": "ValueError: a bug"}]
    printed = capfd.readouterr().err
    assert "The rows are empty." in printed
    assert printed.count("Traceback") == 1
    client = connect(project)
    runs = client.search_runs([experiment(client, project)])
    assert [run.info.status for run in runs] == ["FAILED"] * 3


def test_a_child_of_the_flow_tells_what_it_measures_and_records_nothing(project: Home) -> None:
    stages = read_stages(project.root)
    prepare(project)
    record = StageRecord(project, project.root, stages, "base", load_params(project.root))
    (project.root / "tasks").mkdir()
    (project.root / "tasks/base.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom plumbline.runs.stage_program import run_as_command\n"
        "def train(run):\n    (run.folder / 'model').mkdir()\n    run.report(1, 1, {'loss': 0.5}, 'training')\n"
        "    run.finish({'loss': 0.25, 'note': 'text'})\n"
        "status = run_as_command('base', train)\n"
        "Path('imported').write_text(' '.join({name.split('.')[0] for name in sys.modules}))\nsys.exit(status)\n")
    child = Child(project, project.root, stages["base"], lambda report: None, print, record)
    child.run()
    assert not {"mlflow", "prefect", "sqlalchemy"} & set((project.root / "imported").read_text().split())
    assert not (project.root / "models/base/receipt.json").exists()
    record.complete(child.host)
    run = connect(project).get_run(record.recording.run_id)
    assert (run.info.status, run.data.metrics, run.data.tags["result.note"]) == \
        ("FINISHED", {"training/loss": 0.5, "loss": 0.25}, "text")
    assert run.data.tags["host.python"] == platform.python_version()
    assert receipt_of(project, "base")["mlflow_run"] == record.recording.run_id


def test_a_stage_that_leaves_less_than_it_declares(project: Home) -> None:
    with pytest.raises(UserError, match=r"without leaving models/base/model, which dvc.yaml declares"):
        run_stage(project.root, "base", lambda run: run.finish({}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number_stops_the_stage_before_anything_is_measured(project: Home, value: float) -> None:
    with pytest.raises(UserError, match=r"Stage `base` measured kl = (nan|inf)"):
        run_stage(project.root, "base", lambda run: run.finish({"loss": 0.25, "kl": value}))
    assert not (project.root / "models/base/metrics.json").exists()
