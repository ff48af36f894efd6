"""Children end with whoever started them, by whatever way, and take all that they started with them."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from plumbline.project.processes import end_group
from plumbline.service.process import MARK, kill_marked, marked, start
from testing.waiting import eventually

FAMILY = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
{more}
print("ready", flush=True)
time.sleep(600)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"

STARTER = """
import sys, time
from pathlib import Path
from plumbline.service.process import start
start([sys.executable, "-c", sys.argv[1]], {{"{mark}": sys.argv[2]}}, Path(sys.argv[2]) / "log", Path(sys.argv[2]))
print("started", flush=True)
time.sleep(600)
"""


def family(tmp_path: Path, more: str = "") -> "subprocess.Popen[bytes]":
    process = start([sys.executable, "-c", FAMILY.format(more=more)], {MARK: str(tmp_path)}, tmp_path / "log", tmp_path)
    eventually(lambda: "ready" in (tmp_path / "log").read_text(), "the start", 30)
    return process


def test_ending_one_ends_its_children(tmp_path: Path) -> None:
    process = family(tmp_path)
    assert len(marked(tmp_path)) >= 2
    end_group(process)
    assert process.returncode == -signal.SIGTERM
    assert marked(tmp_path) == []


def test_what_does_not_listen_is_killed(tmp_path: Path) -> None:
    process = family(tmp_path, STUBBORN)
    started = time.monotonic()
    end_group(process, grace=1.0)
    assert time.monotonic() - started < 10
    assert process.returncode == -signal.SIGKILL
    assert marked(tmp_path) == []


def test_its_death_is_seen_at_once(tmp_path: Path) -> None:
    process = family(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: process.poll() is not None, "the death", 5)
    assert process.returncode == -signal.SIGKILL
    end_group(process)
    assert marked(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", STUBBORN], ids=["listening", "stubborn"])
def test_kill_9_of_the_starter_ends_all(tmp_path: Path, more: str) -> None:
    command = [sys.executable, "-c", STARTER.format(mark=MARK), FAMILY.format(more=more), str(tmp_path)]
    starter = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    eventually(lambda: (tmp_path / "log").exists() and "ready" in (tmp_path / "log").read_text(), "the start", 30)
    assert len(marked(tmp_path)) >= 2
    starter.kill()
    starter.wait()
    eventually(lambda: marked(tmp_path) == [], "the end of all", 25)


def test_leftovers_are_found_by_their_mark(tmp_path: Path) -> None:
    code = "import time; print('ready', flush=True); time.sleep(600)"
    stray = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, MARK: str(tmp_path)},
                             start_new_session=True, stdout=subprocess.PIPE)
    assert stray.stdout is not None
    stray.stdout.readline()
    assert marked(tmp_path) == [stray.pid]
    assert marked(tmp_path / "other") == []
    threading.Thread(target=stray.wait, daemon=True).start()  # or it would stay as a zombie
    assert kill_marked(tmp_path) == 1
    assert marked(tmp_path) == []


def test_the_log_is_for_its_owner_alone(tmp_path: Path) -> None:
    end_group(family(tmp_path))
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0
