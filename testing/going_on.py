"""Runs of a made-up project that are going on: start one, wait for it, find its processes."""

import subprocess
import sys
from pathlib import Path

import psutil

from testing.fake_project import environment
from testing.waiting import eventually

LONG = ["--set", "ppo.updates=4000"]
STEP = {"FAKE_STEP_SECONDS": "0.05"}
PATIENCE = 180


def processes_of(root: Path) -> list[psutil.Process]:
    """All that belongs to a project: they carry its home in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PLUMBLINE_HOME") == str(root / ".plumbline"):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def start(root: Path, *arguments: str) -> "subprocess.Popen[str]":
    """A run that has reached its PPO, which would take minutes."""
    before = set(root.glob("runs/*"))
    ours = environment(**STEP, PLUMBLINE_HOME=str(root / ".plumbline"))
    process = subprocess.Popen([sys.executable, "-m", "plumbline", "run", *LONG, *arguments], cwd=root, env=ours,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    eventually(lambda: any(file.stat().st_size > 500 for run in set(root.glob("runs/*")) - before
                           for file in run.glob("logs/ppo.progress.jsonl")), "ppo")
    return process
