"""The command line that cares for what is recorded: `plumbline restore`, `push`, `pull`, `promote`, `rollback`,
`retry`, `cancel`, `pin`, `unpin`, `gc`.
"""

import getpass
import json
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from plumbline.project.home import Home
    from plumbline.tracking.registry import Registry

care_app = typer.Typer(rich_markup_mode="markdown")
Run = Annotated[str, typer.Argument(metavar="RUN", help="`latest`, or the beginning of a run's id.")]
MaybeRun = Annotated[str | None, typer.Argument(metavar="[RUN]", help="`latest`, or the beginning of a run's id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program instead of text for a person.")]
Why = Annotated[str, typer.Option("--reason", help="Why, for whoever reads the history.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]
SHOWN = 10


@care_app.command(epilog="Examples:\n\n    plumbline restore latest\n\n"
                         "    plumbline restore 20261121-104650 --to /tmp/that-run")
def restore(name: Run, to: Annotated[str | None, typer.Option(metavar="DIR", help="Put it there instead of its place "
                                                              "in runs/.")] = None, as_json: AsJson = False) -> None:
    """Put back a run's data, parameters and models, from this machine's cache or the DVC remotes."""
    from plumbline.runs.restore import restore as put_back

    found = put_back(_home(), name, Path(to).absolute() if to else None)
    if as_json:
        _print_json({**asdict(found), "folder": str(found.folder)})
        return
    what = "is whole; nothing had to be done" if found.was_whole else f"was restored: {len(found.outputs)} outputs"
    typer.echo(f"{found.run} in {found.folder} {what}.")
    if found.other_code:
        typer.echo(f"Its code could not be put back: {', '.join(found.other_code)} differ from what it used, so its "
                   "stages may give other numbers now.")
    elif to is None:
        typer.echo(f"Evaluate it again: cd {found.folder} && dvc repro --single-item --force preference_eval")


@care_app.command(epilog="Examples:\n\n    plumbline push\n\n    plumbline push latest --remote backup")
def push(name: MaybeRun = None, remote: Annotated[str | None, typer.Option(metavar="NAME", help="Not the default "
                                                                           "remote.")] = None,
         as_json: AsJson = False) -> None:
    """Copy a run, or all batches and every run of this machine, to a DVC remote; what it has already stays there."""
    from plumbline.storage import push_pull as sharing

    done = sharing.push(_home(), name, remote)
    if as_json:
        _print_json(asdict(done))
        return
    typer.echo(f"Pushed {done.things:,} batches and outputs of runs: {done.files:,} new files, {_size(done.size)}.")
    _list("Left out, because the cache does not hold it", done.left_out)


@care_app.command(epilog="Examples:\n\n    plumbline pull\n\n    plumbline pull 20261121-104650")
def pull(name: MaybeRun = None, as_json: AsJson = False) -> None:
    """Bring a run into the cache, or all batches and the runs behind champion, challenger and previous."""
    from plumbline.errors import UserError
    from plumbline.storage import push_pull as sharing

    done = sharing.pull(_home(), name)
    if as_json:
        _print_json(asdict(done))
    else:
        typer.echo(f"Fetched {len(done.fetched):,} batches and outputs of runs.")
        _list("In no remote", done.missing)
    if done.missing:
        raise typer.Exit(UserError.exit_code)


@care_app.command(epilog="Examples:\n\n    plumbline promote 7 --reason 'best on our own prompts'\n\n"
                         "    plumbline promote 7 --reason 'as agreed' --yes --json")
def promote(version: Annotated[int, typer.Argument(metavar="VERSION", help="A version of the registered policy.")],
            reason: Why = "", yes: Yes = False, as_json: AsJson = False) -> None:
    """Make a version of the policy champion, whatever was measured; the one before becomes `previous`."""
    home = _home()
    registry = _registry(home)
    seen = _champion(registry)
    _confirm(f"Make version {version} of `{registry.name}` champion instead of {_named(seen)}?", yes, as_json)
    registry.promote(version, reason, _who(), seen)
    _changed(home, registry, seen, as_json)


@care_app.command(epilog="Examples:\n\n    plumbline rollback --reason 'it swears'\n\n"
                         "    plumbline rollback --reason 'it swears' --yes")
def rollback(reason: Why = "", yes: Yes = False, as_json: AsJson = False) -> None:
    """Make the version before the champion champion again; no run undoes that by itself."""
    home = _home()
    registry = _registry(home)
    seen = _champion(registry)
    previous = registry.aliased("previous")
    _confirm(f"Roll `{registry.name}` back from {_named(seen)} to "
             f"{_named(previous.version if previous else None)}?", yes, as_json)
    registry.roll_back(reason, _who(), seen)
    _changed(home, registry, seen, as_json)


@care_app.command(epilog="Examples:\n\n    plumbline retry latest\n\n    plumbline retry 20261121-104650 --new-code")
def retry(name: Run, new_code: Annotated[bool, typer.Option("--new-code", help="With the checkout's code as it is now, "
                                                            "not with the run's.")] = False,
          verbose: Annotated[bool, typer.Option("--verbose", help="Show Prefect's own log as well.")] = False,
          as_json: AsJson = False) -> None:
    """Go on from the stage at which a run stopped, with its parameters, code and data."""
    from plumbline.commands.run import run_pipeline
    from plumbline.runs.retry import retry_request

    home = _home()
    run_pipeline(home, retry_request(home, name, new_code), verbose, as_json)


@care_app.command(epilog="Examples:\n\n    plumbline cancel latest\n\n    plumbline cancel 20261121-104650 --json")
def cancel(name: Run, as_json: AsJson = False) -> None:
    """End a run of this machine as Ctrl-C would; finished stages are kept."""
    from plumbline.runs.cancel import cancel as end

    run, status = end(_home(), name)
    if as_json:
        _print_json({"id": run, "status": status})
    else:
        typer.echo(f"The run {run} has ended: {status}. `plumbline retry {run}` goes on from there.")


@care_app.command(epilog="Examples:\n\n    plumbline pin latest --reason 'the paper cites it'\n\n"
                         "    plumbline unpin latest")
def pin(name: Run, reason: Why = "", as_json: AsJson = False) -> None:
    """Keep a run, whatever `plumbline gc` frees."""
    _set_pin(name, reason or "no reason given", as_json)


@care_app.command(epilog="Examples:\n\n    plumbline unpin latest")
def unpin(name: Run, as_json: AsJson = False) -> None:
    """Let `plumbline gc` free a run like any other."""
    _set_pin(name, None, as_json)


@care_app.command(epilog="Examples:\n\n    plumbline gc --dry-run\n\n    plumbline gc --runs 3 --yes\n\n"
                         "    plumbline gc --keep 20261121-104650 --dry-run --json")
def gc(newest: Annotated[int, typer.Option("--runs", min=0, help="How many of the newest runs to keep.")] = 10,
       keep: Annotated[list[str] | None, typer.Option(metavar="RUN", help="Keep this run, too; repeatable.")] = None,
       dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would go, and delete nothing.")] = False,
       yes: Yes = False, as_json: AsJson = False) -> None:
    """Free what neither the champion nor its neighbours, the newest runs, pins or running runs need."""
    from plumbline.storage.gc import collect, make_plan

    home = _home()
    plan = make_plan(home, newest, keep or [])
    total = sum(kind.size for kind in plan.freed)
    if not dry_run:
        _confirm(f"Delete {len(plan.runs)} runs, and {_size(total)} in all?", yes, as_json)
        plan = collect(home, newest, keep or [])
    if as_json:
        _print_json({"dry_run": dry_run, "bytes": total, "kept": plan.kept, "runs": plan.runs, "lost": plan.lost,
                     "freed": [asdict(kind) for kind in plan.freed]})
        return
    for run, why in plan.kept.items():
        typer.echo(f"keeps {run}: {why}")
    for kind in plan.freed:
        typer.echo(f"{'would free' if dry_run else 'freed'} {kind.count:,} {kind.what}: {_size(kind.size)}")
    _list("Registered versions whose bytes go", plan.lost)


def _set_pin(name: str, reason: str | None, as_json: bool) -> None:
    from plumbline.errors import UserError
    from plumbline.project.run_record import find_run, raw_record

    folder = find_run(_home(), name)
    record = raw_record(folder)
    if record.status == "running":
        raise UserError(f"The run {record.id} is still going on, and kept as long as it is. Pin it when it has ended.")
    record.pinned = reason
    record.save(folder)
    if as_json:
        _print_json({"id": record.id, "pinned": reason})
    else:
        typer.echo(f"{record.id} is {f'pinned: {reason}' if reason else 'not pinned'}.")


def _home() -> "Home":
    from plumbline.project.home import enter, find_home

    home = find_home()
    enter(home)
    return home


def _registry(home: "Home") -> "Registry":
    from plumbline.config import load_params
    from plumbline.tracking.registry import Registry

    return Registry.open(home, load_params(home.root).promote.model_name)


def _champion(registry: "Registry") -> int | None:
    champion = registry.champion()
    return champion.version if champion else None


def _changed(home: "Home", registry: "Registry", before: int | None, as_json: bool) -> None:
    """Announce and show the new champion."""
    from plumbline.config import load_params
    from plumbline.runs.announce import champion_changed

    champion_changed(home, registry.name, load_params(home.root).retrain.webhook)
    champion = _champion(registry)
    if as_json:
        _print_json({"name": registry.name, "before": before, "champion": champion})
    else:
        typer.echo(f"Version {champion} of `{registry.name}` is champion now; before it was {_named(before)}.")


def _confirm(question: str, yes: bool, as_json: bool) -> None:
    """Ask a person; a program must have said yes. Raises UserError where nobody can be asked."""
    from plumbline.errors import UserError

    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise UserError(f"{question} Nobody is here to answer: say --yes.")
    typer.confirm(question, abort=True)


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _named(version: int | None) -> str:
    return f"version {version}" if version else "none"


def _list(title: str, names: list[str]) -> None:
    if names:
        typer.echo(f"{title}: {len(names):,}")
        for name in names[:SHOWN]:
            typer.echo(f"  {name}")
        if len(names) > SHOWN:
            typer.echo(f"  and {len(names) - SHOWN:,} more")


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))
