"""Whatever ends a run, no process is left, and the next run goes on from there."""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from testing.fake_project import plumbline
from testing.going_on import PATIENCE, processes_of, start
from testing.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(autouse=True)
def no_leftovers(project: Path) -> Iterator[None]:
    """What one test leaves behind must not fail the next."""
    yield
    left = processes_of(project)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=20)


def ppo_of(root: Path) -> list[psutil.Process]:
    """The processes that run the stage's program."""
    found = []
    for process in processes_of(root):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if process.cmdline()[1:] == ["-m", "tasks.ppo"]:
                found.append(process)
    return found


def status(root: Path) -> str:
    return str(json.loads(plumbline(root, "show", "latest", "--json").stdout)["status"])


@pytest.mark.parametrize(("kill", "number"), [(os.kill, signal.SIGINT), (os.killpg, signal.SIGINT),
                                             (os.kill, signal.SIGTERM)],
                         ids=["SIGINT", "SIGINT to the group", "SIGTERM"])
def test_cancelling_leaves_nothing_behind(project: Path, kill: Callable[[int, int], None], number: int) -> None:
    process = start(project)
    kill(process.pid, number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert "Cancelled" in errors
    assert "Traceback" not in errors
    assert processes_of(project) == []
    assert status(project) == "cancelled"


def test_kill_9_of_the_run(project: Path) -> None:
    process = start(project)
    process.kill()
    process.communicate()
    eventually(lambda: not processes_of(project), "the end of all processes", 20)
    assert status(project) == "killed"


def test_kill_9_of_a_stage(project: Path) -> None:
    process = start(project, "--until", "ppo")
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
