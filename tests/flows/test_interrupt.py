"""Whatever ends a run, no process is left, and the next run goes on from there."""

import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from plumbline.project.home import Home
from plumbline.project.run_record import find_run, read_record
from testing.fake_project import plumbline
from testing.going_on import processes_of, run_in_ppo
from testing.in_process import command
from testing.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.slow]
OTHER = ("--set", "ppo.updates=40")


def ppo_of(root: Path) -> list[psutil.Process]:
    """The processes that run the stage's program."""
    found = []
    for process in processes_of(root):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if process.cmdline()[1:] == ["-m", "tasks.ppo"]:
                found.append(process)
    return found


def status(root: Path) -> str:
    return str(json.loads(command(root, "show", "latest", "--json").stdout)["status"])


@pytest.mark.usefixtures("private_server")
@pytest.mark.parametrize(("kill", "number"), [
    pytest.param(os.killpg, signal.SIGINT, id="Ctrl-C, which the whole group gets"),
    # `plumbline cancel` sends the second: test_retry.py.
    pytest.param(os.kill, signal.SIGTERM, id="SIGTERM", marks=pytest.mark.evidence),
    pytest.param(os.kill, signal.SIGINT, id="SIGINT", marks=pytest.mark.evidence),
])
def test_cancelling_leaves_nothing_behind(project: Path, kill: Callable[[int, int], None], number: int) -> None:
    with run_in_ppo(project, *OTHER) as process:
        kill(process.pid, number)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, errors
        assert "Cancelled" in errors
        assert "Traceback" not in errors
        assert processes_of(project) == []
    assert status(project) == "cancelled"


@pytest.mark.usefixtures("private_server")
def test_a_run_that_was_killed_is_closed_and_retried(project: Path) -> None:
    with run_in_ppo(project, "--set", "ppo.clip=0.25", "--until", "ppo") as process:
        process.kill()
        process.wait()
        eventually(lambda: not processes_of(project), "the end of all processes", 20)
    assert status(project) == "killed"
    home = Home(project, project / ".plumbline")
    killed = find_run(home, "latest")
    again = plumbline(project, "retry", killed.name, "--json", "--new-code")
    assert again.returncode == 0, again.stderr
    stages = json.loads(again.stdout)["stages"]
    assert {name: stage["status"] for name, stage in stages.items()}["sft"] == "reused"
    assert (stages["ppo"]["status"], list(stages)[-1]) == ("ran", "ppo")
    # The next run has written down what became of the one before.
    assert json.loads((killed / "run.json").read_text())["status"] == "killed"
    assert read_record(find_run(home, "latest")).status == "finished"


@pytest.mark.evidence
def test_kill_9_of_a_stage(project: Path) -> None:
    with run_in_ppo(project, *OTHER, "--until", "ppo") as process:
        [first] = ppo_of(project)
        first.kill()
        # ppo has one retry; the second attempt is killed as well.
        eventually(lambda: any(one.pid != first.pid for one in ppo_of(project)), "the retry")
        for second in ppo_of(project):
            second.kill()
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
        assert "ppo.log" in errors
        assert processes_of(project) == []

    again = plumbline(project, "run", "--json", "--set", "ppo.updates=3", "--until", "ppo")
    assert again.returncode == 0, again.stderr
    stages = json.loads(again.stdout)["stages"]
    assert {name: stage["status"] for name, stage in stages.items()}["sft"] == "reused"
    assert stages["ppo"]["status"] == "ran"
