"""The command line: `plumbline run`, `runs`, `show`, `doctor`.

Exit status: 0 done, 1 a bug or a stage that broke, 2 something to put right, 3 a gate said no, 130 cancelled. What is
slow to import is imported inside the commands, so that `plumbline --help` and a mistyped option answer at once.
"""

import json
import os
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from plumbline.commands.care import care_app
from plumbline.commands.data import data_app
from plumbline.commands.run import details, run_pipeline
from plumbline.commands.service import add_service_commands
from plumbline.commands.ui import ui
from plumbline.errors import UserError, as_user_error
from plumbline.project.home import enter, find_home
from plumbline.project.run_record import find_run, read_record, readable_records, run_folders
from plumbline.runs.stage_process import StageFailed
from plumbline.runs.workspace import Request
from plumbline.tracking.store import broken_store

CANCELLED = 130
KEPT = "Cancelled. Finished stages are kept: the same command goes on from there."
NEWEST_RUNS = 20

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  rich_markup_mode="markdown",
                  help="Keep a language model aligned with human preferences, and know which data made which model.")
app.add_typer(data_app, name="data")
app.add_typer(care_app)
add_service_commands(app)
app.command(epilog="Examples:\n\n    plumbline ui\n\n    plumbline ui --port 8080 --show-token")(ui)
Names = list[str] | None
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program instead of text for a person.")]


@app.command(epilog="Examples:\n\n    plumbline run\n\n    plumbline run --set ppo.kl_coef=0.1 --set seed=1\n\n"
                    "    plumbline run --params params/smollm2.yaml\n\n    plumbline run --until sft\n\n"
                    "    plumbline run --force reward_eval")
def run(
    params: Annotated[str | None, typer.Option(metavar="FILE", help="Parameter file laid over params.yaml.")] = None,
    set_: Annotated[Names, typer.Option("--set", metavar="KEY=VALUE", help="One parameter; repeatable.")] = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Last stage to run.")] = None,
    force: Annotated[Names, typer.Option(metavar="STAGE", help="Run it though nothing changed; repeatable.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Prefect's own log as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the pipeline; stages that nothing changed for are reused."""
    home = find_home()
    request = Request(params_file=_from_here(params), settings=set_ or [], until=until, force=force or [])
    run_pipeline(home, request, verbose, as_json)


@app.command(epilog="Examples:\n\n    plumbline runs\n\n    plumbline runs --json | jq '.[0].stages'")
def runs(
    all_: Annotated[bool, typer.Option("--all", help=f"All of them, not the newest {NEWEST_RUNS}.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the runs, newest first."""
    from plumbline.commands.summary import list_runs
    from plumbline.runs.not_run import not_run

    home = find_home()
    folders = run_folders(home)[::-1]
    records, damaged = readable_records(folders if all_ else folders[:NEWEST_RUNS])
    for problem in damaged:
        typer.echo(problem, err=True)
    if as_json:
        _print_json([record.model_dump() for record in records])
    elif records:
        list_runs(Console(), records, len(folders))
    elif not damaged:
        typer.echo("There are no runs yet. Start one with `plumbline run`.")
    if not as_json and (skipped := next(iter(not_run(home)), None)):
        typer.echo(f"Not run: {skipped}")


@app.command(epilog="Examples:\n\n    plumbline show latest\n\n    plumbline show 20261121-10 --json")
def show(
    name: Annotated[str, typer.Argument(metavar="RUN", help="`latest`, or the beginning of a run's id.")],
    as_json: AsJson = False,
) -> None:
    """Show a run: for each stage whether it ran or was reused and why, and what was measured."""
    from plumbline.commands.summary import show_run

    folder = find_run(find_home(), name)
    if as_json:
        _print_json(details(folder))
    else:
        record = read_record(folder)
        show_run(Console(), folder, record)
        if record.message:
            typer.echo(record.message)


@app.command(epilog="Examples:\n\n    plumbline doctor\n\n    plumbline doctor --json")
def doctor(as_json: AsJson = False) -> None:
    """Check versions, known broken combinations, devices, disk, stores and the hub."""
    from plumbline.commands.doctor import examine, show_findings

    home = find_home()
    enter(home)
    findings = examine(home)
    if as_json:
        _print_json([finding.as_dict() for finding in findings])
    else:
        show_findings(Console(), findings)
    if any(finding.status == "broken" for finding in findings):
        raise typer.Exit(UserError.exit_code)


def _from_here(file: str | None) -> str | None:
    """A file that the user named, seen from the folder that she is in."""
    return os.path.abspath(file) if file else None  # noqa: PTH100 - resolving links would hide the name she gave


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; a user's mistake is one paragraph, not a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except StageFailed as error:
        _leave(str(error), 1)
    except SystemExit as error:
        if error.code == CANCELLED:  # typer's answer to Ctrl-C
            _leave(KEPT, CANCELLED)
        raise
    except BaseException as error:
        problem = as_user_error(error) or broken_store(os.environ.get("MLFLOW_TRACKING_URI", ""), error)
        if problem:
            _leave(str(problem), problem.exit_code)
        # Prefect raises its own exception for SIGTERM during a flow.
        if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "TerminationSignal":
            _leave(KEPT, CANCELLED)
        raise


def _leave(message: str, status: int) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    raise SystemExit(status) from None


if __name__ == "__main__":
    main()
