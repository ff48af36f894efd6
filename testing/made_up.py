"""Runs, versions and moves made by hand, for tests that need a certain one and no recording."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from plumbline.history.history import History, Move, RegisteredVersion, Run, Step
from plumbline.lineage.graph_build import build
from plumbline.preferences.batches.manifest import Batch

STAGES = ("snapshot", "ingest", "base", "sft", "reward_model", "reward_eval", "judge", "ppo", "champion",
          "preference_eval", "promote")
METRICS = {
    "reward_eval": {"accuracy": 0.75, "accuracy_low": 0.72, "accuracy_high": 0.78, "n": 1000.0, "passed": 1.0},
    "ppo": {"kl": 3.25, "reward": 1.2},
    "preference_eval": {"win_rate_vs_sft": 0.625, "win_rate_vs_sft_low": 0.575, "win_rate_vs_sft_high": 0.675,
                        "win_rate_vs_sft_n": 400.0},
    "promote": {"promoted": 1.0, "version": 1.0},
}


def step(stage: str, **given: object) -> Step:
    """A stage that ran."""
    return replace(Step(stage, "ran", "first run", 2.0, "2026-11-20T10:00:05+00:00", "1", "a" * 32, None,
                        {f"{stage}.epochs": "2"}, METRICS.get(stage, {}), {}, {}, {}), **given)  # type: ignore[arg-type]


def run(id: str = "20261120-100000-aaaaaa", **given: object) -> Run:
    """A run that finished, of which every stage ran."""
    made = Run(id=id, created="2026-11-20T10:00:00+00:00", ended="2026-11-20T10:05:00+00:00", status="finished",
               message=None, trigger="command line", params_file=None, settings=("seed=0",), until=None,
               git_commit="0123456789abcdef0123456789abcdef01234567", git_dirty=False, host="host", mlflow_run="b" * 32,
               params={"seed": "0", "ppo.clip": "0.2"},
               steps={stage: step(stage, made_by=id) for stage in STAGES}, snapshot="d" * 36,
               batches=(Batch("e" * 32, "first.jsonl", 1204, {"comparison": 1204}, 3, False),), folder=None)
    return replace(made, **given)  # type: ignore[arg-type]


def version(number: int, of: Run, *aliases: str) -> RegisteredVersion:
    """A version that a run registered."""
    return RegisteredVersion("policy", number, f"{number:032x}", of.id, of.created, aliases, None, {})


def promotion(number: int, reason: str = "win rate against SFT 0.625 [0.575, 0.675]: lower end above 0.5") -> Move:
    """Return the move of the alias `champion` to a version."""
    return Move("2026-11-20T10:05:00+00:00", "champion", None, number, reason, "promote")


def fill(history: History, runs: Iterable[Run], versions: Iterable[RegisteredVersion] = (),
         moves: Iterable[Move] = ()) -> None:
    """Let a history hold these, each newest first."""
    history.runs = {one.id: one for one in sorted(runs, key=lambda one: one.id, reverse=True)}
    history.versions = {one.number: one for one in sorted(versions, key=lambda one: -one.number)}
    history.moves = tuple(moves)
    history.graph = build(history.runs, history.versions, history.others)


def workspace(folder: Path, files: Mapping[str, str]) -> Path:
    """A run's folder with these files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder
