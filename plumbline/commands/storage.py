"""The commands about stored bytes: `plumbline push`, `pull`, `gc`."""

from dataclasses import asdict
from typing import Annotated

import typer

from plumbline.commands.output import (
    AsJson,
    MaybeRunName,
    Names,
    Yes,
    command_group,
    confirm,
    entered_home,
    examples,
    print_json,
    print_list,
    size_text,
)
from plumbline.errors import UserError

storage_app = command_group()
Remote = Annotated[str | None, typer.Option(metavar="NAME", help="Not the default remote.")]
Newest = Annotated[int, typer.Option("--runs", min=0, help="How many of the newest runs to keep.")]
Keep = Annotated[Names, typer.Option(metavar="RUN", help="Keep this run, too; repeatable.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would go, and delete nothing.")]


@storage_app.command(epilog=examples("plumbline push", "plumbline push latest --remote backup"))
def push(name: MaybeRunName = None, remote: Remote = None, as_json: AsJson = False) -> None:
    """Copy a run, or all batches and every run of this machine, to a DVC remote; what it has already stays
    there.
    """
    from plumbline.storage import push_pull

    done = push_pull.push(entered_home(), name, remote)
    if as_json:
        print_json(asdict(done))
        return
    typer.echo(f"Pushed {done.things:,} batches and outputs of runs: {done.files:,} new files, "
               f"{size_text(done.size)}.")
    print_list("Left out, because the cache does not hold it", done.left_out)


@storage_app.command(epilog=examples("plumbline pull", "plumbline pull 20261121-104650"))
def pull(name: MaybeRunName = None, as_json: AsJson = False) -> None:
    """Bring a run into the cache, or all batches and the runs behind champion, challenger and previous."""
    from plumbline.storage import push_pull

    done = push_pull.pull(entered_home(), name)
    if as_json:
        print_json(asdict(done))
    else:
        typer.echo(f"Fetched {len(done.fetched):,} batches and outputs of runs.")
        print_list("In no remote", done.missing)
    if done.missing:
        raise typer.Exit(UserError.exit_code)


@storage_app.command(epilog=examples("plumbline gc --dry-run", "plumbline gc --runs 3 --yes",
                                     "plumbline gc --keep 20261121-104650 --dry-run --json"))
def gc(newest: Newest = 10, keep: Keep = None, dry_run: DryRun = False, yes: Yes = False,
       as_json: AsJson = False) -> None:
    """Free what neither the champion nor its neighbours, the newest runs, pins or running runs need."""
    from plumbline.storage.gc import collect, make_plan

    home = entered_home()
    plan = make_plan(home, newest, keep or [])
    total = sum(kind.size for kind in plan.freed)
    if not dry_run:
        confirm(f"Delete {len(plan.runs)} runs, and {size_text(total)} in all?", yes, as_json)
        plan = collect(home, newest, keep or [])
    if as_json:
        print_json({"dry_run": dry_run, "bytes": total, "kept": plan.kept, "runs": plan.runs,
                    "lost": plan.lost, "freed": [asdict(kind) for kind in plan.freed]})
        return
    for run, why in plan.kept.items():
        typer.echo(f"keeps {run}: {why}")
    for kind in plan.freed:
        freed = "would free" if dry_run else "freed"
        typer.echo(f"{freed} {kind.count:,} {kind.what}: {size_text(kind.size)}")
    print_list("Registered versions whose bytes go", plan.lost)
