"""Which process runs which flow run of Prefect's: a small file each, so that one that died without a word is found."""

import contextlib
import json
import os
import signal
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from plumbline.project.home import Home

STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Process:
    """A process of some machine. Its number may be another's later; its number with its time of birth may not."""

    pid: int
    host: str
    born: str

    @property
    def here(self) -> bool:
        """Whether it is, or was, on this machine."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether it still runs, for one on this machine."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # its number is now that of another user's process
            pass
        return _born(self.pid) == self.born


def note_flow(home: Home) -> None:
    """Say that this process runs the flow run that it is in, if it is in one."""
    from prefect.runtime import flow_run

    name = flow_run.id
    if name:
        me = Process(os.getpid(), socket.gethostname(), _born(os.getpid()))
        _folder(home).mkdir(parents=True, exist_ok=True)
        (_folder(home) / str(name)).write_text(json.dumps(asdict(me)))


def has_died(home: Home, flow_run: str) -> bool | None:
    """Whether the process of a flow run is gone; None where it cannot be told from here."""
    process = _read(_folder(home) / flow_run)
    return not process.alive if process and process.here else None


def flow_of(home: Home, pid: int) -> str | None:
    """The flow run that a living process of this machine runs, if it runs one."""
    for file in _folder(home).glob("*"):
        process = _read(file)
        if process and process.pid == pid and process.here and process.alive:
            return file.name
    return None


def any_died(home: Home) -> bool:
    """Whether the process of a flow run that is not forgotten is gone: it ended, or it died."""
    return any(has_died(home, file.name) for file in _folder(home).glob("*"))


def stop_flows(home: Home) -> None:
    """Ask all flow runs on this machine to end, and wait until they have: they write down how far they came."""
    found = [process for file in _folder(home).glob("*") if (process := _read(file))]
    asked = [process for process in found if process.here and process.alive and process.pid != os.getpid()]
    for process in asked:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while any(process.alive for process in asked) and time.monotonic() < deadline:
        time.sleep(0.1)


def forget_flows(home: Home, but: set[str]) -> None:
    """Delete what is known of all flow runs but these."""
    for file in _folder(home).glob("*"):
        if file.name not in but:
            file.unlink(missing_ok=True)


def _read(file: Path) -> Process | None:
    try:
        return Process(**json.loads(file.read_text()))
    except (FileNotFoundError, ValueError, TypeError):  # half written
        return None


def _born(pid: int) -> str:
    """When a process started, in ticks since boot; `zombie` for a dead one, nothing where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "zombie" if fields[0] == "Z" else fields[19]


def _folder(home: Home) -> Path:
    return home.folder / "flows"
