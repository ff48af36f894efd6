"""Runs of a made-up project that are going on: start one, wait for it, find its processes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from plumbline.project.run_record import read_record
from testing.fake_project import environment, holding
from testing.waiting import eventually


def processes_of(root: Path) -> list[psutil.Process]:
    """Return all processes of a project's runs: they carry its home in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PLUMBLINE_HOME") == str(root / ".plumbline"):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def running_in(stage: str, root: Path) -> list[Path]:
    """Return the workspaces of a project's runs that are going on and in which a stage has reported a step."""
    found = [file.parents[1] for file in root.glob(f"runs/*/logs/{stage}.progress.jsonl")
             if '"step"' in file.read_text()]
    return [folder for folder in found if read_record(folder).status == "running"]


@contextmanager
def run_in(stage: str, root: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a command whose run waits in a stage. After the block it waits no more, and no process of the project is
    left.
    """
    ours = environment(root, PLUMBLINE_HOME=str(root / ".plumbline"))
    with holding(root, stage.rpartition("@")[2]):
        process = subprocess.Popen([sys.executable, "-m", "plumbline", *arguments], cwd=root, env=ours,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            eventually(lambda: process.poll() is not None or running_in(stage, root), stage)
            yield process
        finally:
            left = processes_of(root)
            for one in left:
                one.kill()
            psutil.wait_procs(left, timeout=20)
            process.communicate()


@contextmanager
def run_in_ppo(root: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a run that waits in its PPO, as `run_in`."""
    with run_in("ppo", root, "run", *arguments) as process:
        yield process
