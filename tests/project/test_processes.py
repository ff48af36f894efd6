"""A process is known by its number and the time of its birth, and does not outlive the one that it is bound to."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from plumbline.project.processes import ProcessId, local_process
from testing.waiting import eventually

BOUND = """
import sys
from pathlib import Path
from plumbline.project.processes import start_bound
with Path("log").open("wb") as log:
    print(start_bound([sys.executable, "-c", "import time; time.sleep(600)"], {}, log).pid, flush=True)
sys.stdin.read()
"""
WATCHING = """
import os, time
from plumbline.project.processes import end_group_with
end_group_with(int(os.environ["STARTER"]))
print("watching", flush=True)
time.sleep(600)
"""


def test_the_number_of_a_process_alone_does_not_name_it() -> None:
    me = local_process(os.getpid())
    assert me.began is not None and me.has_ended() is False
    assert ProcessId(me.pid, None, me.host).has_ended() is False  # recorded where there was no time of birth
    assert ProcessId(me.pid, me.began - 1, me.host).has_ended() is True
    assert ProcessId(2**22 + 1, None, me.host).has_ended() is True
    assert ProcessId(me.pid, me.began, "elsewhere").has_ended() is None


def test_another_user_s_process_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)
    assert ProcessId(2**22 + 1, None, local_process(os.getpid()).host).has_ended() is False


def test_a_bound_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", BOUND], cwd=tmp_path, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    bound = local_process(int(starter.stdout.readline()))
    assert bound.has_ended() is False
    starter.kill()
    starter.wait()
    eventually(lambda: bound.has_ended() is True, "the end of the bound process", 20)


def test_a_group_ends_with_the_process_that_it_watches() -> None:
    starter = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    group = subprocess.Popen([sys.executable, "-c", WATCHING], start_new_session=True, stdout=subprocess.PIPE,
                             env={**os.environ, "STARTER": str(starter.pid)})
    assert group.stdout is not None
    group.stdout.readline()
    starter.kill()
    starter.wait()
    assert group.wait(30) == -9
    assert not psutil.pid_exists(group.pid)
