"""Which process runs which of Prefect's flow runs: a small file each, so that flow runs whose process died
are found.
"""

import contextlib
import json
import os
import signal
import time
from pathlib import Path

from plumbline.project.home import Home
from plumbline.project.processes import ProcessId, local_process

STOP_SECONDS = 20.0


def note_flow(home: Home) -> None:
    """Write down that this process runs the flow run that it is in, if it is in one."""
    from prefect.runtime import flow_run

    name = flow_run.id
    if name:
        me = local_process(os.getpid())
        born = "" if me.began is None else str(me.began)
        _folder(home).mkdir(parents=True, exist_ok=True)
        (_folder(home) / str(name)).write_text(json.dumps({"pid": me.pid, "host": me.host, "born": born}))


def has_died(home: Home, flow_run: str) -> bool | None:
    """Return True if the process of a flow run has ended; None if it is unknown or of another machine."""
    process = _read(_folder(home) / flow_run)
    return process.has_ended() if process else None


def flow_of(home: Home, pid: int) -> str | None:
    """Return the id of the flow run that a living process of this machine runs, if it runs one."""
    for file in _folder(home).glob("*"):
        process = _read(file)
        if process and process.pid == pid and _lives_here(process):
            return file.name
    return None


def any_died(home: Home) -> bool:
    """Return True if the process of any flow run that is not forgotten has ended."""
    return any(has_died(home, file.name) for file in _folder(home).glob("*"))


def stop_flows(home: Home) -> None:
    """Ask all flow runs on this machine to end, and wait up to 20 seconds: they record how far they came."""
    known = [_read(file) for file in _folder(home).glob("*")]
    asked = [one for one in known if one and _lives_here(one) and one.pid != os.getpid()]
    for process in asked:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while any(map(_lives_here, asked)) and time.monotonic() < deadline:
        time.sleep(0.1)


def forget_flows(home: Home, but: set[str]) -> None:
    """Delete the files of all flow runs but these."""
    for file in _folder(home).glob("*"):
        if file.name not in but:
            file.unlink(missing_ok=True)


def _read(file: Path) -> ProcessId | None:
    try:
        values = json.loads(file.read_text())
        return ProcessId(values["pid"], int(values["born"]) if values["born"] else None, values["host"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # just forgotten, or half written
        return None


def _lives_here(process: ProcessId) -> bool:
    return process.has_ended() is False


def _folder(home: Home) -> Path:
    return home.folder / "flows"
