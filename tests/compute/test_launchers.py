"""A stage on two nodes, started by launchers: two agents with a real rendezvous, and a real gloo group."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from plumbline.compute import start
from plumbline.compute.kubernetes import PASSED, SECRET, filled, read_template
from plumbline.compute.nodes import ComputeNode, this_node
from plumbline.compute.start import GRACE_SECONDS, STAGE_GRACE_SECONDS
from plumbline.errors import GateFailed, UserError
from plumbline.project.home import Home
from plumbline.runs import stage_process
from plumbline.runs.stage_process import StageFailed
from testing.fake_clusters import put_on_path
from testing.imports import ROOT
from testing.staged_project import alive, child_of, none_left, staged

DEPLOY = ROOT / "deploy/launchers"
LAUNCHERS = {
    "srun": "srun --nodes={nodes} --ntasks-per-node=1 --gpus-per-node={processes} --kill-on-bad-exit=1",
    "job": f"python -m plumbline.compute.kubernetes --nodes {{nodes}} {DEPLOY}/kubernetes-job.yaml",
    "trainjob": f"python -m plumbline.compute.kubernetes --nodes {{nodes}} {DEPLOY}/kubernetes-trainjob.yaml",
    "sky": f"sh {DEPLOY}/skypilot.sh {{nodes}} {DEPLOY}/skypilot.yaml"}
WORK = '''
print("working")
run.report(1, 1, {"loss": float(sum(world().gathered([rank(), 10 * rank()])))})
run.write("model.txt", f"by {ranks()}: {world().gathered([os.environ['GROUP_RANK']])}")
run.finish({"loss": 0.25})
'''
slow = pytest.mark.slow


def at_length(*values: str) -> list[object]:
    """Values of a parameter that `make test-all` tries beside those of `make test`."""
    return [pytest.param(value, marks=pytest.mark.evidence) for value in values]


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("commands") / "bin"
    for name, value in put_on_path(folder).items():
        monkeypatch.setenv(name, value)
    return folder / "cluster"


def on_two_nodes(home: Home, body: str, launcher: str) -> Home:
    compute = {"ppo": {"nodes": 2, "launcher": LAUNCHERS[launcher]}}
    return staged(home, body, json.dumps(compute))


@slow
@pytest.mark.parametrize("launcher", ["srun", "job", *at_length("trainjob", "sky")])
def test_two_nodes_work_together_and_rank_0_is_on_the_first(recording_home: Home, cluster: Path, launcher: str) -> None:
    home = on_two_nodes(recording_home, WORK, launcher)
    child, lines = child_of(home)
    child.run()
    assert (home.root / "models/policy/model.txt").read_text() == "by 2: ['0', '1']"
    assert json.loads((home.root / "models/policy/curves.jsonl").read_text())["loss"] == 11.0
    assert "working" in lines
    assert (child.host["processes"], child.host["nodes"]) == ("1", "2")
    assert child.host["launcher"] == LAUNCHERS[launcher]
    none_left(home.root)
    assert list(cluster.iterdir()) == [], "what was made in the cluster is deleted"
    assert list(home.scratch.iterdir()) == []


@slow
@pytest.mark.parametrize("launcher", ["srun", *at_length("job", "sky")])
def test_cancelling_ends_everything(recording_home: Home, cluster: Path, launcher: str) -> None:
    home = on_two_nodes(recording_home, "run.report(1, 2)\ntime.sleep(600)", launcher)
    child, _ = child_of(home)

    def cancel(_: Mapping[str, object]) -> None:
        raise KeyboardInterrupt

    child.on_progress = cancel
    with pytest.raises(KeyboardInterrupt):
        child.run()
    started = time.monotonic()
    none_left(home.root, 5)
    assert list(cluster.iterdir()) == []
    assert time.monotonic() - started < GRACE_SECONDS


@slow
def test_a_launcher_that_does_not_listen_is_killed_before_the_stage_is(recording_home: Home,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    home = staged(recording_home, "pass", json.dumps({"ppo": {"launcher": "sh {project}/deaf.sh"}}))
    (home.root / "deaf.sh").write_text("trap '' TERM\necho up\nsleep 300\n")
    task = home.root / "tasks/ppo.py"
    task.write_text(f"import plumbline.compute.start as start\nstart.GRACE_SECONDS = 1.0\n{task.read_text()}")
    monkeypatch.setattr(stage_process, "STAGE_GRACE_SECONDS", 1.0 + STAGE_GRACE_SECONDS - start.GRACE_SECONDS)
    child, _ = child_of(home)

    def cancel(_: str) -> None:
        raise KeyboardInterrupt

    child.on_line = cancel
    with pytest.raises(KeyboardInterrupt):
        child.run()
    assert alive(home.root) == {}
    assert list(home.scratch.iterdir()) == []


@slow
@pytest.mark.parametrize("victim", ["-m tasks.ppo", *at_length("fake_clusters.py srun")])
def test_a_kill_of_the_launcher_or_of_who_started_it_ends_everything(recording_home: Home, cluster: Path,
                                                                    victim: str) -> None:
    home = on_two_nodes(recording_home, "run.report(1, 2)\ntime.sleep(600)", "srun")
    child, _ = child_of(home)

    def kill(_: Mapping[str, object]) -> None:
        found = min(pid for pid, line in alive(home.root).items() if victim in line and "/bin/sh" not in line)
        os.kill(found, signal.SIGKILL)

    child.on_progress = kill
    with pytest.raises(StageFailed) as caught:
        child.run()
    assert caught.value.killed
    none_left(home.root, 20)


@slow
def test_one_process_elsewhere_is_alone(recording_home: Home, cluster: Path) -> None:
    body = 'run.report(1, 1)\nrun.write("model.txt", str((ranks(), world().size)))\nrun.finish({})'
    launcher = LAUNCHERS["srun"].replace("{processes}", "1")
    child, _ = child_of(staged(recording_home, body, json.dumps({"ppo": {"launcher": launcher}})))
    child.run()
    assert (recording_home.root / "models/policy/model.txt").read_text() == "(1, 1)"
    assert (child.host["processes"], child.host["nodes"], child.host["launcher"]) == ("1", "1", launcher)


@slow
@pytest.mark.parametrize("launcher", ["srun", *at_length("job")])
def test_what_a_rank_on_another_node_says_reaches_the_flow(recording_home: Home, cluster: Path, launcher: str) -> None:
    body = 'if rank() == 1: raise GateFailed("Not good enough.")\nworld().gathered([1])'
    home = on_two_nodes(recording_home, body, launcher)
    child, _ = child_of(home)
    with pytest.raises(GateFailed, match=r"^Not good enough\.$"):
        child.run()
    none_left(home.root)
    assert list(cluster.iterdir()) == []


def test_skypilot_gets_no_secret_and_takes_down_what_its_launcher_left(tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("HF_TOKEN", "PLUMBLINE_JUDGE_API_KEY", "PLUMBLINE_WEBHOOK_SECRET", "PLUMBLINE_PASSWORD",
               "PLUMBLINE_FEEDBACK_URL")
    for name in (*secrets, "HF_HOME", "PLUMBLINE_KEYS"):
        monkeypatch.setenv(name, "given")
    (tmp_path / "sky").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/said\n')
    (tmp_path / "sky").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    subprocess.run(["sh", DEPLOY / "skypilot.sh", "2", DEPLOY / "skypilot.yaml", "python", "-m", "x"], check=True)
    said = (tmp_path / "said").read_text().splitlines()
    passed = {said[place + 1].partition("=")[0] for place, word in enumerate(said) if word == "--env"}
    assert {"HF_HOME", "PLUMBLINE_KEYS", "PLUMBLINE_FOLDER", "PLUMBLINE_COMMAND"} <= passed
    assert not passed & set(secrets)
    # Should this machine die, the cluster, idle by then, goes by itself; otherwise the launcher takes it down.
    assert said[said.index("--idle-minutes-to-autostop") + 1] == "10" and "--down" in said
    assert said[-3:] == ["down", "--yes", said[said.index("--cluster") + 1]]


def test_skypilot_and_kubernetes_pass_the_same_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {f"{start}A_B2C" for start in PASSED} | {"NCCL_P2P_DISABLE", "NCCL_IB_HCA_0", "MLFLOW_TRACKING_URI"}
    others = {f"PLUMBLINE_2_{end}" for end in SECRET} | {"MY_NCCL_P2P", "HOMEHF_X", "MLFLOW_TRACKING_PASSWORD"}
    for name in ours | others:
        monkeypatch.setenv(name, "given")
    (tmp_path / "sky").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/said\n')
    (tmp_path / "sky").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    subprocess.run(["sh", DEPLOY / "skypilot.sh", "2", DEPLOY / "skypilot.yaml", "true"], check=True)
    said = (tmp_path / "said").read_text().splitlines()
    sky = {said[place + 1] for place, word in enumerate(said) if word == "--env"}
    job = filled(read_template(DEPLOY / "kubernetes-trainjob.yaml"), "plumbline-0", 2, ["true"], os.environ, tmp_path)
    pods = {one["name"] for one in job["spec"]["trainer"]["env"]}
    assert ours <= sky and not sky & others
    assert {one for one in sky if not one.startswith(("PLUMBLINE_FOLDER=", "PLUMBLINE_COMMAND="))} == pods


@pytest.mark.parametrize(("variables", "node"), [
    ({"PLUMBLINE_NODE": "1", "PLUMBLINE_FIRST_NODE": "job-0.job", "SLURM_NODEID": "3"}, ComputeNode(1, "job-0.job")),
    ({"SLURM_NODEID": "2", "SLURM_STEP_NODELIST": "gpu[07-09,12]"}, ComputeNode(2, "gpu07")),
    ({"SLURM_NODEID": "0", "SLURM_STEP_NODELIST": "gpu[1,3]-ib,login"}, ComputeNode(0, "gpu1-ib")),
    ({"SLURM_NODEID": "1", "SLURM_STEP_NODELIST": "a1,b2"}, ComputeNode(1, "a1")),
    ({"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}, ComputeNode(1, "10.0.0.1")),
    ({"PET_NODE_RANK": "0", "PET_MASTER_ADDR": "x-node-0-0.x"}, ComputeNode(0, "x-node-0-0.x"))])
def test_which_node_this_is(variables: dict[str, str], node: ComputeNode) -> None:
    assert this_node(variables) == node


def test_a_launcher_that_does_not_say_which_node_this_is() -> None:
    with pytest.raises(UserError, match=r"expected PLUMBLINE_NODE .* and PLUMBLINE_FIRST_NODE"):
        this_node({"SLURM_NODEID": "0"})
