"""What a stage's process knows of its place: alone, or a rank among processes that an agent has started.

An agent is a process of `compute/agent.py`, one on each node. It starts the ranks of its node in sessions of
their own, which a signal to the agent's group does not reach; so each rank watches the agent, and the agent
watches who has started it.
"""

import io
import os
import sys
from typing import TextIO

from plumbline.project.processes import end_group_with

FLOW_PID = "PLUMBLINE_FLOW_PID"
"""Names the flow's process, for the processes of its stages on the same machine."""
AGENT_PID = "PLUMBLINE_AGENT_PID"
"""Names the agent, for its ranks."""
LAUNCHER = "PLUMBLINE_LAUNCHER"
"""Holds the launcher of compute.yaml, for the receipt."""


def is_rank() -> bool:
    """Return True in a process that an agent has started."""
    return AGENT_PID in os.environ


def rank() -> int:
    """Return the number of this process among the ranks; 0 for one that is alone."""
    return int(os.environ["RANK"]) if is_rank() else 0


def ranks() -> int:
    """Return the number of ranks on all nodes; 1 for a process that is alone."""
    return int(os.environ["WORLD_SIZE"]) if is_rank() else 1


def end_with_who_started_this() -> None:
    """Let this process end with the agent, or else with the flow: after `kill -9` of it nothing else does."""
    starter = int(os.environ.get(AGENT_PID) or os.environ.get(FLOW_PID, "0"))
    if starter:
        end_group_with(starter)


def speak_as_rank() -> None:
    """Put the rank before each line that this process prints, unless it is rank 0 or alone."""
    if rank():
        sys.stdout = _Prefixed(sys.stdout, f"[rank {rank()}] ")
        sys.stderr = _Prefixed(sys.stderr, f"[rank {rank()}] ")


def compute_facts() -> dict[str, str]:
    """Return the processes on a node, the nodes and the launcher, for the receipt; nothing for a process that
    is alone.
    """
    if not is_rank():
        return {}
    launcher = os.environ.get(LAUNCHER)
    return {"processes": os.environ["LOCAL_WORLD_SIZE"], "nodes": os.environ["GROUP_WORLD_SIZE"],
            **({"launcher": launcher} if launcher else {})}


class _Prefixed(io.TextIOBase):
    """Writes whole lines with a prefix, each at once, so that those of other ranks do not come between."""

    def __init__(self, out: TextIO, prefix: str) -> None:
        self._out, self._prefix, self._rest = out, prefix, ""

    def write(self, text: str) -> int:
        """Write the lines that are complete now."""
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._out.write("".join(f"{self._prefix}{line}\n" for line in lines))
            self._out.flush()
        return len(text)

    def fileno(self) -> int:
        """Return the descriptor, for those who write past this object."""
        return self._out.fileno()
