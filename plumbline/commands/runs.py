"""The commands about runs: `plumbline run`, `compare`, `retry`, `cancel`, `runs`, `show`, `restore`, `pin`,
`unpin`.
"""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from plumbline.commands.output import (
    AsJson,
    Names,
    Reason,
    RunName,
    Verbose,
    answer,
    command_group,
    entered_home,
    examples,
    print_json,
)
from plumbline.errors import UserError
from plumbline.project.home import find_home

NEWEST_RUNS = 20

runs_app = command_group()
ParameterFile = Annotated[str | None, typer.Option(metavar="FILE", help="Parameter file laid over "
                                                                        "params.yaml.")]
Settings = Annotated[Names, typer.Option("--set", metavar="KEY=VALUE", help="One parameter; repeatable.")]
CandidateNames = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names in `candidates` of "
                                                                           "params.yaml.")]
Until = Annotated[str | None, typer.Option(metavar="STAGE", help="Last stage to run.")]
Force = Annotated[Names, typer.Option(metavar="STAGE", help="Run it though nothing changed; repeatable.")]
NewCode = Annotated[bool, typer.Option("--new-code", help="With the checkout's code as it is now, not with "
                                                          "the run's.")]
All = Annotated[bool, typer.Option("--all", help=f"All of them, not the newest {NEWEST_RUNS}.")]
Gone = Annotated[bool, typer.Option("--gone", help="Close a run whose machine or container is gone for "
                                                   "good.")]
To = Annotated[str | None, typer.Option(metavar="DIR", help="Put it there instead of its place in runs/.")]


@runs_app.command(epilog=examples("plumbline run", "plumbline run --set ppo.kl_coef=0.1 --set seed=1",
                                  "plumbline run --params params/smollm2.yaml", "plumbline run --until sft",
                                  "plumbline run --force reward_eval"))
def run(params: ParameterFile = None, set_: Settings = None, until: Until = None, force: Force = None,
        verbose: Verbose = False, as_json: AsJson = False) -> None:
    """Run the pipeline; stages that nothing changed for are reused."""
    from plumbline.commands.run import run_pipeline
    from plumbline.runs.workspace import Request

    home = find_home()
    # Resolving links would hide the name that the user gave.
    file = os.path.abspath(params) if params else None  # noqa: PTH100
    request = Request(params_file=file, settings=set_ or [], until=until, force=force or [])
    run_pipeline(home, request, verbose, as_json)


@runs_app.command(epilog=examples(
    "plumbline compare dpo", "plumbline compare dpo kto --params params/smollm2.yaml",
    "plumbline compare mine --set candidates.mine='{method: ppo, kl_coef: 0.02}'"))
def compare(names: CandidateNames, params: ParameterFile = None, set_: Settings = None,
            force: Force = None, verbose: Verbose = False, as_json: AsJson = False) -> None:
    """Train and judge candidates beside PPO on the same data; what an ordinary run has made is reused.

    A candidate is a method with parameters, under a name in `candidates` of params.yaml. The method `ilql`
    has none there: one of yours gives it expectile, gamma, conservatism, likelihood_weight, target_rate and
    steering. No champion is promoted.
    """
    from plumbline.commands.run import run_pipeline
    from plumbline.runs.workspace import Request

    # Resolving links would hide the name that the user gave.
    file = os.path.abspath(params) if params else None  # noqa: PTH100
    request = Request(params_file=file, settings=set_ or [], force=force or [],
                      compare=list(dict.fromkeys(names)))
    run_pipeline(find_home(), request, verbose, as_json)


@runs_app.command(epilog=examples("plumbline retry latest", "plumbline retry 20261121-104650 --new-code"))
def retry(name: RunName, new_code: NewCode = False, verbose: Verbose = False,
          as_json: AsJson = False) -> None:
    """Go on from the stage at which a run stopped, with its parameters, code and data."""
    from plumbline.commands.run import run_pipeline
    from plumbline.runs.retry import retry_request

    home = entered_home()
    run_pipeline(home, retry_request(home, name, new_code), verbose, as_json)


