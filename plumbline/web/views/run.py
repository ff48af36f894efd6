"""What the page of a run shows, worked out from its records: time line, differences, the command that repeats
it.
"""

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from plumbline.history.history import History, Run, Step
from plumbline.history.reports import Reports
from plumbline.project.dvc_yaml import JOIN
from plumbline.web.drawing.charts import Bar, Span, intervals, timeline
from plumbline.web.drawing.words import duration, parsed
from plumbline.web.views.home import win_rates
from plumbline.web.views.lineage import cut

MLFLOW_URL = "PLUMBLINE_MLFLOW_URL"
"""Where MLflow's pages are; `plumbline up` sets it. A store behind a server has them at its own address."""
LONGEST_SPAN = 17
MLFLOW_STORE, PREFECT_API = "MLFLOW_TRACKING_URI", "PREFECT_API_URL"
PLACE = re.compile(r"(https?://)(?:[^/]*@)?([^?#]*)")


@dataclass(frozen=True)
class FigureChange:
    """A figure of a run beside the same one of another run."""

    name: str
    value: float | None
    before: float | None

    @property
    def change(self) -> float | None:
        """The increase since the other run; None if one of them has no such figure."""
        return None if self.value is None or self.before is None else self.value - self.before


@dataclass(frozen=True)
class RuleVerdict:
    """What one rule of promotion said, in words."""

    rule: str
    required: str
    measured: str
    verdict: str
    """`passed`, `failed` or `not measured`."""


@dataclass(frozen=True)
class GateVerdict:
    """What a gate said, or the promotion."""

    passed: bool
    reasons: tuple[str, ...]
    rules: tuple[RuleVerdict, ...] = ()
    """The rules of a promotion; none for a gate, and for a run of before there were any."""
    awaiting: bool = False
    """True if the policy passed and a person was to approve it."""

    @property
    def word(self) -> str:
        """Return the decision of a promotion in one or two words."""
        return "promoted" if self.passed else "awaiting" if self.awaiting else "not promoted"

    @property
    def remarks(self) -> list[str]:
        """Return the reasons that are no rule's."""
        return [reason for reason in self.reasons
                if not any(reason.startswith(one.rule) for one in self.rules)]


def took(run: Run) -> float | None:
    """Return the seconds from the start to the end, or to now; None for a run that was killed."""
    if run.ended is None and run.status != "running":
        return None
    end = parsed(run.ended) if run.ended else datetime.now(UTC)
    return max(0.0, (end - parsed(run.created)).total_seconds())


def strip(run: Run) -> Markup:
    """Draw a mark for each stage: filled if it ran, hollow if it was reused."""
    counts = Counter(step.status for step in run.steps.values())
    text = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no stage yet"
    mark = Markup('<span class="pip pip-{0}" title="{1}: {0}"></span>')
    marks = Markup("").join(mark.format(step.status, step.stage) for step in run.steps.values())
    return Markup('<span class="strip" role="img" aria-label="{}">{}</span>').format(text, marks)


def earlier(history: History, run: Run) -> Run | None:
    """Return the run before this one, or None."""
    return next((other for other in history.runs.values() if other.id < run.id), None)


def chart_of(run: Run) -> Markup:
    """Draw the stages on a time line."""
    spans, end = [], 0.0
    for step in run.steps.values():
        if step.status == "waiting":
            continue
        start = _offset(run, step, end)
        now = max(start, (datetime.now(UTC) - parsed(run.created)).total_seconds())
        end = now if step.status == "running" else start + (step.seconds or 0.0)
        spans.append(Span(_span_name(step.stage), start, end, step.status, duration(end - start)))
    return timeline(spans, "Stages") if spans else Markup("")


def _span_name(stage: str) -> str:
    """Return a name that fits beside the time line; a candidate's two stages are named by the candidate."""
    group, _, candidate = stage.partition(JOIN)
    if not candidate:
        return stage.replace("_", " ")
    end = " judged" if group == "candidate_eval" else ""
    return cut(candidate, LONGEST_SPAN - len(end)) + end


def _offset(run: Run, step: Step, earliest: float) -> float:
    """Return the start of a stage in seconds after the run's, at least `earliest`: starts are kept in whole
    seconds.
    """
    if step.started is None:
        return earliest
    return max(earliest, (parsed(step.started) - parsed(run.created)).total_seconds())


