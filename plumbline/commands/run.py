"""Run the pipeline for `plumbline run`, `compare` and `retry`, under a private Prefect server."""

import contextlib
import gc
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from plumbline.commands.output import print_json
from plumbline.errors import UserError
from plumbline.project.home import API_URL, Home, enter
from plumbline.project.run_record import read_record
from plumbline.runs.pipeline import resolve
from plumbline.runs.workspace import Request


def run_pipeline(home: Home, request: Request, verbose: bool, as_json: bool) -> None:
    """Run a request, show its progress, and print the results. Raises UserError for a wrong request."""
    resolve(home, request)
    if not verbose:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
    enter(home)
    name = _run_flow(home, request, Console(stderr=as_json))
    folder = home.runs / name
    if as_json:
        print_json(details(folder))
    else:
        _summarise(home, folder)


def details(folder: Path) -> dict[str, object]:
    """Return a run's record for `--json`: with metrics, what is wrong with its trainings, and comparison."""
    from plumbline.commands.summary import comparison_of, measured
    from plumbline.tracking.curves import findings

    wrong = {stage: [asdict(one) for one in listed] for stage, listed in findings(folder).items() if listed}
    found = comparison_of(folder)
    return {**read_record(folder).model_dump(), "results": measured(folder), "diagnosis": wrong,
            **({"comparison": asdict(found)} if found else {})}


def _run_flow(home: Home, request: Request, console: Console) -> str:
    """Run the flow in this process, under a private Prefect server unless one is up; return the run's id."""
    from flows.local_server import KEPT_OBJECTS, start_local_server
    from plumbline.commands.terminal import Bars, Lines
    from plumbline.project.watcher import watcher

    gc.set_threshold(KEPT_OBJECTS)
    with console.status("Starting Prefect"):
        server = start_local_server(home)
        # The server needs some seconds: import what is slow meanwhile.
        warming = threading.Thread(target=_warm_up, args=(home,), daemon=True)
        warming.start()
        if request.compare:
            from flows.compare import compare as flow
        else:
            from flows.retrain import retrain as flow  # type: ignore[assignment]

        warming.join()
        if server:
            server.wait()
    if console.is_terminal:
        bars = Bars(console)
        watcher.set(bars)
        with bars.live, _server_stays():
            name = flow(request)
    else:
        watcher.set(Lines(console))
        with _server_stays():
            name = flow(request)
    assert isinstance(name, str), "what a person asks for always runs"
    return name


@contextlib.contextmanager
def _server_stays() -> Iterator[None]:
    """Raise UserError where Prefect's server goes away during the run."""
    import httpx

    try:
        yield
    except httpx.TransportError as error:
        raise UserError(f"Prefect's server at {os.environ.get(API_URL)} went away during the run ({error}). "
                        "`plumbline show latest` says how far it came; finished stages are kept. Bring the "
                        "server back, or unset PREFECT_API_URL, and run again.") from error


def _warm_up(home: Home) -> None:
    with contextlib.suppress(Exception):  # the run meets the same problem, and reports it
        import dvc.repo  # noqa: F401

        from plumbline.tracking.store import prepare

        prepare(home)


def _summarise(home: Home, folder: Path) -> None:
    from plumbline.commands.summary import next_steps, show_run

    console = Console()
    record = read_record(folder)
    show_run(console, folder, record)
    console.print("Look next:", markup=False)
    for line in next_steps(folder, home.tracking_uri):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