@runs_app.command(epilog=examples("plumbline cancel latest", "plumbline cancel 20261121-104650 --gone"))
def cancel(name: RunName, gone: Gone = False, as_json: AsJson = False) -> None:
    """End a run of this machine as Ctrl-C would; finished stages are kept."""
    from plumbline.runs.cancel import cancel as end

    run, status = end(entered_home(), name, gone)
    answer(as_json, {"id": run, "status": status},
           f"The run {run} has ended: {status}. `plumbline retry {run}` goes on from there.")


@runs_app.command(epilog=examples("plumbline runs", "plumbline runs --json | jq '.[0].stages'"))
def runs(all_: All = False, as_json: AsJson = False) -> None:
    """List the runs, newest first."""
    from plumbline.commands.summary import list_runs
    from plumbline.project.run_record import readable_records, run_folders
    from plumbline.runs.not_run import not_run

    home = find_home()
    folders = run_folders(home)[::-1]
    records, damaged = readable_records(folders if all_ else folders[:NEWEST_RUNS])
    for problem in damaged:
        typer.echo(problem, err=True)
    if as_json:
        print_json([record.model_dump() for record in records])
        return
    if records:
        list_runs(Console(), records, len(folders))
    elif not damaged:
        typer.echo("There are no runs yet. Start one with `plumbline run`.")
    for skipped in not_run(home)[:1]:
        typer.echo(f"Not run: {skipped}")


@runs_app.command(epilog=examples("plumbline show latest", "plumbline show 20261121-10 --json"))
def show(name: RunName, as_json: AsJson = False) -> None:
    """Show a run: for each stage whether it ran or was reused and why, and what was measured."""
    from plumbline.commands.feedback import people_on
    from plumbline.commands.run import details
    from plumbline.commands.summary import show_run
    from plumbline.project.run_record import find_run, read_record

    home = find_home()
    folder = find_run(home, name)
    people = people_on(home, folder)
    if as_json:
        print_json({**details(folder), "people": [asdict(one) for one in people]})
        return
    record = read_record(folder)
    show_run(Console(), folder, record)
    for one in people:
        typer.echo(f"people, against {one.named}: {one}")
    if record.message:
        typer.echo(record.message)


@runs_app.command(epilog=examples("plumbline restore latest", "plumbline restore 20261121-104650 --to "
                                                              "/tmp/that-run"))
def restore(name: RunName, to: To = None, as_json: AsJson = False) -> None:
    """Put back a run's data, parameters and models, from this machine's cache or the DVC remotes."""
    from plumbline.runs.restore import restore as put_back

    found = put_back(entered_home(), name, Path(to).absolute() if to else None)
    if as_json:
        print_json({**asdict(found), "folder": str(found.folder)})
        return
    done = f"was restored: {len(found.outputs)} outputs"
    if found.was_whole:
        done = "is whole; nothing had to be done"
    typer.echo(f"{found.run} in {found.folder} {done}.")
    if found.other_code:
        typer.echo(f"Its code could not be put back: {', '.join(found.other_code)} differ from what it used, "
                   "so its stages may give other numbers now.")
    elif to is None:
        typer.echo(f"Evaluate it again: cd {found.folder} && dvc repro --single-item --force preference_eval")


@runs_app.command(epilog=examples("plumbline pin latest --reason 'the paper cites it'",
                                  "plumbline unpin latest"))
def pin(name: RunName, reason: Reason = "", as_json: AsJson = False) -> None:
    """Keep a run, whatever `plumbline gc` frees."""
    _set_pin(name, reason or "no reason given", as_json)


@runs_app.command(epilog=examples("plumbline unpin latest"))
def unpin(name: RunName, as_json: AsJson = False) -> None:
    """Let `plumbline gc` free a run like any other."""
    _set_pin(name, None, as_json)


def _set_pin(name: str, reason: str | None, as_json: bool) -> None:
    from plumbline.project.run_record import find_run, is_gone, raw_record

    folder = find_run(entered_home(), name)
    record = raw_record(folder)
    if record.status == "running" and not is_gone(record):  # of a killed one nobody may have written the end
        raise UserError(f"The run {record.id} is still going on, and kept as long as it is. Pin it when it "
                        "has ended.")
    record.pinned = reason
    record.save(folder)
    pinned = f"pinned: {reason}" if reason else "not pinned"
    answer(as_json, {"id": record.id, "pinned": reason}, f"{record.id} is {pinned}.")
