"""The agent of a node: it starts the ranks of a stage with torch's elastic launcher, as `torchrun` does.

Unlike torchrun it ends with the status of the rank that failed first, without a traceback of its own, and
with those who started it.

    python -m plumbline.compute.agent ppo --processes 8
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.compute.nodes import ComputeNode, this_node
from plumbline.compute.rank import AGENT_PID, end_with_who_started_this
from plumbline.compute.start import SIGN_OF_LIFE, command_of
from plumbline.errors import GateFailed, UserError
from plumbline.progress import tell

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

SILENT_SECONDS = 60.0
"""Without a sign of life for this long, the stage is not wanted any more."""
LOOK_SECONDS = 2.0
MEETING_SECONDS = 1800
"""How long a node waits for the others to be started."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the ranks of this node and wait for them; return the exit status."""
    parser = argparse.ArgumentParser(prog="plumbline.compute.agent")
    parser.add_argument("stage")
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--port", type=int, default=0)
    asked = parser.parse_args(arguments)
    sign = os.environ.get(SIGN_OF_LIFE)
    if sign:
        end_without_sign(Path(sign), SILENT_SECONDS)
    else:
        end_with_who_started_this()
    try:
        node = this_node() if asked.nodes > 1 else None
        return _run(asked.stage, asked.processes, asked.nodes, node, asked.port)
    except UserError as error:
        tell({"error": str(error), "exit_code": error.exit_code})
        sys.stderr.write(f"\n{error}\n")
        return error.exit_code


def end_without_sign(sign: Path, seconds: float) -> None:
    """Kill this process when the file has not changed for `seconds`, or is deleted; returns at once.

    Its ranks end by themselves then.
    """
    def watch() -> None:
        seen, since = "", time.monotonic()
        while time.monotonic() - since < seconds:
            try:
                now = sign.read_text()
            except FileNotFoundError:  # the launcher has ended
                break
            except OSError:  # a shared folder that is away for a moment
                now = seen
            if now != seen:
                seen, since = now, time.monotonic()
            time.sleep(LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _run(stage: str, processes: int, nodes: int, node: ComputeNode | None, port: int) -> int:
    _prepare_environment(processes)
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if torch.cuda.is_available() and torch.cuda.device_count() < processes:
        raise UserError(f"compute.yaml asks for {processes} processes of `{stage}` on a node, one a GPU; "
                        f"this node has {torch.cuda.device_count()}. Lower `processes`, or ask the launcher "
                        "for more.")
    meeting: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "rdzv_configs": {}}
    if node:  # numbered by the launcher, so that rank 0 is on its first node
        meeting = {"rdzv_backend": "static", "rdzv_endpoint": f"{node.first}:{port}",
                   "rdzv_configs": {"rank": node.number, "timeout": MEETING_SECONDS}}
    config = LaunchConfig(nodes, nodes, processes, logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
                          run_id=f"{stage}-{port or os.getpid()}", max_restarts=0, **meeting)
    try:
        elastic_launch(config, entrypoint=sys.executable)("-u", *command_of(stage))
    except ChildFailedError as error:
        return _status(list(error.failures.values()))
    except torch.distributed.DistNetworkError as error:
        if not node or "trying to connect" not in str(error):
            raise  # another node has gone
        raise UserError(f"Node {node.number} of `{stage}` did not reach the first one, {node.first} port "
                        f"{port}, within {MEETING_SECONDS // 60} minutes. Look whether that one was started, "
                        "and whether the port is open between the nodes.") from None
    except SignalException as error:
        return 128 + error.sigval.value
    return 0


def _prepare_environment(processes: int) -> None:
    """Set what the ranks inherit: their agent, and a share of the cores of this node."""
    os.environ[AGENT_PID] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    os.environ.setdefault("LOGLEVEL", "CRITICAL")  # torch's launcher would repeat what the ranks have said


def _status(failures: "list[ProcessFailure]") -> int:
    """Return the status for ranks that failed: that of the first with something to put right; say which were
    killed.
    """
    statuses = []
    for failure in sorted(failures, key=lambda one: one.timestamp):
        if failure.exitcode in (UserError.exit_code, GateFailed.exit_code):
            statuses.append(failure.exitcode)
        elif failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:  # as the others are then
            sys.stderr.write(f"A rank, process {failure.pid}, was ended by signal {-failure.exitcode}.\n")
    return statuses[0] if statuses else 1


if __name__ == "__main__":
    raise SystemExit(main())
