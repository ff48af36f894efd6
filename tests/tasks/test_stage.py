"""What importing a stage costs, and how each is declared."""

import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from plumbline.config import Params, load_params, read_yaml
from plumbline.errors import UserError
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home, find_home
from plumbline.project.locks import file_lock
from plumbline.runs import dvc_stage
from plumbline.runs.stage_process import StageFailed
from plumbline.runs.stage_run import drop_scratch
from plumbline.runs.workspace import Workspace
from tasks import as_prefect_task
from tasks.stage import Stage, StageRun
from testing.staged_project import child_of, staged

ROOT = find_home().root
STAGES = read_stages(ROOT)
CANDIDATES = {**read_yaml(ROOT / "params.yaml"), "compare": {"dpo": "direct"}}
HEAVY = ("prefect", "torch", "mlflow", "transformers", "dvc")


def test_importing_the_stages_imports_nothing_heavy() -> None:
    names = ", ".join(f"tasks.{name}" for name in STAGES)
    code = f"import sys, {names}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_of_dvc_yaml_has_its_program(name: str) -> None:
    stage = getattr(import_module(f"tasks.{name}"), name)
    assert isinstance(stage, Stage)
    assert stage.name == name
    assert STAGES[name].command == f"python -m tasks.{name}"
    assert stage.resolver == STAGES[name].always_changed == (STAGES[name].receipt is None)


def test_a_stage_that_ran_into_its_limit_says_how_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_long(**_: object) -> object:
        def run() -> None:
            raise TimeoutError
        return lambda _: run

    monkeypatch.setattr(as_prefect_task, "task", too_long)
    spec = SimpleNamespace(receipt=None)
    workspace = SimpleNamespace(stages={"candidate@dpo": spec}, folder=Path("/run"), record=SimpleNamespace(id="1"))
    stage = Stage("candidate@dpo", lambda _: None, timeout_minutes=30)
    with pytest.raises(StageFailed) as caught:
        as_prefect_task.run_as_task(stage, cast(Workspace, workspace))
    assert not caught.value.killed
    assert str(caught.value) == (
        "Stage `candidate@dpo` was stopped after 30 minutes, its limit in tasks/candidate.py; its log is "
        "/run/logs/candidate@dpo.log. Make the stage shorter, or raise the limit there, then `plumbline retry 1`: with "
        "the code of before it goes on from its checkpoint, where a new run would begin it anew.")


@pytest.mark.parametrize("name", ["candidate", "candidate_eval"])
def test_a_stage_for_each_candidate_has_one_program(name: str) -> None:
    declared = read_stages(ROOT, CANDIDATES)[f"{name}@dpo"]
    stage = getattr(import_module(f"tasks.{name}"), name)
    assert stage.of("dpo").name == declared.name
    assert declared.command == f"python -m tasks.{name} dpo"
    assert not stage.resolver and declared.receipt and not declared.always_changed


@pytest.mark.parametrize("name", [name for name in STAGES if STAGES[name].receipt])
def test_each_recorded_stage_has_a_version_among_its_parameters(name: str) -> None:
    assert "version" in Params.model_fields[name].annotation.model_fields  # type: ignore[union-attr]
    assert name in STAGES[name].params


@pytest.mark.parametrize(("retried", "changed", "here"), [
    (None, True, True), ("20260101-1", False, True), ("20260101-1", True, False)])
def test_a_retry_is_decided_by_the_code_that_it_brings(tmp_path: Path, retried: str | None, changed: bool,
                                                       here: bool) -> None:
    """A rule of promotion that was edited after the run must not decide under the name of the old one."""
    from tasks.as_prefect_task import code_is_here

    for path in STAGES["promote"].code:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    if changed:
        (tmp_path / "tasks/promote.py").write_text("# as it was then")
    workspace = cast(Workspace, SimpleNamespace(record=SimpleNamespace(retry_of=retried), folder=tmp_path))
    assert code_is_here(workspace, STAGES["promote"]) is here


TRAINING = """
checkpoint = run.scratch() / "checkpoint"
print("goes on" if checkpoint.exists() else "begins")
checkpoint.write_text("half way")
run.report(1, 1, {"loss": 0.5})
run.write("model.txt", "trained")
run.finish({"loss": 0.5})
"""


def program(_run: StageRun) -> None:
    """Not called: the stage's own process has the program."""


def test_checkpoints_stay_until_what_the_training_left_is_in_the_cache(recording_home: Home,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, or a kill, is likely while gigabytes are copied: a retry must not train anew."""
    from tasks import as_prefect_task

    home = staged(recording_home, TRAINING)
    task = home.root / "tasks/ppo.py"
    task.write_text(task.read_text().replace("from plumbline.lm.ranks.world import world\n", ""))
    monkeypatch.setattr(as_prefect_task, "RECORDED_HERE", ["dvc.yaml"])
    workspace = cast(Workspace, SimpleNamespace(
        home=home, folder=home.root, params=load_params(home.root), stages=read_stages(home.root),
        record=SimpleNamespace(retry_of=None, force=[])))

    def make() -> list[str]:
        child, lines = child_of(home, record=False)
        as_prefect_task._do(Stage("ppo", program), workspace, child)
        return lines

    def full(*_: object) -> None:
        raise UserError("The disk is full.")

    with monkeypatch.context() as patched, pytest.raises(UserError, match="disk is full"):
        patched.setattr(dvc_stage, "commit", full)
        make()
    assert [path.name for path in home.scratch.glob("*/checkpoint")] == ["checkpoint"]
    assert make() == ["goes on"]
    assert list(home.scratch.iterdir()) == []


def test_checkpoints_that_another_run_has_taken_stay(tmp_path: Path) -> None:
    with file_lock(tmp_path / "ppo-123/lock"):
        drop_scratch(tmp_path / "ppo-123")
        assert (tmp_path / "ppo-123/lock").exists()
    drop_scratch(tmp_path / "ppo-123")
    assert list(tmp_path.iterdir()) == []
