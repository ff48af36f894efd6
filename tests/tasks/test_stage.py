"""What importing a stage costs, and how each is declared."""

import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from plumbline.config import Params, read_yaml
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import find_home
from plumbline.runs.workspace import Workspace
from tasks.stage import Stage

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
