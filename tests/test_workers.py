"""Work that processes share: results in order, errors as themselves, and nobody left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plumbline.errors import UserError
from plumbline.workers import Workers, cores


def slower_if_earlier(number):
    time.sleep(0.05 if number % 2 == 0 else 0)
    return number, os.getpid()


def refuse(number):
    if number == 3:
        raise UserError("Row 3 is of no use: mend it.")
    return number


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_come_in_the_order_of_the_tasks_from_other_processes():
    with Workers(2) as workers:
        found = list(workers.map(slower_if_earlier, iter(range(20))))
    assert [number for number, _ in found] == list(range(20))
    assert os.getpid() not in {pid for _, pid in found}


def test_one_worker_and_one_task_need_no_process():
    with Workers(1) as alone, Workers(2) as several:
        found = [*alone.map(slower_if_earlier, range(3)), *several.map(slower_if_earlier, [4])]
        assert list(several.map(slower_if_earlier, [])) == []
    assert {pid for _, pid in found} == {os.getpid()}


def test_what_a_user_can_put_right_arrives_as_itself():
    with Workers(2) as workers, pytest.raises(UserError, match=r"^Row 3 is of no use: mend it\.$"):
        list(workers.map(refuse, range(10)))


def test_a_worker_that_was_killed_is_said_to_be():
    with Workers(2) as workers, pytest.raises(UserError, match="ran out of memory"):
        list(workers.map(die, range(4)))


def test_there_are_as_many_cores_as_the_process_may_use():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(before)])
    try:
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)


PARENT = """
import os, sys, time
from plumbline.workers import Workers
if __name__ == "__main__":
    with Workers(2) as workers:
        for pid in workers.map(print_and_wait, range(8)):
            pass
"""
WAITING = """
import os, time
def print_and_wait(number):
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


def test_workers_end_with_the_process_that_started_them_even_if_it_is_killed(tmp_path):
    (tmp_path / "waiting.py").write_text(WAITING)
    (tmp_path / "parent.py").write_text(f"from waiting import print_and_wait\n{PARENT}")
    with subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
        deadline = time.monotonic() + 20
        while any(map(is_running, pids)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(is_running, pids))


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
