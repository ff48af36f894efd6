"""A project of one stage, `ppo`, whose program a test writes: run as DVC does it, or as the flow does."""

import os
from contextlib import suppress
from pathlib import Path

import psutil

from plumbline.config import load_params
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home
from plumbline.runs.stage_process import Child
from plumbline.runs.stage_record import StageRecord
from plumbline.runs.workspace import init_dvc
from testing.fake_project import CHECKOUT
from testing.waiting import eventually

DVC_YAML = """
stages:
  ppo:
    cmd: python -m tasks.ppo
    params: [seed, ppo]
    outs: [models/policy/model.txt, models/policy/curves.jsonl, models/policy/receipt.json]
    metrics: [models/policy/metrics.json]
"""
TASK = '''
import os, sys, time
from pathlib import Path
from plumbline.compute.rank import rank, ranks
from plumbline.errors import GateFailed, UserError
from plumbline.lm.ranks.world import world
from plumbline.runs.stage_program import run_as_command

def program(run):
{body}

sys.exit(run_as_command("ppo", program))
'''


def staged(home: Home, body: str, compute: str | None = None) -> Home:
    """Make the project around the body of the stage's program, with `compute.yaml` if there is to be one."""
    init_dvc(home.root, home)
    (home.root / "dvc.yaml").write_text(DVC_YAML)
    (home.root / "params.yaml").write_text((CHECKOUT / "params.yaml").read_text())
    (home.root / "tasks").mkdir()
    indented = "".join(f"    {line}\n" for line in body.strip("\n").splitlines())
    (home.root / "tasks/ppo.py").write_text(TASK.format(body=indented))
    if compute:
        (home.root / "compute.yaml").write_text(compute)
    return home


def child_of(home: Home, record: bool = True) -> tuple[Child, list[str]]:
    """Return the stage's process as the flow has it, and the lines that it prints as it goes."""
    lines: list[str] = []
    stages = read_stages(home.root)
    kept = StageRecord(home, home.root, stages, "ppo", load_params(home.root)) if record else None
    return Child(home, home.root, stages["ppo"], lambda _: None, lines.append, kept), lines


def alive(folder: Path) -> dict[int, str]:
    """Return the command lines of the processes that work in a folder, by their numbers, but for this one."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found[process.pid] = " ".join(process.cmdline())
    return found


def none_left(folder: Path, seconds: float = 15) -> None:
    """Wait until no process works in a folder."""
    eventually(lambda: not alive(folder), "the end of all processes", seconds)
