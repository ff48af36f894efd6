"""What the lineage pages call a node: its name, its one figure, the state that it is in."""

from collections.abc import Mapping
from datetime import UTC

from plumbline.history.history import Run
from plumbline.lineage.graph import Kind, Node
from plumbline.project.dvc_yaml import JOIN
from plumbline.project.run_record import DVC_REPRO
from plumbline.web.drawing.words import number, parsed, short

NAMES: Mapping[Kind, str] = {
    "batch": "batch", "snapshot": "snapshot", "base": "base model", "sft": "SFT", "reward": "reward model",
    "examination": "examination", "judge": "judge", "policy": "policy", "candidate": "candidate",
    "evaluation": "evaluation", "version": "version"}
PLURALS: Mapping[Kind, str] = {
    "batch": "batches", "snapshot": "snapshots", "base": "base models", "sft": "SFT models",
    "reward": "reward models", "examination": "examinations", "judge": "judges", "policy": "policies",
    "candidate": "candidates", "evaluation": "evaluations", "version": "versions"}
WHAT: Mapping[Kind, str] = {
    "batch": "Preferences that arrived together.",
    "snapshot": "The exact set of batches that runs learned from.",
    "base": "The language model to align.",
    "sft": "The base model after supervised fine-tuning; the reference of the KL penalty.",
    "reward": "Scores responses as the annotators would.",
    "examination": "The reward model on held-out preferences, and whether PPO may use it.",
    "judge": "A second reward model, of other prompts, which judges the policy.",
    "policy": "The model that PPO optimised.",
    "candidate": "A policy that was set beside PPO's.",
    "evaluation": "The policy on held-out prompts, against SFT and the champion of that time.",
    "version": "A registered policy."}
STATES = {"made": "", "gate": "gate said no", "failed": "failed", "running": "running"}


def name_of(node: Node) -> str:
    """Return `policy 8d249a2f`, `version 27`, `batch week-054`."""
    return f"{NAMES[node.ref.kind]} {own_name(node)}"


def own_name(node: Node) -> str:
    """Return what tells a node from others of its kind."""
    if node.ref.key in node.runs:  # it has no content to be named by
        return f"of run {run_name(node.ref.key)}"
    if node.ref.kind == "version":
        return node.ref.key
    if node.ref.kind == "candidate" and node.step:
        return node.step.stage.partition(JOIN)[2]
    if node.batch:
        return node.batch.source.rsplit("/", 1)[-1].split(".", 1)[0] or short(node.ref.key)
    return short(node.md5 or node.ref.key)


def figure_of(node: Node) -> str:
    """Return the one figure that says most about a node, or its state."""
    if node.state in ("failed", "running"):
        return STATES[node.state]
    if node.batch:
        return f"{number(node.batch.rows)} rows"
    metrics = node.step.metrics if node.step else {}
    if node.ref.kind == "version":
        return ", ".join(node.aliases) or _figure("win rate", _win_rate(node))
    if node.ref.kind == "evaluation":
        return _figure("win rate", metrics.get("win_rate_vs_sft"))
    label, key = {"snapshot": ("rows", "rows_accepted"), "base": ("parameters", "parameters"),
                  "sft": ("loss", "validation_loss"), "reward": ("accuracy", "validation_accuracy"),
                  "judge": ("accuracy", "validation_accuracy"), "examination": ("accuracy", "accuracy"),
                  "policy": ("KL", "kl"), "candidate": ("KL", "kl")}[node.ref.kind]
    value = metrics.get(key)
    if node.ref.kind in ("snapshot", "base"):
        return f"{_large(value)} {label}" if value is not None else ""
    return _figure(label, value)


def tooltip(node: Node) -> str:
    """Return name, state, figure, aliases and maker of a node on one line."""
    parts = [name_of(node), STATES[node.state], figure_of(node), " ".join(node.aliases)]
    parts.append(f"made by {maker}" if (maker := maker_of(node)) else "")
    return " · ".join(part for part in dict.fromkeys(parts) if part)


def maker_of(node: Node) -> str:
    """Return the run that made a node, or `dvc repro`; nothing for what came from outside."""
    return node.made_by or (DVC_REPRO if node.step or node.version else "")


def counted(count: int, kind: Kind) -> str:
    """Return `1 policy`, `1,204 policies`."""
    return f"{number(count)} {NAMES[kind] if count == 1 else PLURALS[kind]}"


def cut(text: str, longest: int) -> str:
    """Cut a text to at most `longest` letters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def run_name(run_id: str) -> str:
    """Return the end of a run's id, enough to tell it from others of the same minute."""
    return run_id.rsplit("-", 1)[-1]


def short_time(when: str) -> str:
    """Return `21 Nov 16:07`, UTC."""
    time = parsed(when).astimezone(UTC)
    return f"{time.day} {time:%b %H:%M}"


def first_upper(text: str) -> str:
    """Return a text with a capital letter first."""
    return text[:1].upper() + text[1:]


def outcome_of(run: Run) -> str:
    """Return what came of a run, in a few words."""
    promote = run.steps.get("promote")
    if promote and promote.metrics.get("promoted") == 1.0 and promote.status == "ran":
        return "promoted"
    if run.message:
        return run.message
    evaluation = run.steps.get("preference_eval")
    rate = evaluation.metrics.get("win_rate_vs_sft") if evaluation else None
    return _figure("win rate", rate)


def _win_rate(node: Node) -> float | None:
    text = node.version.tags.get("win_rate_vs_sft", "") if node.version else ""
    try:
        return float(text)
    except ValueError:
        return None


def _figure(label: str, value: float | None) -> str:
    return f"{label} {number(value)}" if value is not None else ""


def _large(value: float | None) -> str:
    if value is None or value < 1e6:
        return number(value)
    return f"{value / 1e9:.1f} G" if value >= 1e9 else f"{value / 1e6:.1f} M"
