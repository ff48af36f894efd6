"""What the commands share: option types, the project that they work in, questions, and printing."""

import json
import sys
from typing import Annotated

import typer

from plumbline.errors import UserError
from plumbline.project.home import Home, enter, find_home

SHOWN = 10
RUN_HELP = "`latest`, or the beginning of a run's id."

Names = list[str] | None
RunName = Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)]
MaybeRunName = Annotated[str | None, typer.Argument(metavar="[RUN]", help=RUN_HELP)]
AsJson = Annotated[bool, typer.Option(
    "--json", help="Print JSON for a program instead of text for a person.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for whoever reads the history.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show Prefect's own log as well.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]


def command_group(about: str | None = None) -> typer.Typer:
    """Return an empty group of commands; `about` is its help text."""
    return typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown",
                       pretty_exceptions_enable=False, help=about)


def examples(*commands: str) -> str:
    """Return the end of a help text: example commands, one a paragraph."""
    return "\n\n".join(["Examples:", *(f"    {command}" for command in commands)])


def entered_home() -> Home:
    """Find the project of the current folder and set its environment. Raises UserError outside of one."""
    home = find_home()
    enter(home)
    return home


def print_json(value: object) -> None:
    """Print a value for a program."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def answer(as_json: bool, value: object, *lines: str) -> None:
    """Print a value for a program, or lines for a person."""
    if as_json:
        print_json(value)
    else:
        typer.echo("\n".join(lines))


def print_list(title: str, names: list[str]) -> None:
    """Print a title with the number of names and the first ten of them; nothing if there are none."""
    if not names:
        return
    typer.echo(f"{title}: {len(names):,}")
    for name in names[:SHOWN]:
        typer.echo(f"  {name}")
    if len(names) > SHOWN:
        typer.echo(f"  and {len(names) - SHOWN:,} more")


def size_text(count: float) -> str:
    """Return a number of bytes in the unit that a person reads, such as `1.5 GB`."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def confirm(question: str, yes: bool, as_json: bool) -> None:
    """Ask a yes-or-no question on the terminal, unless `yes`.

    Aborts the command on "no". Raises UserError if there is no terminal or the answer is for a program.
    """
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise UserError(f"{question} Nobody is here to answer: say --yes.")
    typer.confirm(question, abort=True)
