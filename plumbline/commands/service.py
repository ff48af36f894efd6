"""The commands of the service: `plumbline up`, `down`, `status`, and its pages alone, `plumbline ui`."""

import os
import signal
import subprocess
import sys
import time
from socket import gethostname, socket
from typing import Annotated

import typer

from plumbline.commands.output import AsJson, Names, command_group, entered_home, examples, print_json
from plumbline.errors import UserError
from plumbline.project.home import Home, enter, find_home
from plumbline.project.service_lock import STATE, is_up, service_folder

START_SECONDS = 240
STOP_SECONDS = 90
LOCAL, PORT = "127.0.0.1", 4280

service_app = command_group()
ServiceHost = Annotated[str, typer.Option(
    help="Address of Plumbline's pages; 0.0.0.0 lets other machines in, which then need the token to read. "
         "Prefect and MLflow stay on this machine.")]
Detach = Annotated[bool, typer.Option("--detach", help="Return when all is up, and leave it running.")]
PagesHost = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")]
HostNames = Annotated[Names, typer.Option(
    metavar="NAME", envvar="PLUMBLINE_NAMES",
    help="A host name that others open it by, such as that of a proxy in front; repeatable.")]
OpenReading = Annotated[bool, typer.Option(
    envvar="PLUMBLINE_OPEN_READING",
    help="Let everybody read who can reach an address that other machines reach, without the token.")]
InheritedSocket = Annotated[int | None, typer.Option("--socket", hidden=True)]
ShowToken = Annotated[bool, typer.Option("--show-token",
                                         help="Print the address with the token; start nothing.")]


@service_app.command(epilog=examples("plumbline up", "plumbline up --detach", "plumbline up --host 0.0.0.0"))
def up(host: ServiceHost = LOCAL, detach: Detach = False) -> None:
    """Start everything on this machine: Prefect, the worker that retrains, the pages, MLflow. Ctrl-C stops
    it.
    """
    from plumbline.config import load_params
    from plumbline.retraining.clock import next_scheduled
    from plumbline.service.supervisor import already_up

    home = find_home()
    params = load_params(home.root)
    if is_up(home.folder):
        raise UserError(already_up(home))
    enter(home)
    # Raise now for a schedule that Prefect does not take: the worker would fail again and again.
    next_scheduled(home, params.retrain)
    command = [sys.executable, "-m", "plumbline.service.supervisor", host]
    os.chdir(home.root)
    if not detach:
        sys.stdout.flush()
        os.execv(sys.executable, command)  # a small process instead of this one
    folder = service_folder(home.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "up.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True)
    _wait_until_up(home, process)
    _show(home, False)


@service_app.command(epilog=examples("plumbline down"))
def down() -> None:
    """Stop everything that `plumbline up` started; a run that is going on is stopped, and goes on next
    time.
    """
    from plumbline.service.process import kill_marked
    from plumbline.service.state import read_state

    home = find_home()
    state = read_state(home.folder)
    if state is None:
        if is_up(home.folder):
            raise UserError("Plumbline is up for this project, and does not say as which process: "
                            f"{service_folder(home.folder) / STATE} is not there or is damaged. If it is "
                            "being started, try again; otherwise end it where it runs: Ctrl-C, or `kill`.")
        left = kill_marked(home.folder)
        typer.echo(f"Ended {left} processes that a killed `plumbline up` had left." if left else
                   "Nothing is up for this project.")
        return
    if state.host != gethostname():
        raise UserError(f"Plumbline is up for this project on {state.host}, as process {state.pid}, and this "
                        f"is {gethostname()}: call `plumbline down` there.")
    os.kill(state.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while is_up(home.folder):
        if time.monotonic() > deadline:
            raise UserError(f"Process {state.pid} has not stopped within {STOP_SECONDS} s. See "
                            f"{service_folder(home.folder)}; `kill -9 {state.pid}` ends it, and what it "
                            "started ends with it.")
        time.sleep(0.2)
    typer.echo("Stopped.")


@service_app.command(epilog=examples("plumbline status", "plumbline status --json | jq .due"))
def status(as_json: AsJson = False) -> None:
    """Say what is up and where, what is running, and what would start the next run. Exit status 1 when
    nothing is.
    """
    home = entered_home()
    if not _show(home, as_json):
        raise typer.Exit(1)


@service_app.command(epilog=examples("plumbline ui", "plumbline ui --port 8080 --show-token"))
def ui(context: typer.Context, host: PagesHost = LOCAL, port: Port = PORT, name: HostNames = None,
       open_reading: OpenReading = False, inherited: InheritedSocket = None,
       show_token: ShowToken = False) -> None:
    """Show the pages: lineage, runs, data, models, feedback."""
    home = entered_home()
    if show_token:
        from plumbline.web.security import open_keys

        served = None if _is_given(context, "host") or _is_given(context, "port") else _pages_address(home)
        address = served or f"http://{LOCAL if host == '0.0.0.0' else host}:{port}/"
        typer.echo(f"{address}?token={open_keys(home)[0].token}")
        return
    from plumbline.web.server import listen, serve

    # `plumbline up` holds the socket, so that nobody is refused while killed pages are started again.
    listening = listen(host, port) if inherited is None else socket(fileno=inherited)
    serve(home, host, listening, name or [], open_reading, typer.echo)


def _is_given(context: typer.Context, option: str) -> bool:
    """True if the option was given on the command line."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _pages_address(home: Home) -> str | None:
    """Return where `plumbline up` serves the pages, which may be another port; None if it is not up here."""
    from plumbline.service.state import read_state

    state = read_state(home.folder)
    if state is None or state.host != gethostname():
        return None
    return next((part.address for part in state.parts if part.name == "pages"), None)


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
        print_json(for_a_program(found))
    else:
        for line in lines(found):
            typer.echo(line)
    return found["up"]
