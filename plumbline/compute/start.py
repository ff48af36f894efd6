"""Start a stage on the processes that compute.yaml asks for.

`python -m tasks.ppo` becomes the agent of this node, with the same process id, so that `dvc repro` and the
flow need to know of nothing. With a launcher it stays, watches, and lets that run the agent on each node.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from types import FrameType

from plumbline.compute.rank import FLOW_PID, LAUNCHER, is_rank
from plumbline.compute.settings import StageCompute, compute_of, path_of_stages
from plumbline.project.dvc_yaml import JOIN
from plumbline.project.home import Home
from plumbline.project.processes import end_group, local_process, start_bound

GRACE_SECONDS = 40.0
"""From the request to end until the kill of a launcher: the agents that it ends give their ranks 30 seconds.
"""
STAGE_GRACE_SECONDS = GRACE_SECONDS + 10
"""The same for a stage with ranks, which has to outlive its launcher: nobody else would kill that."""
SIGN_OF_LIFE = "PLUMBLINE_SIGN_OF_LIFE"
"""Names a file in the home that changes while the stage is wanted, for agents on other machines."""
SIGN_SECONDS = 5.0
LOOK_SECONDS = 0.2
FIRST_PORT, PORTS = 29400, 2000


def started_on_ranks(home: Home, stage: str) -> int | None:
    """Run the stage on ranks if compute.yaml asks for it, and return its launcher's exit status;
    without a launcher the call does not return.

    None if the stage is to run in this process: it is a rank already, or one process is all that is asked.
    Raises UserError for a mistake in compute.yaml.
    """
    if is_rank():
        return None
    compute = compute_of(home.root, stage)
    if compute.here:
        return None
    agent = ["-m", "plumbline.compute.agent", stage, "--processes", str(compute.processes)]
    if compute.launcher is None:
        os.execv(sys.executable, [sys.executable, *agent])
    # Another machine may have this Python elsewhere: there it is the first of the path.
    return _launch(home, stage, compute,
                   ["python", *agent, "--nodes", str(compute.nodes), "--port", _port(home)])


def command_of(stage: str) -> list[str]:
    """Return what Python is called with for a stage: `-m tasks.candidate dpo`."""
    group, _, item = stage.partition(JOIN)
    return ["-m", f"tasks.{group}", *([item] if item else [])]


def _port(home: Home) -> str:
    """Return a port for the ranks to meet at, another one for each stage that may be going on."""
    return str(FIRST_PORT + zlib.crc32(f"{home.root} {os.getpid()}".encode()) % PORTS)


def _launch(home: Home, stage: str, compute: StageCompute, command: list[str]) -> int:
    """Run the launcher and show signs of life beside it; end it when this process is asked to, or the flow
    has ended.
    """
    signal.signal(signal.SIGTERM, _leave)
    home.scratch.mkdir(parents=True, exist_ok=True)
    flow = local_process(int(os.environ[FLOW_PID])) if FLOW_PID in os.environ else None
    with tempfile.TemporaryDirectory(prefix=f"{stage}-alive-", dir=home.scratch) as folder:
        sign = Path(folder) / "sign"
        sign.touch()
        environment = {SIGN_OF_LIFE: str(sign), LAUNCHER: str(compute.launcher), "PATH": path_of_stages()}
        process = start_bound([*compute.launch(home.root), *command], environment, sys.stdout.buffer)
        try:
            while process.poll() is None and not (flow and flow.has_ended()):
                _show(sign)
                time.sleep(LOOK_SECONDS)
        finally:
            end_group(process, GRACE_SECONDS)
    return _status(process)


def _show(sign: Path) -> None:
    """Change the file now and then: its content, since clocks differ between machines."""
    now = str(int(time.time() / SIGN_SECONDS))
    if sign.read_text() != now:
        sign.write_text(now)


def _status(process: "subprocess.Popen[bytes]") -> int:
    """Return the exit status as a shell has it: 128 and the signal for one that a signal ended."""
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
