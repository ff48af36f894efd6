"""compute.yaml: what it says of a stage, and its mistakes in words."""

import shutil
from pathlib import Path

import pytest

from plumbline.compute.settings import StageCompute, check_compute, compute_of, read_compute
from plumbline.errors import UserError
from tasks.stage import Stage
from testing.imports import ROOT


def written(folder: Path, text: str) -> Path:
    shutil.copy(ROOT / "dvc.yaml", folder / "dvc.yaml")
    (folder / "compute.yaml").write_text(text)
    return folder


def test_without_the_file_a_stage_is_one_process_here(tmp_path: Path) -> None:
    assert compute_of(tmp_path, "ppo") == StageCompute() and StageCompute().here


def test_what_it_says_of_a_stage(tmp_path: Path) -> None:
    root = written(tmp_path, "ppo: {processes: 8, nodes: 2, launcher: 'srun -N {nodes} --x=\"{processes} a\"'}\n"
                             "candidate: {processes: 2}\ncandidate@dpo: {processes: 3}\nreward_eval: {launcher: env}\n")
    ppo = compute_of(root, "ppo")
    assert (ppo.ranks, ppo.here, ppo.launch(root)) == (16, False, ["srun", "-N", "2", "--x=8 a"])
    assert compute_of(root, "candidate@dpo").processes == 3
    assert compute_of(root, "candidate@kto").processes == 2
    assert compute_of(root, "sft").here
    assert not compute_of(root, "reward_eval").here, "a launcher may run one process elsewhere"


@pytest.mark.parametrize(("text", "words"), [
    ("pppo: {processes: 2}", "has `pppo`, but dvc.yaml has no such stage. Did you mean `ppo`?"),
    ("ppo: {processes: 0}", "`ppo.processes` is 0, but must be greater than or equal to 1"),
    ("ppo: {processes: two}", "`ppo.processes` is 'two', but must be integer"),
    ("ppo: {gpus: 8}", "there is no `ppo.gpus`; a stage has processes, nodes, launcher"),
    ("ppo: 8", "`ppo` must hold `processes`, `nodes` or `launcher`; found 8"),
    ("ppo: {nodes: 2}", "must be with a `launcher` that starts the 2 nodes"),
    ("ppo: {launcher: 'srun {gpus}'}", "in which only {nodes}, {processes}, {project} stand in braces"),
    ("ppo: {launcher: ''}", "a command before the command"),
    ("ingest: {processes: 2}", "asks for 2 processes for `ingest`, which runs as one"),
    ("candidate_eval@dpo: {processes: 2}", "for `candidate_eval@dpo`, which runs as one"),
    ("promote: {launcher: env}", "a launcher for `promote`, which runs inside the flow's own process"),
    ("1: {processes: 2}", "has `1`, but dvc.yaml has no such stage."),
    ("- ppo", "must hold blocks"),
    ("ppo: {", "cannot be read as YAML")])
def test_mistakes(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_compute(written(tmp_path, text))
    assert words in str(caught.value)
    assert "compute.yaml" in str(caught.value)


@pytest.mark.parametrize(("text", "words"), [
    ("candidate@dpu: {processes: 2}", "`candidates` of params.yaml has no `dpu`; it has dpo, kto"),
    ("ppo: {launcher: no-such-command --x}", "begins with `no-such-command`, which is no command on this machine")])
def test_mistakes_that_show_against_the_project(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        check_compute(written(tmp_path, text), {"dpo": {}, "kto": {}})
    assert words in str(caught.value)


def test_a_launcher_is_looked_for_where_it_will_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.venv/bin/plumbline run` and the unit for systemd have no `python` of this environment on their PATH."""
    template = ROOT / "deploy/launchers/kubernetes-job.yaml"
    written(tmp_path, f"ppo: {{launcher: 'python -m plumbline.compute.kubernetes --nodes {{nodes}} {template}'}}")
    monkeypatch.setenv("PATH", str(tmp_path))
    check_compute(tmp_path, {})


@pytest.mark.parametrize(("text", "words"), [
    ("kind: Pod", "must be a Job or a TrainJob"),
    ("kind: Job\nspec:", r"without `spec\.template\.spec\.containers\.0`")])
def test_a_template_for_kubernetes_is_read_before_anything_starts(tmp_path: Path, text: str, words: str) -> None:
    launcher = "python -m plumbline.compute.kubernetes --nodes {nodes}"
    (tmp_path / "job.yaml").write_text(text)
    written(tmp_path, f"ppo: {{launcher: '{launcher} {{project}}/job.yaml'}}")
    with pytest.raises(UserError, match=words):
        check_compute(tmp_path, {})
    written(tmp_path, f"ppo: {{launcher: '{launcher} job.yaml'}}")
    check_compute(tmp_path, {})


def test_the_stages_inside_the_flow_are_those_of_the_tasks() -> None:
    from importlib import import_module

    from plumbline.compute.settings import INSIDE_THE_FLOW
    from plumbline.project.dvc_yaml import declared_stages

    stages: dict[str, Stage] = {name: getattr(import_module(f"tasks.{name}"), name) for name in declared_stages(ROOT)}
    assert {name for name, stage in stages.items() if stage.resolver or stage.in_flow} == set(INSIDE_THE_FLOW)
