"""Which process runs which flow run of Prefect's: a small file each, so that one that died without a word is found."""

import json
import os
import socket
from pathlib import Path

from plumbline.lineage.home import Home
from plumbline.lineage.records import alive


def note_flow(home: Home) -> None:
    """Say that this process runs the flow run that it is in, if it is in one."""
    from prefect.runtime import flow_run

    name = flow_run.id
    if name:
        _folder(home).mkdir(parents=True, exist_ok=True)
        (_folder(home) / str(name)).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))


def has_died(home: Home, flow_run: str) -> bool | None:
    """Whether the process of a flow run is gone; None where it cannot be told from here."""
    try:
        values = json.loads((_folder(home) / flow_run).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return not alive(values["pid"]) if values["host"] == socket.gethostname() else None


def flow_of(home: Home, pid: int) -> str | None:
    """The flow run that a process of this machine runs, if it runs one."""
    for file in _folder(home).glob("*"):
        values = json.loads(file.read_text())
        if (values["pid"], values["host"]) == (pid, socket.gethostname()):
            return file.name
    return None


def forget_flows(home: Home, but: set[str]) -> None:
    """Delete what is known of all flow runs but these."""
    for file in _folder(home).glob("*"):
        if file.name not in but:
            file.unlink(missing_ok=True)


def _folder(home: Home) -> Path:
    return home.folder / "flows"
