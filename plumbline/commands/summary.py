"""Print a run for a person: its stages with reasons, the figures that matter, and where to look next."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from plumbline.compute.settings import described_host
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import COMPARISON
from plumbline.project.masking import masked
from plumbline.project.run_record import RunRecord
from plumbline.tracking.curves import findings
from plumbline.tracking.receipts import read_receipt

if TYPE_CHECKING:
    from plumbline.evaluation.comparing.comparison import PolicyComparison

COLOURS = {"ran": "green", "reused": "cyan", "failed": "red"}
Metrics = dict[str, object]


def show_run(console: Console, folder: Path, record: RunRecord) -> None:
    """Print the stages of a run and its results."""
    table = Table("stage", "", "seconds", "reason", title=f"Run {record.id}: {record.status}",
                  title_justify="left", box=SIMPLE_HEAD)
    for name, outcome in record.stages.items():
        reason = outcome.reason.splitlines()[0] if outcome.reason else ""
        status = f"[{COLOURS[outcome.status]}]{outcome.status}[/]"
        table.add_row(name, status, f"{outcome.seconds:.1f}", escape(reason))
    console.print(table)
    for line in results(folder, record):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for line in places(folder, record):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for line in diagnoses(folder):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if found := comparison_of(folder):
        _show_comparison(console, found)


def comparison_of(folder: Path) -> "PolicyComparison | None":
    """Return the comparison of a run's candidates; None if there is none, or a damaged one."""
    if not (folder / COMPARISON).is_dir():
        return None
    from plumbline.evaluation.comparing.comparison import JSON, PolicyComparison

    try:
        return PolicyComparison.from_json((folder / COMPARISON / JSON).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _show_comparison(console: Console, found: "PolicyComparison") -> None:
    header, *rows = found.cells()
    table = Table(*header, title=f"Candidates beside PPO, judged by {found.judge}", title_justify="left",
                  box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for sentence in found.sentences():
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def results(folder: Path, record: RunRecord) -> list[str]:
    """Return one line of figures for each stage that the run has done."""
    lines = []
    if "base" in record.stages:
        lines += _base(read_metrics(folder / "models/base/metrics.json"))
    if "sft" in record.stages:
        lines += _sft(read_metrics(folder / "models/sft/metrics.json"))
    if "reward_eval" in record.stages:
        lines += _reward(read_metrics(folder / "reports/reward/metrics.json"))
    if "preference_eval" in record.stages:
        lines += _win_rates(read_metrics(folder / "reports/preference/metrics.json"))
    if "ppo" in record.stages:
        kl = read_metrics(folder / "models/policy/metrics.json").get("kl")
        lines += [f"KL to SFT: {kl:.2f} nats a response"] if isinstance(kl, float) else []
    if "promote" in record.stages:
        earlier = record.stages["promote"].made_by if record.stages["promote"].status == "reused" else None
        lines += _promotion(read_metrics(folder / "reports/promote/decision.json"), earlier)
    return lines


def places(folder: Path, record: RunRecord) -> list[str]:
    """Return a line for each stage that was made on several processes, or by a launcher."""
    lines = []
    known = read_stages(folder) if (folder / "dvc.yaml").exists() else {}
    for name, stage in known.items():
        receipt = read_receipt(folder, stage) if name in record.stages else None
        if receipt and (where := described_host(receipt.host)):
            lines.append(f"{name} was made on {where}")
    return lines


def diagnoses(folder: Path) -> list[str]:
    """Return a line for each thing that is wrong with a training of the run."""
    return [f"diagnosis of {stage}: {finding}" for stage, found in findings(folder).items()
            for finding in found]


def next_steps(folder: Path, tracking_uri: str) -> list[str]:
    """Return the commands that show more of a run, one a line."""
    readable = [*folder.glob("models/policy/samples.md"), *folder.glob("reports/*/report/*.md"),
                *folder.glob(f"{COMPARISON}/*.md")]
    files = [f"cat runs/{folder.name}/{file.relative_to(folder)}" for file in readable]
    lines = ["plumbline show latest", *files]
    # Without the variable MLflow starts ten processes.
    ui = f"mlflow ui --backend-store-uri {masked(tracking_uri)}"
    return [*lines, f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false {ui}"]


def list_runs(console: Console, records: list[RunRecord], total: int) -> None:
    """Print runs, newest first."""
    table = Table("run", "status", "ran", "reused", "started by", "parameters", box=SIMPLE_HEAD)
    table.columns[0].no_wrap = True
    for record in records:
        count = Counter(outcome.status for outcome in record.stages.values())
        given = [f"compare {' '.join(record.compare)}"] if record.compare else []
        given += [record.params_file] if record.params_file else []
        table.add_row(record.id, record.status, str(count["ran"]), str(count["reused"]), record.trigger,
                      escape(" ".join([*given, *record.settings])))
    console.print(table)
    if total > len(records):
        older = f"{total - len(records)} older runs: plumbline runs --all"
        console.print(older, markup=False, highlight=False)


def measured(folder: Path) -> dict[str, Metrics]:
    """Return every metrics.json, and decision.json, of a run by the folder that holds it."""
    files = sorted([*folder.glob("*/*/metrics.json"), *folder.glob("*/candidates/*/metrics.json"),
                    *folder.glob("reports/promote/decision.json")])
    return {file.parent.relative_to(folder).as_posix(): read_metrics(file) for file in files}


def _base(metrics: Metrics) -> list[str]:
    """Return notes on what is done differently for this base model."""
    return [f"base model: {metrics['notes']}"] if "notes" in metrics else []


def _sft(metrics: Metrics) -> list[str]:
    moved = metrics.get("system_before_user")
    if not moved:
        return []
    return [f"SFT: the system message of {moved} demonstrations stands before the first user's text"]


def _reward(metrics: Metrics) -> list[str]:
    interval = _interval(metrics, "accuracy", "n")
    if not interval:
        return []
    compared = {"accuracy_length_similar": "on pairs of similar length",
                "ceiling_accuracy": "ceiling of the labels",
                "longer_baseline_accuracy": "longer-response baseline"}
    extra = [f"{label} {value:.3f}" for key, label in compared.items()
             if isinstance(value := metrics.get(key), float)]
    return [f"reward model, held-out accuracy: {interval}" + (f"  ({', '.join(extra)})" if extra else "")]


def _win_rates(metrics: Metrics) -> list[str]:
    rates = [(label, _interval(metrics, f"win_rate_vs_{key}", f"win_rate_vs_{key}_n"))
             for key, label in (("sft", "SFT"), ("sft_greedy", "SFT, both greedy"),
                                ("champion", "the champion"))]
    return [f"win rate against {label}: {interval}" for label, interval in rates if interval]


def _interval(metrics: Metrics, key: str, count: str) -> str:
    value, low, high, n = (metrics.get(name) for name in (key, f"{key}_low", f"{key}_high", count))
    if not isinstance(value, float | int):
        return ""
    if isinstance(low, float | int) and isinstance(high, float | int):
        return f"{value:.3f} [{low:.3f}, {high:.3f}], n = {n}"
    return f"{value:.3f}"


def _promotion(decision: Metrics, earlier: str | None) -> list[str]:
    if not decision:
        return []
    verdict = "became champion" if decision["promoted"] else "stays challenger"
    if decision.get("awaiting"):
        verdict = f"awaits your word (`plumbline promote {decision['version']}`)"
    when = f" in run {earlier}" if earlier else ""
    rules, reasons = decision.get("rules", []), decision["reasons"]  # a run of before has no rules
    assert isinstance(rules, list) and isinstance(reasons, list)
    told = [str(reason) for reason in reasons if not any(reason.startswith(rule["rule"]) for rule in rules)]
    why = f": {'; '.join(told)}" if told else ""
    shown = [f"promotion: version {decision['version']} {verdict}{when}{why}"]
    for rule in rules:
        shown.append(f"  {rule['verdict']}: {rule['rule']} {rule['measured']} (required: {rule['required']})")
    return shown


def read_metrics(file: Path) -> Metrics:
    """Return what a stage measured; nothing where its file is not there or damaged."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
