"""Candidates beside PPO on the same held-out prompts: one table, one picture, and who is surely better.

All were judged by the same judges, against the same answers of the same SFT policy. Two of them are compared
prompt by prompt: the difference of their win rates against SFT has the interval of the mean of paired
differences. That one is better than another is said only where that interval excludes 0, at 95 % for all
pairs together (Bonferroni).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from pydantic import TypeAdapter
from scipy.special import stdtrit

from plumbline.evaluation.markdown import percent
from plumbline.evaluation.samples import SAMPLES, Sample, read_samples
from plumbline.preferences.splits import prompt_key
from plumbline.statistics import CONFIDENCE, Interval, mean

PPO, SFT = "ppo", "sft"
JSON = "comparison.json"
BEST_OF = "best_of_"
FEWEST_PROMPTS = 30
"""With fewer nobody is said to be better: a few equal differences would have an interval of no width."""
TITLES = {"sft": "against SFT", "sft_greedy": "against SFT, greedy"}


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation and a training left of one policy."""

    name: str
    """The candidate's, or `ppo` for the pipeline's own policy."""
    method: str
    metrics: Mapping[str, float | str]
    samples: Sequence[Sample]
    seconds: float | None
    """Of training; None if they are not known."""

    @classmethod
    def read(cls, folder: Path, name: str, method: str, seconds: float | None) -> "Evaluated":
        """Read the folder of `preference_eval` or of `candidate_eval`."""
        with (folder / "report" / SAMPLES).open(encoding="utf-8") as lines:
            return cls(name, method, json.loads((folder / "metrics.json").read_text(encoding="utf-8")),
                       tuple(read_samples(lines)), seconds)

    def won(self, opponent: str) -> dict[str, float]:
        """Return the share of meetings that it won, by the key of the prompt."""
        return {prompt_key(one.prompt): one.won[opponent] for one in self.samples if opponent in one.won}


@dataclass(frozen=True)
class Row:
    """One policy in the table."""

    name: str
    method: str
    win_rates: Mapping[str, Interval]
    """By opponent: `sft`, `sft_greedy`, `best_of_8`."""
    kl: float | None
    """Nats an answer, from SFT."""
    characters: float
    """Mean length of an answer."""
    seconds: float | None
    """Of training, by the process that ended it: after a kill not those before."""
    difference: Interval | None
    """Of its win rate against SFT to PPO's, over the same prompts; None for PPO itself."""


@dataclass(frozen=True)
class SurelyBetter:
    """One policy that is surely better than another."""

    better: str
    worse: str
    difference: Interval
    """Its ends hold for all pairs of the comparison together."""


@dataclass(frozen=True)
class PolicyComparison:
    """All rows, PPO's first, and what can be said of them."""

    judge: str
    prompts: int
    """Those that were judged: an endpoint may be asked about the first ones alone."""
    sft_characters: float
    rows: Sequence[Row]
    verdicts: Sequence[SurelyBetter]

    @property
    def opponents(self) -> list[str]:
        """The opponents that all of them met, in the order of the table."""
        return [name for name in self.rows[0].win_rates if all(name in row.win_rates for row in self.rows)]

    @classmethod
    def from_json(cls, text: str) -> "PolicyComparison":
        """Return the comparison that comparison.json holds. Raises ValueError for a damaged one."""
        return TypeAdapter(cls).validate_json(text)

    def cells(self) -> list[tuple[str, ...]]:
        """Return the table as texts, its header first."""
        header = ("policy", "method", *(title_of(name) for name in self.opponents), "over PPO", "KL",
                  "characters", "seconds")
        return [header, *(_cells(row, self.opponents) for row in self.rows)]

    def sentences(self) -> list[str]:
        """Return who is surely better than whom, a sentence for each who is, or that nobody is."""
        if not self.verdicts:
            return ["No policy is surely better than another on these prompts."]
        worse: dict[str, list[str]] = {}
        for one in self.verdicts:
            worse.setdefault(one.better, []).append(f"{one.worse} by {_points(one.difference)}")
        return [f"{better} is better than {', '.join(than)} points of the win rate against SFT."
                for better, than in worse.items()]


