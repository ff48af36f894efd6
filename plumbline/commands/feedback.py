"""The commands about people's feedback: `plumbline feedback judge`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plumbline.commands.output import AsJson, answer, command_group, entered_home, examples
from plumbline.errors import UserError
from plumbline.project.home import Home

if TYPE_CHECKING:
    from plumbline.feedback.judging import PeopleFigures, Said
    from plumbline.history.history import History, Run

feedback_app = command_group("Ask people, on the feedback page.")
Evaluated = Annotated[str, typer.Argument(
    metavar="MODEL", help="A version's number or alias; `latest`, or the beginning of a run's id.")]
Prompts = Annotated[int, typer.Option(min=1, help="Held-out prompts to ask about.")]
Sampled = Annotated[bool, typer.Option("--sampled", help="The first sampled answers, not the greedy ones.")]


@feedback_app.callback()
def feedback() -> None:
    """Keep `judge` a command of its own, which typer would drop for a group of one."""


@feedback_app.command(epilog=examples("plumbline feedback judge awaiting",
                                      "plumbline feedback judge latest --prompts 100 --sampled"))
def judge(name: Evaluated, prompts: Prompts = 50, sampled: Sampled = False, as_json: AsJson = False) -> None:
    """Have people judge a policy's held-out answers, blind, against SFT's and the champion's.

    The verdicts train nothing; `plumbline show`, `plumbline models` and the version's page say what came out.
    """
    from plumbline.feedback.judging import judging_pairs
    from plumbline.feedback.store import FeedbackStore
    from plumbline.history.history import History
    from plumbline.history.reports import Reports

    home = entered_home()
    history = History(home)
    history.refresh()
    run = _run_of(history, name)
    pairs = judging_pairs(Reports(history).samples(run), run, prompts, sampled)
    store = FeedbackStore.open(home)
    try:
        new = store.add_pairs(pairs)
    finally:
        store.close()
    answer(as_json, {"run": run.id, "pairs": len(pairs), "new": new},
           f"{len(pairs)} pairs of run {run.id} are on the feedback page, {new} of them new: they are asked "
           "before any other, and train nothing.",
           f"What people say: plumbline show {run.id}")


def _run_of(history: "History", name: str) -> "Run":
    """Return the run of a version, or the run of that name. Raises UserError."""
    version = history.version(name)
    if version is None:
        return history.run(name)
    if version.run not in history.runs:
        raise UserError(f"The records of the run that made version {version.number} are gone from MLflow, so "
                        "its answers are not known.")
    return history.runs[version.run]


def known_verdicts(home: Home) -> "Said":
    """Return what people said; nothing, and a warning, where the feedback store cannot be used."""
    from plumbline.feedback.database import is_there

    try:
        if not is_there(home):
            return {}
        from plumbline.feedback.judging import said_in

        return said_in(home)
    except UserError as error:
        typer.echo(f"What people said is left out: {error}", err=True)
        return {}


def people_on(home: Home, folder: Path) -> "list[PeopleFigures]":
    """Return what people said of the answers in a run's workspace, if it has any."""
    evaluation = folder / "reports/preference"
    samples, metrics = evaluation / "report/samples.jsonl", evaluation / "metrics.json"
    given = known_verdicts(home) if samples.is_file() else {}
    if not given:
        return []
    from plumbline.commands.summary import read_metrics
    from plumbline.evaluation.samples import read_samples
    from plumbline.feedback.judging import people_figures

    judge = read_metrics(metrics).get("judge")
    with samples.open(encoding="utf-8") as lines:
        return people_figures(given, list(read_samples(lines)), judge if isinstance(judge, str) else None)
