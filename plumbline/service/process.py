"""The processes of `plumbline up`: each ends with the process that started it, and all carry a mark."""

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import Popen

from plumbline.project.processes import GRACE_SECONDS, start_bound

MARK = "PLUMBLINE_SERVICE"
"""The home of the `plumbline up` that a process belongs to: its children inherit it."""


def start(command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path,
          sockets: Sequence[int] = ()) -> "Popen[bytes]":
    """Start a program that ends with this process; its output is added to `log`, which only the owner may
    read.
    """
    with open(log, "ab", opener=_for_me_only) as out:
        return start_bound(command, environment, out, folder, sockets)


def marked(home: Path) -> list[int]:
    """Return the pids of the processes of a home's `plumbline up`, without this one.

    Empty where there is no /proc.
    """
    wanted, found = f"{MARK}={home}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int(folder.name) != os.getpid() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it ended, or is another user's
            continue
    return found


def kill_marked(home: Path, grace: float = GRACE_SECONDS) -> int:
    """End the processes that still belong to the `plumbline up` of a home.

    Returns the number of processes found.
    """
    found = left = marked(home)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + grace
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            left = marked(home)
    return len(found)


def _for_me_only(file: str, flags: int) -> int:
    return os.open(file, flags, 0o600)  # the pages print the token that signs in
