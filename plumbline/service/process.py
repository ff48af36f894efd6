"""Child processes that end with whoever started them, however that went."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

MARK = "PLUMBLINE_SERVICE"
"""The home of the `plumbline up` that a process belongs to: its children inherit it."""
GRACE_SECONDS = 10.0

# A shell that becomes the program. What it leaves in the background waits for the end of a pipe that only the starting
# process holds open; then it asks the program to end, and kills the whole group a few seconds later.
WITH_PIPE = ("exec 3<&0; (cat <&3 > /dev/null; kill -s TERM $$; sleep 10; kill -s KILL -- -$$) > /dev/null 2>&1 & "
             'exec 3<&-; exec "$@" < /dev/null')


def start(command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path,
          sockets: Sequence[int] = ()) -> "subprocess.Popen[bytes]":
    """Start a program in a session of its own; its output is added to `log`. Its pid is the program's own."""
    with open(log, "ab", opener=_for_me_only) as out:
        return subprocess.Popen(["sh", "-c", WITH_PIPE, "sh", *command], stdin=subprocess.PIPE, stdout=out, stderr=out,
                                env={**os.environ, **environment}, cwd=folder, pass_fds=sockets, start_new_session=True)


def _for_me_only(file: str, flags: int) -> int:
    return os.open(file, flags, 0o600)  # the pages print the token that signs in


def end(process: "subprocess.Popen[bytes]", grace: float = GRACE_SECONDS) -> None:
    """Ask the process's group to end, kill what is left of it after a while, and wait until it has gone."""
    _signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and _signal_group(process.pid, 0):
        process.poll()  # a zombie counts as a member of its group
        time.sleep(0.05)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        process.stdin.close()


def marked(home: Path) -> list[int]:
    """All processes that belong to the `plumbline up` of a home, but this one. Empty where there is no /proc."""
    wanted, found = f"{MARK}={home}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int(folder.name) != os.getpid() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it ended, or is another user's
            continue
    return found


def kill_marked(home: Path, grace: float = GRACE_SECONDS) -> int:
    """End what still belongs to the `plumbline up` of a home; how many processes that were."""
    left = marked(home)
    found, deadline = len(left), time.monotonic() + grace
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in left:
            _signal(pid, number)
        while left and (number == signal.SIGKILL or time.monotonic() < deadline):
            time.sleep(0.1)
            left = marked(home)
            if number == signal.SIGKILL and time.monotonic() > deadline + grace:
                break
    return found


def _signal_group(group: int, what: int) -> bool:
    try:
        os.killpg(group, what)
    except ProcessLookupError:
        return False
    return True


def _signal(pid: int, what: int) -> None:
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        return
