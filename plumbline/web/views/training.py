"""How the stages of a run learned: their curves, and what is wrong with them in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from markupsafe import Markup

from plumbline.alignment.diagnosis import Finding
from plumbline.history.history import Run
from plumbline.history.reports import Curve, Reports
from plumbline.web.drawing.charts import Series, lines

SOURCE = "reward_of_"
"""How the curves of a reward's sources begin."""
BAND = 2.0
"""Standard errors either side of a curve that has them."""


@dataclass(frozen=True)
class Plot:
    """Curves that are drawn together, those of them that a stage has."""

    label: str
    curves: tuple[str, ...]
    reference: float | None = None
    share: bool = False
    """True if it is between 0 and 1, and so is its uncertainty."""


PLOTS = (
    Plot("Reward", ("reward", "validation_reward")),
    Plot("Penalties, in deviations", ("length_penalty", "repetition_penalty")),
    Plot("KL to SFT, nats a response", ("kl", "validation_kl")),
    Plot("Win rate against SFT, by the judge", ("validation_judge_win_rate",), 0.5, share=True),
    Plot("Entropy, nats a token", ("entropy",)),
    Plot("Length, tokens", ("length",)),
    Plot("Answers that stop", ("stopped", "validation_stopped")),
    Plot("Loss", ("loss", "validation_loss")),
    Plot("Policy loss", ("policy_loss",)),
    Plot("Value loss", ("value_loss",)),
    Plot("Variance that the critic explains", ("explained_variance",)),
    Plot("Clipped tokens", ("clip_fraction",)),
    Plot("Accuracy on pairs", ("accuracy", "validation_accuracy"), 0.5),
    Plot("Margin", ("margin", "validation_margin")),
    Plot("Log-ratio to SFT, nats a response", ("better_log_ratio", "worse_log_ratio")),
)


@dataclass(frozen=True)
class Training:
    """The training of one stage."""

    stage: str
    charts: Sequence[Markup]
    findings: Sequence[Finding]


def trainings(reports: Reports, run: Run) -> list[Training]:
    """Return the trainings of a run that have left curves: policies first, the base model last."""
    found = [Training(stage, drawn(reports.curves(run, stage)), reports.findings(run, stage))
             for stage in reversed(list(run.steps))]
    return [one for one in found if one.charts]


def drawn(curves: Sequence[Curve]) -> list[Markup]:
    """Draw the curves that one looks at first."""
    known = {curve.name: curve.points for curve in curves}
    # What a reward is made of has names of the user's own, and units of its own.
    sources = [Plot(f"Reward, {name.removeprefix(SOURCE)} alone", (name,)) for name in known
               if name.startswith(SOURCE)]
    return [_chart(plot, known) for plot in (*PLOTS, *sources) if any(name in known for name in plot.curves)]


def _chart(plot: Plot, known: Mapping[str, Sequence[tuple[float, float]]]) -> Markup:
    low, high = (0.0, 1.0) if plot.share else (-inf, inf)
    series = []
    for name in plot.curves:
        error = dict(known.get(f"{name}_error", ()))
        band = [(x, max(low, y - BAND * error[x]), min(high, y + BAND * error[x]))
                for x, y in known.get(name, ()) if x in error]
        if name in known:
            series.append(Series(name.replace("_", " "), known[name], band))
    return lines(series, plot.label, "step", plot.reference)
