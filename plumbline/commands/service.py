"""The commands of the service: `plumbline up`, `down`, `status`."""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Annotated

import typer

from plumbline.errors import UserError
from plumbline.project.home import Home, enter, find_home
from plumbline.project.service_lock import is_up, service_folder

START_SECONDS = 240
STOP_SECONDS = 90
LOCAL = "127.0.0.1"
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program instead of text for a person.")]


def add_service_commands(app: typer.Typer) -> None:
    """Give the command line `up`, `down` and `status`."""
    examples = "Examples:\n\n    plumbline up\n\n    plumbline up --detach\n\n    plumbline up --host 0.0.0.0"
    app.command(epilog=examples)(up)
    app.command(epilog="Examples:\n\n    plumbline down")(down)
    app.command(epilog="Examples:\n\n    plumbline status\n\n    plumbline status --json | jq .due")(status)


def up(
    host: Annotated[str, typer.Option(help="Address of Plumbline's pages; 0.0.0.0 lets other machines in, which then "
                                           "need the token to read. Prefect and MLflow stay on this machine.")] = LOCAL,
    detach: Annotated[bool, typer.Option("--detach", help="Return when all is up, and leave it running.")] = False,
) -> None:
    """Start everything on this machine: Prefect, the worker that retrains, the pages, MLflow. Ctrl-C stops it."""
    from plumbline.config import load_params
    from plumbline.retraining.clock import next_scheduled
    from plumbline.service.supervisor import already_up

    home = find_home()
    params = load_params(home.root)
    if is_up(home.folder):
        raise UserError(already_up(home))
    enter(home)
    next_scheduled(home, params.retrain)  # the worker would fail again and again for what Prefect does not take
    command = [sys.executable, "-m", "plumbline.service.supervisor", host]
    os.chdir(home.root)
    if not detach:
        sys.stdout.flush()
        os.execv(sys.executable, command)  # a small process instead of this one
    folder = service_folder(home.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "up.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    _wait_until_up(home, process)
    _show(home, False)


def down() -> None:
    """Stop everything that `plumbline up` started; a run that is going on is stopped, and goes on next time."""
    from plumbline.service.process import kill_marked
    from plumbline.service.state import read_state

    home = find_home()
    state = read_state(home.folder)
    if state is None:
        left = kill_marked(home.folder)
        typer.echo(f"Ended {left} processes that a killed `plumbline up` had left." if left else
                   "Nothing is up for this project.")
        return
    os.kill(state.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while is_up(home.folder):
        if time.monotonic() > deadline:
            raise UserError(f"Process {state.pid} has not stopped within {STOP_SECONDS} s. See "
                            f"{service_folder(home.folder)}; `kill -9 {state.pid}` ends it, and what it started ends "
                            "with it.")
        time.sleep(0.2)
    typer.echo("Stopped.")


def status(as_json: AsJson = False) -> None:
    """Say what is up and where, what is running, and what would start the next run. Exit status 1 when nothing is."""
    home = find_home()
    enter(home)
    if not _show(home, as_json):
        raise typer.Exit(1)


def _wait_until_up(home: Home, process: "subprocess.Popen[bytes]") -> None:
    from plumbline.service.state import read_state

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise UserError(f"It ended at once. {service_folder(home.folder) / 'up.log'} says why.")
        state = read_state(home.folder)
        if state and all(part.status == "up" for part in state.parts):
            return
        time.sleep(0.2)
    typer.echo(f"Not everything is up after {START_SECONDS} s; it goes on trying.", err=True)


def _show(home: Home, as_json: bool) -> bool:
    from plumbline.service.status import as_json as for_a_program
    from plumbline.service.status import describe, lines

    found = describe(home)
    if as_json:
        typer.echo(json.dumps(for_a_program(found), indent=1, ensure_ascii=False))
    else:
        for line in lines(found):
            typer.echo(line)
    return found["up"]
