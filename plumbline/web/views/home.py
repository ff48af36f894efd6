"""What the home page shows: the champion, what has changed since, and how the versions have developed."""

import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from markupsafe import Markup

from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.history.facts import shown_params
from plumbline.history.history import History, Move, RegisteredVersion, Run
from plumbline.lineage.graph import Graph
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home
from plumbline.tracking.registry import CHAMPION
from plumbline.web.drawing.charts import Bar, Series, intervals, lines

GIT_SECONDS = 10.0
"""For how long the answer of git is believed."""
COMMIT = re.compile("[0-9a-f]{7,64}")
OPPONENTS = (("sft", "against SFT"), ("sft_greedy", "against SFT, both greedy"),
             ("best_of_8", "against the best of 8 of SFT"), ("champion", "against the champion before"))


@dataclass(frozen=True)
class Champion:
    """The policy in use."""

    version: RegisteredVersion
    run: Run | None
    """The run that evaluated it last; None where its records are gone, or `dvc repro` did."""
    move: Move | None
    """How it became champion."""

    @property
    def since(self) -> str:
        """The time when it became champion, ISO 8601."""
        return self.move.when if self.move else self.version.created

    @property
    def chart(self) -> Markup:
        """Draw its win rates with their intervals."""
        return intervals(win_rates(self.run) if self.run else [], "Win rates")


@dataclass(frozen=True)
class ParamChange:
    """A parameter that is not as it was."""

    name: str
    before: str | None
    after: str | None


def champion_of(history: History) -> Champion | None:
    """Return the champion, if there is one."""
    version = history.version(CHAMPION)
    if version is None:
        return None
    moves = (move for move in history.moves if move.alias == CHAMPION and move.after == version.number)
    return Champion(version, history.runs.get(version.run), next(moves, None))


def win_rates(run: Run, evaluation: str = "preference_eval") -> list[Bar]:
    """Return the win rates that an evaluation of a run measured."""
    step = run.steps.get(evaluation)
    metrics: Mapping[str, float] = step.metrics if step else {}
    bars = []
    for key, label in OPPONENTS:
        value = metrics.get(f"win_rate_vs_{key}")
        if value is not None:
            name = f"win_rate_vs_{key}"
            count = metrics.get(f"{name}_n")
            bars.append(Bar(label, value, metrics.get(f"{name}_low"), metrics.get(f"{name}_high"),
                            f"n = {count:,.0f}" if count is not None else ""))
    return bars


def kl_to_sft(run: Run) -> float | None:
    """Return the KL of a run's policy to SFT in nats a response: on held-out prompts, where it was evaluated.

    PPO's own figure is of its last updates, and the policy that it kept may be an earlier one.
    """
    for stage, name in (("preference_eval", "kl_policy"), ("ppo", "kl")):
        step = run.steps.get(stage)
        if step and name in step.metrics:
            return step.metrics[name]
    return None


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[ParamChange]:
    """Return the parameters that differ, by name: first those that both sides have."""
    names = sorted(before.keys() | after.keys(),
                   key=lambda name: (name not in before or name not in after, name))
    found = (ParamChange(name, before.get(name), after.get(name)) for name in names)
    return [one for one in found if one.before != one.after]


def changed_parameters(home: Home, run: Run) -> list[ParamChange]:
    """Return the parameters of params.yaml, as it is now, that differ from those of a run."""
    if not run.params:
        return []
    file = home.root / "params.yaml"
    try:
        return differences(run.params, _checkout_params(home.root, file.stat().st_mtime_ns))
    except (UserError, FileNotFoundError):  # `plumbline run` says what is wrong with it
        return []


def changed_code(home: Home, run: Run) -> list[str] | None:
    """Return the files that stages depend on and that differ from a run's commit; None if git does not
    tell.
    """
    if not run.git_commit or not COMMIT.fullmatch(run.git_commit):
        return None
    return _git_diff(home.root, run.git_commit, int(time.monotonic() / GIT_SECONDS))


def trends(history: History) -> list[Markup]:
    """Draw win rate, reward-model accuracy, data and KL over the versions; nothing for fewer than two.

    A history replaces its graph when something is new, so the charts of the same graph are drawn once.
    """
    return _draw_trends(history, history.graph)


@lru_cache(maxsize=2)
def _draw_trends(history: History, _made_of_all: Graph) -> list[Markup]:
    champion = history.version(CHAMPION)
    oldest_first = reversed(list(history.versions.values()))
    made = [(one.number, history.runs[one.run]) for one in oldest_first if one.run in history.runs]
    if len(made) < 2:
        return []
    at = (float(champion.number), "champion") if champion else None
    rate = _measured(made, "preference_eval", "win_rate_vs_sft")
    accuracy = _measured(made, "reward_eval", "accuracy")
    kl = [(float(number), value) for number, run in made if (value := kl_to_sft(run)) is not None]
    rows = [(float(number), float(rows_of(run))) for number, run in made if run.batches]
    return [lines([Series("win rate", rate, _intervals(made, "preference_eval", "win_rate_vs_sft"))],
                  "Win rate against SFT", "version", 0.5, at),
            lines([Series("accuracy", accuracy, _intervals(made, "reward_eval", "accuracy"))],
                  "Reward model, held-out accuracy", "version", None, at),
            lines([Series("rows", rows)], "Rows learned from", "version", None, at),
            lines([Series("KL", kl)], "KL to SFT, nats a response", "version", None, at)]


def rows_of(run: Run) -> int:
    """Return the number of rows in a run's snapshot."""
    return sum(batch.rows for batch in run.batches)


Made = list[tuple[int, Run]]


def _measured(made: Made, stage: str, metric: str) -> list[tuple[float, float]]:
    return [(float(number), step.metrics[metric]) for number, run in made
            if (step := run.steps.get(stage)) and metric in step.metrics]


def _intervals(made: Made, stage: str, metric: str) -> list[tuple[float, float, float]]:
    low, high = (dict(_measured(made, stage, f"{metric}_{end}")) for end in ("low", "high"))
    return [(number, low[number], high[number]) for number in low if number in high]


@lru_cache(maxsize=4)
def _checkout_params(root: Path, _when: int) -> Mapping[str, str]:
    return shown_params(load_params(root).model_dump())


@lru_cache(maxsize=16)
def _git_diff(root: Path, commit: str, _when: int) -> list[str] | None:
    try:
        paths = sorted({path for stage in read_stages(root).values() for path in stage.code})
        command = ["git", "diff", "--name-only", "--relative", "--end-of-options", commit, "--", *paths]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError, UserError):
        return None  # no git, or a dvc.yaml that is broken
    return done.stdout.splitlines()


