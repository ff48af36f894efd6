"""The commands about registered models: `plumbline models`, `promote`, `rollback`."""

import contextlib
import getpass
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from plumbline.commands.output import (
    AsJson,
    Reason,
    Yes,
    answer,
    command_group,
    confirm,
    entered_home,
    examples,
    print_json,
)
from plumbline.project.home import Home

if TYPE_CHECKING:
    from plumbline.tracking.registry import Registry

NEWEST_VERSIONS = 20

models_app = command_group()
Version = Annotated[int, typer.Argument(metavar="VERSION", help="A version of the registered policy.")]
All = Annotated[bool, typer.Option("--all", help=f"All of them, not the newest {NEWEST_VERSIONS}.")]


@models_app.command(epilog=examples("plumbline models", "plumbline models --json | jq '.[0].rating'"))
def models(all_: All = False, as_json: AsJson = False) -> None:
    """List the registered versions with win rates and ratings, newest first."""
    from dataclasses import asdict

    from rich.console import Console

    from plumbline.commands.feedback import known_verdicts
    from plumbline.commands.versions import listed, print_versions
    from plumbline.history.history import History
    from plumbline.tracking.store import StoreGone

    home = entered_home()
    history = History(home)
    with contextlib.suppress(StoreGone):  # nothing has been recorded yet
        history.refresh()
    found = listed(history, None if all_ else NEWEST_VERSIONS, known_verdicts(home))
    if as_json:
        print_json([asdict(one) for one in found])
    elif found:
        print_versions(Console(), found, len(history.versions))
    else:
        typer.echo("No policy has been registered yet. A run that gets to its last stage registers one: "
                   "`plumbline run`.")


@models_app.command(epilog=examples("plumbline promote 7 --reason 'best on our own prompts'",
                                    "plumbline promote 7 --reason 'as agreed' --yes --json"))
def promote(version: Version, reason: Reason = "", yes: Yes = False, as_json: AsJson = False) -> None:
    """Make a version of the policy champion, whatever was measured; the one before becomes `previous`."""
    home = entered_home()
    webhook = _webhook(home)
    with _registry(home) as registry:
        seen = _champion(registry)
        confirm(f"Make version {version} of `{registry.name}` champion instead of {_named(seen)}?", yes,
                as_json)
        registry.promote(version, reason, _who(), seen)
        _announce(home, registry, seen, webhook, as_json)


@models_app.command(epilog=examples("plumbline rollback --reason 'it swears'",
                                    "plumbline rollback --reason 'it swears' --yes"))
def rollback(reason: Reason = "", yes: Yes = False, as_json: AsJson = False) -> None:
    """Make the version before the champion champion again; no run undoes that by itself."""
    home = entered_home()
    webhook = _webhook(home)
    with _registry(home) as registry:
        seen = _champion(registry)
        previous = registry.aliased("previous")
        before = _named(previous.version if previous else None)
        confirm(f"Roll `{registry.name}` back from {_named(seen)} to {before}?", yes, as_json)
        registry.roll_back(reason, _who(), seen)
        _announce(home, registry, seen, webhook, as_json)


@contextlib.contextmanager
def _registry(home: Home) -> Iterator["Registry"]:
    """Open the registry. Raises UserError where MLflow is away, or goes away before the end."""
    from plumbline.config import registered_name
    from plumbline.tracking.registry import Registry
    from plumbline.tracking.store import asking_mlflow

    with asking_mlflow(home, ". Try again when it does; `plumbline models` says then which version is "
                             "champion."):
        yield Registry.open(home, registered_name(home.root))


def _webhook(home: Home) -> str | None:
    """Return where a new champion is told.

    Asked before it is one: a mistake in params.yaml must not look as if nothing had happened.
    """
    from plumbline.config import load_params

    return load_params(home.root).retrain.webhook


def _champion(registry: "Registry") -> int:
    """Return the champion's number, or NO_CHAMPION."""
    from plumbline.tracking.registry import NO_CHAMPION

    champion = registry.champion()
    return champion.version if champion else NO_CHAMPION


def _announce(home: Home, registry: "Registry", before: int, webhook: str | None, as_json: bool) -> None:
    """Send the event and the notice of a new champion, and print it.

    `before` is the version that it replaces.
    """
    from plumbline.runs.announce import champion_changed

    champion_changed(home, registry.name, webhook)
    champion = _champion(registry)
    answer(as_json, {"name": registry.name, "before": before or None, "champion": champion},
           f"Version {champion} of `{registry.name}` is champion now; before it was "
                   f"{_named(before)}.")


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _named(version: int | None) -> str:
    return f"version {version}" if version else "none"
