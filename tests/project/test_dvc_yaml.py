"""The stages of dvc.yaml as we read them are those that DVC itself reads."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.project.dvc_yaml import StageSpec, read_stages, stage_params, version_of

ROOT = Path(__file__).parents[2]
DVC_YAML = """
stages:
  first: {cmd: echo first > data/first, outs: [data/first]}
  many:
    foreach: ${compare}
    do:
      cmd: python -m tasks.many ${key} --seed ${seed}
      deps: ['models/${key}/model', data/first, 'tasks/${item}.py']
      params: [seed, '${item}', 'candidates.${key}']
      outs: ['models/candidates/${key}/model', 'models/candidates/${key}/receipt.json']
      metrics: ['models/candidates/${key}/metrics.json']
  named:
    foreach: ${names}
    do: {cmd: 'echo ${item}', outs: ['data/${item}']}
  numbered:
    foreach: ${pairs}
    do: {cmd: 'echo ${item.a} ${item.b}', outs: ['data/pair_${item.a}']}
  listed:
    foreach: [x, y]
    do: {cmd: 'echo ${item}', outs: ['data/listed_${item}']}
"""
PARAMS = """
seed: 3
ppo: {version: "1", clip: 0.2}
direct: {version: "2"}
candidates: {dpo: {method: dpo}, a-b_c2: {method: ppo}}
compare: {dpo: direct, a-b_c2: ppo}
names: [one, 2, true]
pairs: [{a: 1, b: x}, {a: 2, b: y}]
"""


def project(folder: Path, dvc_yaml: str, params: str) -> Path:
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (folder / "dvc.yaml").write_text(dvc_yaml)
    (folder / "params.yaml").write_text(params)
    return folder


def dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_dvc_reads_them(folder: Path) -> dict[str, StageSpec]:
    """Commands, dependencies, parameters and outputs of all stages, from DVC's own index."""
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

    logging.getLogger("dvc").setLevel(logging.ERROR)
    found = {}
    for stage in Repo(str(folder)).index.stages:
        assert isinstance(stage, PipelineStage)
        params = [key for dep in stage.deps if hasattr(dep, "params") for key in dep.params]
        found[stage.name] = StageSpec(
            stage.name, stage.cmd, tuple(dep.def_path for dep in stage.deps if not hasattr(dep, "params")),
            tuple(params), tuple(out.def_path for out in stage.outs if not out.metric),
            tuple(out.def_path for out in stage.outs if out.metric), stage.always_changed)
    return found


def unordered(stages: dict[str, StageSpec]) -> dict[str, list[object]]:
    """DVC sorts some of the lists."""
    return {name: [one.command, set(one.deps), set(one.params), set(one.outs), set(one.metrics), one.always_changed]
            for name, one in stages.items()}


def test_stages_of_blocks_and_lists_are_those_that_dvc_makes(tmp_path: Path) -> None:
    folder = project(tmp_path, DVC_YAML, PARAMS)
    found = read_stages(folder)
    assert list(found) == ["first", "many@dpo", "many@a-b_c2", "named@one", "named@2", "named@True", "numbered@0",
                           "numbered@1", "listed@x", "listed@y"]
    assert unordered(found) == unordered(as_dvc_reads_them(folder))
    assert found["many@dpo"].item == "dpo" and found["first"].item == ""
    assert found["many@dpo"].folder == "models/candidates/dpo"
    assert found["many@a-b_c2"].deps == ("models/a-b_c2/model", "data/first", "tasks/ppo.py")


def test_the_pipeline_with_candidates_is_what_the_command_of_dvc_lists_and_would_run(tmp_path: Path) -> None:
    params = (ROOT / "params.yaml").read_text().replace(
        "compare: {}", "  near: {method: ppo, kl_coef: 0.02}\n\ncompare: {near: ppo, dpo: direct}")
    folder = project(tmp_path, (ROOT / "dvc.yaml").read_text(), params)
    for code in ("plumbline", "tasks"):
        (folder / code).symlink_to(ROOT / code)
    found = read_stages(folder)
    listed = [line.split()[0] for line in dvc(folder, "stage", "list").splitlines()]
    assert sorted(listed) == sorted(found)
    assert unordered(found) == unordered(as_dvc_reads_them(folder))
    would_run = dvc(folder, "repro", "--dry", "--single-item", "--force", "candidate@near", "candidate_eval@dpo")
    assert "python -m tasks.candidate near" in would_run and "python -m tasks.candidate_eval dpo" in would_run

    used = stage_params(load_params(folder), found["candidate@near"])
    assert used["candidates.near.kl_coef"] == 0.02 and used["ppo.clip"] == 0.2 and used["seed"] == 0
    assert not any(key.startswith(("direct", "candidates.dpo")) for key in used)
    assert version_of(used) == used["ppo.version"]


def test_nothing_to_compare_is_no_stage(tmp_path: Path) -> None:
    folder = project(tmp_path, DVC_YAML.partition("  named:")[0], "seed: 3\ncompare: {}\n")
    assert list(read_stages(folder)) == ["first"]
    (folder / "data").mkdir()
    dvc(folder, "repro")
    assert (folder / "data/first").read_text() == "first\n"


@pytest.mark.parametrize("params", ["seed: 3\n", None])
def test_without_the_block_there_are_no_stages_of_it(tmp_path: Path, params: str | None) -> None:
    """As with the parameters of an older version, and in the folder of a run that was half deleted."""
    folder = project(tmp_path, DVC_YAML.partition("  named:")[0], params or "")
    if params is None:
        (folder / "params.yaml").unlink()
    assert list(read_stages(folder)) == ["first"]


@pytest.mark.parametrize("params", ["seed: 3\ncompare: 5\n", "compare: {dpo: direct}\n"])
def test_a_name_that_params_yaml_lacks_is_explained(tmp_path: Path, params: str) -> None:
    folder = project(tmp_path, DVC_YAML.partition("  named:")[0], params)
    with pytest.raises(UserError, match=r"params\.yaml"):
        read_stages(folder)
