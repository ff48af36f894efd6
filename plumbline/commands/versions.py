"""List the registered versions for a person or a program: aliases, win rates, rating, run."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from plumbline.evaluation.ratings import Strength
from plumbline.feedback.judging import PeopleFigures, Said, people_on_run
from plumbline.history.history import History, RegisteredVersion
from plumbline.history.reports import Reports
from plumbline.history.standings import standings

Ends = tuple[float, float | None, float | None]
"""A win rate with the ends of its 95 % interval, where those were measured."""


@dataclass(frozen=True)
class ListedVersion:
    """A registered version with what was measured of it."""

    version: int
    aliases: tuple[str, ...]
    run: str
    registered: str
    compared_with: int | None
    win_rate_vs_sft: Ends | None
    win_rate_vs_champion: Ends | None
    rating: Strength | None
    """Elo above SFT."""
    people: tuple[PeopleFigures, ...]
    """What people say of its answers, by opponent."""


def listed(history: History, most: int | None, said: Said) -> list[ListedVersion]:
    """Return at most `most` versions, newest first; `said` is what people said of all pairs."""
    ratings, reports = standings(history), Reports(history)
    runs = history.runs
    return [ListedVersion(one.number, one.aliases, one.run, one.created, one.compared_with,
                          _win_rate(history, one, "sft"), _win_rate(history, one, "champion"),
                          ratings.get(one.number), tuple(people_on_run(said, reports, runs.get(one.run))))
            for one in list(history.versions.values())[:most]]


def _win_rate(history: History, version: RegisteredVersion, opponent: str) -> Ends | None:
    run = history.runs.get(version.run)
    step = run.steps.get("preference_eval") if run else None
    key = f"win_rate_vs_{opponent}"
    if step is None or key not in step.metrics:
        return None
    return step.metrics[key], step.metrics.get(f"{key}_low"), step.metrics.get(f"{key}_high")


def print_versions(console: Console, versions: Sequence[ListedVersion], total: int) -> None:
    """Print versions as a table, newest first."""
    asked = any(one.people for one in versions)
    table = Table("version", "", "against SFT", "against the champion then", *["people"] * asked, "rating",
                  "run", box=SIMPLE_HEAD)
    for one in versions:
        then = f" ({one.compared_with})" if one.compared_with else ""
        champion = _text(one.win_rate_vs_champion)
        people = [escape(_people(one))] * asked
        table.add_row(str(one.version), " ".join(one.aliases), escape(_text(one.win_rate_vs_sft)),
                      escape(champion + then if champion else ""), *people, escape(str(one.rating or "")),
                      escape(one.run))
    console.print(table)
    shown = ["Ratings are Bradley-Terry's in Elo, from every evaluation by an independent judge; SFT is 0."]
    if total > len(versions):
        shown.append(f"{total - len(versions)} older versions: plumbline models --all")
    for line in shown:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _people(version: ListedVersion) -> str:
    """Return people's win rates in the order of MATCHES, one a line."""
    return "\n".join(f"{one.win_rate.value:.3f} [{one.win_rate.low:.3f}, {one.win_rate.high:.3f}] {one.named}"
                     for one in version.people)


def _text(rate: Ends | None) -> str:
    if rate is None:
        return ""
    value, low, high = rate
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"
