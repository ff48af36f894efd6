"""dvc.yaml names the code that each stage's result depends on: a forgotten file would be silently stale results."""

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest

from plumbline.config import keys, read_yaml
from plumbline.project.dvc_yaml import JOIN, OUTPUT_ROOTS, producer_of, read_stages
from testing.imports import ROOT, file_of, modules_imported

STAGES = read_stages(ROOT, {**read_yaml(ROOT / "params.yaml"), "compare": {"dpo": "direct"}})
MACHINERY = (*(f"plumbline/{room}/" for room in ("project", "compute", "notify", "tracking", "retraining", "runs",
                                                 "storage", "lineage", "history", "data", "feedback")),
             "plumbline/__init__.py", "plumbline/config/", "plumbline/progress.py", "plumbline/errors.py",
             "plumbline/whole_file.py", "tasks/__init__.py", "tasks/stage.py", "tasks/as_prefect_task.py")
"""It runs and records a stage, but does not change its result."""
NOT_READ = {"candidate_eval": ("models/policy/curves.jsonl",)}
"""What only another stage with the same code reads: how PPO's policy came about is no question to a candidate."""
DECIDES = ("plumbline/tracking/promotion.py", "plumbline/tracking/registry.py")
"""Parts of it that do."""


def code_of(stage: str) -> set[str]:
    """The files that a stage's program imports, directly or not, machinery left out."""
    found: set[Path] = set()
    waiting = [program_of(stage)]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        waiting += [below for name in modules_imported(file) if (below := file_of(name)) and not is_machinery(below)]
    return {file.relative_to(ROOT).as_posix() for file in found}


def program_of(stage: str) -> Path:
    return ROOT / "tasks" / f"{stage.partition(JOIN)[0]}.py"


def is_machinery(file: Path) -> bool:
    path = file.relative_to(ROOT).as_posix()
    return path.startswith(MACHINERY) and path not in DECIDES


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(f"{dep}/")


@pytest.mark.parametrize("stage", STAGES)
def test_every_imported_file_is_a_dependency(stage: str) -> None:
    empty = {file for file in code_of(stage) if file.endswith("__init__.py")
             and (ROOT / file).read_text(encoding="utf-8").count("\n") <= 1}
    missing = [file for file in sorted(code_of(stage) - empty)
               if not any(covers(dep, file) for dep in STAGES[stage].code)]
    assert not missing, f"add to the deps of `{stage}` in dvc.yaml: {', '.join(missing)}"


@pytest.mark.parametrize("stage", STAGES)
def test_every_dependency_is_imported(stage: str) -> None:
    code = code_of(stage)
    unused = [dep for dep in STAGES[stage].code if not any(covers(dep, file) for file in code)]
    assert not unused, f"remove from the deps of `{stage}` in dvc.yaml: {', '.join(unused)}"


def test_another_judge_to_look_at_trains_no_second_reward_model() -> None:
    assert not [name for name in STAGES["judge"].params if name.startswith("preference_eval")]


def paths_in(file: Path) -> set[str]:
    """The paths in a run's folder that a file names: behind `run.root /`, or `models /` for its folder of models."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            root, named = ast.unparse(node.left), named_by(node.right)
            if named and root in ("run.root", "settings.root", "models"):
                found.add(f"models/{named}" if root == "models" else named)
    return found - set(OUTPUT_ROOTS)


def named_by(node: ast.expr) -> str:
    """The text of a literal, with `*` for what is filled in; empty for anything else."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@pytest.mark.parametrize("stage", STAGES)
def test_every_file_that_is_read_is_a_dependency(stage: str) -> None:
    known = {*STAGES[stage].inputs, *STAGES[stage].outputs, *NOT_READ.get(stage.partition(JOIN)[0], ())}
    read = {path for file in code_of(stage) for path in paths_in(ROOT / file) if not path.endswith("/receipt.json")}
    missing = [path for path in sorted(read) if not any(covers(one, path) or fnmatch(one, path) for one in known)]
    assert not missing, f"add to the deps of `{stage}` in dvc.yaml: {', '.join(missing)}"


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_exist(stage: str) -> None:
    assert set(STAGES[stage].params) <= {*keys(), "candidates.dpo"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_only_parameters_that_make_it_run_again(stage: str) -> None:
    """Its own, or those of a stage that it depends on: that one would leave another input."""
    declared, waiting = set(), [stage]
    while waiting:
        one = STAGES[waiting.pop()]
        declared |= {key.split(".")[0] for key in one.params}
        waiting += [maker.name for path in one.inputs if (maker := producer_of(STAGES, path))]
    tree = ast.parse(program_of(stage).read_text(encoding="utf-8"))
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Attribute) and node.value.attr == "params"}
    assert read <= declared


def test_inputs_are_made_by_earlier_stages() -> None:
    made: set[str] = set()
    for stage in STAGES.values():
        assert set(stage.inputs) <= made, f"{stage.name} reads what no stage before it makes"
        made |= {*stage.outs, *stage.metrics}
        assert {path.split("/")[0] for path in (*stage.outs, *stage.metrics)} <= set(OUTPUT_ROOTS)