def compare(policies: Sequence[Evaluated]) -> PolicyComparison:
    """Set policies side by side, PPO's first. Raises ValueError if an evaluation kept no verdicts."""
    first, rates = policies[0], [one.won(SFT) for one in policies]
    rows = []
    for one, won in zip(policies, rates, strict=True):
        rows.append(Row(one.name, one.method, _win_rates(one), _number(one.metrics, "kl_policy"),
                        float(one.metrics["characters_policy"]), one.seconds,
                        None if one is first else paired(won, rates[0])))
    return PolicyComparison(
        str(first.metrics["judge"]), len(rates[0]), float(first.metrics["characters_sft"]), rows,
        verdicts({one.name: won for one, won in zip(policies, rates, strict=True)}))


def paired(one: Mapping[str, float], other: Mapping[str, float]) -> Interval:
    """Return the mean of the differences over the prompts that both have, with its 95 % interval."""
    both = [key for key in one if key in other]
    return mean([one[key] - other[key] for key in both], both)


def verdicts(won: Mapping[str, Mapping[str, float]]) -> list[SurelyBetter]:
    """Return the pairs of which one is better, at 95 % for all pairs together; the largest difference first.
    """
    pairs = list(combinations(won, 2))
    found = []
    for one, other in pairs:
        difference = together(paired(won[one], won[other]), len(pairs))
        if difference.prompts < FEWEST_PROMPTS:
            continue
        if difference.low > 0:
            found.append(SurelyBetter(one, other, difference))
        elif difference.high < 0:
            turned = Interval(-difference.value, -difference.high, -difference.low, difference.n,
                              difference.prompts)
            found.append(SurelyBetter(other, one, turned))
    return sorted(found, key=lambda verdict: -verdict.difference.value)


def together(interval: Interval, intervals: int) -> Interval:
    """Widen Student's interval of a mean, so that `intervals` of them hold at 95 % together (Bonferroni)."""
    freedom = max(1, interval.prompts - 1)
    wider = stdtrit(freedom, 1 - (1 - CONFIDENCE) / (2 * intervals)) / stdtrit(freedom, (1 + CONFIDENCE) / 2)
    half = float(wider) * (interval.high - interval.value)
    return Interval(interval.value, interval.value - half, interval.value + half, interval.n,
                    interval.prompts)


def title_of(opponent: str) -> str:
    """Return the words for an opponent."""
    if opponent.startswith(BEST_OF):
        return f"against SFT, best of {opponent.removeprefix(BEST_OF)}"
    return TITLES[opponent]


def _win_rates(policy: Evaluated) -> dict[str, Interval]:
    metrics = policy.metrics
    best = [name.removeprefix("win_rate_vs_").removesuffix("_n") for name in metrics
            if name.startswith(f"win_rate_vs_{BEST_OF}") and name.endswith("_n")]
    best = [name for name in best if name.removeprefix(BEST_OF).isdigit()]
    found = {}
    for name in (*TITLES, *best):
        value, low, high, n = (_number(metrics, f"win_rate_vs_{name}{end}")
                               for end in ("", "_low", "_high", "_n"))
        if value is not None and low is not None and high is not None and n is not None:
            judged = policy.won(name if name in TITLES else f"{SFT}_{name}")
            found[name] = Interval(value, low, high, int(n), len(judged))
    return found


def _number(metrics: Mapping[str, float | str], name: str) -> float | None:
    value = metrics.get(name)
    return float(value) if isinstance(value, float | int) else None


def _cells(row: Row, opponents: Sequence[str]) -> tuple[str, ...]:
    return (row.name, row.method, *(percent(row.win_rates[name]) for name in opponents),
            "-" if row.difference is None else _points(row.difference),
            "-" if row.kl is None else f"{row.kl:.2f}", f"{row.characters:.0f}",
            "-" if row.seconds is None else f"{row.seconds:.0f}")


def _points(difference: Interval) -> str:
    return f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
