"""Processes: has one ended, how to end one with all its children, and how to let one end with its parent.

Operating systems give a process's number to a later process again, so a process is known by its number
together with the time of its birth.
"""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

STATE, BEGAN = 0, 19
"""Fields of /proc/pid/stat after the process's name, see proc(5)."""
ZOMBIE = "Z"
GRACE_SECONDS = 10.0
LOOK_SECONDS = 1.0

# A shell that becomes the program. What it leaves in the background waits for the end of a pipe that only the
# starting process holds open; then it asks the program to end, and kills the whole group a few seconds later.
WITH_PIPE = ("exec 3<&0; (cat <&3 > /dev/null; kill -s TERM $$; sleep 10; kill -s KILL -- -$$) > /dev/null "
             "2>&1 & "
             'exec 3<&-; exec "$@" < /dev/null')


@dataclass(frozen=True)
class ProcessId:
    """A process of some machine."""

    pid: int
    began: int | None
    """The time of its birth, in ticks since the machine started; None where unknown: the number alone
    counts.
    """
    host: str

    def has_ended(self) -> bool | None:
        """Return True for a process that has ended, zombies included; None for a process of another
        machine.
        """
        if self.host != socket.gethostname():
            return None
        fields = _stat(self.pid)
        if fields is None:
            return not _exists(self.pid)
        return fields[STATE] == ZOMBIE or self.began not in (None, int(fields[BEGAN]))


def local_process(pid: int) -> ProcessId:
    """Return the process of this machine that has a number now."""
    fields = _stat(pid)
    return ProcessId(pid, int(fields[BEGAN]) if fields else None, socket.gethostname())


def end_group(process: "subprocess.Popen[bytes]", grace: float = GRACE_SECONDS) -> None:
    """Ask the group that a process leads to end, kill the rest after `grace` seconds, and wait for the
    process.
    """
    _signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and _signal_group(process.pid, 0):
        process.poll()  # a zombie counts as a member of its group
        time.sleep(0.05)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        process.stdin.close()


def start_bound(command: Sequence[str], environment: Mapping[str, str], log: IO[bytes],
                folder: Path | None = None, sockets: Sequence[int] = ()) -> "subprocess.Popen[bytes]":
    """Start a program that ends with this process, even after `kill -9`.

    It leads a session of its own, and the returned pid is its own. `environment` is added to this process's,
    the output goes to `log`, and the file descriptors `sockets` stay open.
    """
    return subprocess.Popen(["sh", "-c", WITH_PIPE, "sh", *command], stdin=subprocess.PIPE, stdout=log,
                            stderr=log, env={**os.environ, **environment}, cwd=folder, pass_fds=sockets,
                            start_new_session=True)


def end_group_with(pid: int) -> None:
    """Kill this process's group within about a second of the end of the process `pid`; returns at once."""
    process = local_process(pid)

    def watch() -> None:
        while not process.has_ended():
            time.sleep(LOOK_SECONDS)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/pid/stat after the process's name; None without /proc or such a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def _signal_group(group: int, number: int) -> bool:
    """Send a signal, or test with signal 0; return False if the group has no processes left."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