def measured(run: Run, other: Run | None) -> dict[str, list[FigureChange]]:
    """Return the figures of each stage, beside those of another run."""
    found = {}
    for stage, step in run.steps.items():
        before: Mapping[str, float] = other.steps[stage].metrics if other and stage in other.steps else {}
        found[stage] = [FigureChange(name, value, before.get(name))
                        for name, value in sorted(step.metrics.items())]
    return {stage: figures for stage, figures in found.items() if figures}


def gate_of(reports: Reports, run: Run) -> GateVerdict | None:
    """Return the verdict of the reward model's examination; None if it was not held."""
    return _verdict(reports, run, "reward_eval", "gate.json", "passed")


def decision_of(reports: Reports, run: Run) -> GateVerdict | None:
    """Return whether the policy was promoted, and why; None if that was not decided."""
    return _verdict(reports, run, "promote", "decision.json", "promoted")


def accuracy_chart(run: Run) -> Markup:
    """Draw the reward model's accuracy on held-out preferences, beside the ceiling and the simplest rule."""
    step = run.steps.get("reward_eval")
    metrics: Mapping[str, float] = step.metrics if step else {}
    if "accuracy" not in metrics:
        return Markup("")
    count = metrics.get("n")
    bars = [Bar("held-out accuracy", metrics["accuracy"], metrics.get("accuracy_low"),
                metrics.get("accuracy_high"), f"n = {count:,.0f}" if count is not None else "")]
    bars += [Bar(label, metrics[name]) for name, label in (("ceiling_accuracy", "ceiling of the labels"),
                                                         ("longer_baseline_accuracy", "longer response wins"))
             if name in metrics]
    return intervals(bars, "Reward model")


def rates_chart(run: Run) -> Markup:
    """Draw the win rates that the decision rests on."""
    return intervals(win_rates(run), "Win rates")


def command_of(run: Run) -> str:
    """Return the command line that asks for the same run."""
    parts = ["plumbline", "compare", *run.compare] if run.compare else ["plumbline", "run"]
    parts += ["--params", run.params_file] if run.params_file else []
    for setting in run.settings:
        parts += ["--set", setting]
    parts += ["--until", run.until] if run.until else []
    return shlex.join(parts)


def mlflow_page(run_id: str | None) -> str | None:
    """Return the address of MLflow's page of one of its runs; None if that is not known."""
    base = _address(os.environ.get(MLFLOW_URL) or os.environ.get(MLFLOW_STORE, ""))
    return f"{base}/#/runs/{run_id}" if base and run_id and run_id.isalnum() else None


def prefect_page() -> str | None:
    """Return the address of Prefect's list of flow runs; None without a server of one's own."""
    base = _address(os.environ.get(PREFECT_API, ""))
    return f"{base.removesuffix('/api')}/runs" if base and base.endswith("/api") else None


def _address(text: str) -> str | None:
    """Return where a server is, without a name, password or key; None for what is no address."""
    found = PLACE.match(text)
    return "".join(found.groups()).rstrip("/") if found else None


def _verdict(reports: Reports, run: Run, stage: str, file: str, key: str) -> GateVerdict | None:
    step = run.steps.get(stage)
    if step is None or step.status not in ("ran", "reused"):
        return None
    try:
        values = json.loads(reports.text(run, stage, file) or "null")
    except ValueError:
        values = None
    if not isinstance(values, dict):  # the file is gone; MLflow has the figure
        return GateVerdict(bool(step.metrics[key]), ()) if key in step.metrics else None
    reasons = values.get("reasons")
    said = tuple(map(str, reasons)) if isinstance(reasons, list) else ()
    return GateVerdict(values.get(key) is True, said, _rules(values.get("rules")),
                       values.get("awaiting") is True)


def _rules(listed: object) -> tuple[RuleVerdict, ...]:
    """Return the rules that decision.json lists; those that are damaged are left out."""
    fields = ("rule", "required", "measured", "verdict")
    rules = listed if isinstance(listed, list) else []
    whole = [one for one in rules if isinstance(one, dict) and one.keys() >= set(fields)]
    return tuple(RuleVerdict(*(str(one[field]) for field in fields)) for one in whole)
