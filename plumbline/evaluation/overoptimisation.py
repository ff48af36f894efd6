"""How far the reward model can be optimised before a judge that was not optimised stops agreeing.

Gao et al. 2022, arXiv 2210.10760: with more optimisation, measured as d = sqrt(KL(policy, SFT)), the own
reward goes on rising, while an independent one rises, slows down and falls. Two ways of optimising are shown:
the best of n of SFT's answers by the reward model, and PPO along its updates. Gains are over SFT, in standard
deviations of SFT's scores, so that two judges fit in one picture.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from plumbline import statistics
from plumbline.evaluation.answers import Answers, scored
from plumbline.evaluation.figures import BLUE, GREY, ORANGE, new_figure, save_figure
from plumbline.evaluation.judging.judges import NamedJudge, ScoreJudge
from plumbline.evaluation.markdown import table
from plumbline.evaluation.matches import Contestant
from plumbline.preferences.splits import prompt_key
from plumbline.preferences.types import Prompt
from plumbline.statistics import Floats, Interval

PICTURE = "overoptimisation.png"
FEWEST_POINTS = 4
"""Points at which the two parameters of a curve are fitted, at least."""
KL, OWN, JUDGE = "validation_kl", "validation_reward", "validation_judge_score"
"""What PPO measures on validation prompts as it goes, in its curves."""

Scores = Sequence[Sequence[float]]
"""By prompt, then by answer."""


@dataclass(frozen=True)
class OptimisedPoint:
    """One degree of optimisation, and what it gains in standard deviations of SFT's scores."""

    label: str
    kl: float
    """Nats an answer."""
    own: Interval | float | None
    """By the reward model; None where PPO measured another reward, which it optimised."""
    judge: Interval | float | None
    """By a judge that was not; None where there is none."""


@dataclass(frozen=True)
class Overoptimisation:
    """Both curves, and the policy at the end of PPO."""

    judge: str | None
    """Name of the independent judge; None where no judge of this evaluation scores single answers."""
    best_of: Sequence[OptimisedPoint]
    ppo: Sequence[OptimisedPoint]
    """On validation prompts, whose judge is the second reward model."""
    policy: OptimisedPoint | None
    """The policy that PPO kept, on the held-out prompts of this evaluation."""

    @property
    def parting_kl(self) -> float | None:
        """Return the KL at which the judge's curve over PPO's updates is highest; see `peak_kl`."""
        return peak_kl(self.ppo, lambda d: -d * np.log(d), lambda a, b: math.exp(min(a / b - 1, 50.0)))

    @property
    def parting_kl_best_of(self) -> float | None:
        """Return the KL at which the judge's curve over best-of-n is highest; see `peak_kl`."""
        return peak_kl(self.best_of, lambda d: -d * d, lambda a, b: a / (2 * b))

    def metrics(self) -> dict[str, float | None]:
        """Return the figures for metrics.json; what was not measured is None."""
        found: dict[str, float | None] = {
            "parting_kl": self.parting_kl, "parting_kl_best_of": self.parting_kl_best_of}
        ends = {"policy": self.policy, "best_of": self.best_of[-1] if self.best_of else None}
        for name, point in ends.items():
            if point is not None:
                found[f"gain_own_{name}"] = None if point.own is None else _value(point.own)
                found[f"gain_judge_{name}"] = None if point.judge is None else _value(point.judge)
        return found


@dataclass(frozen=True)
class Scorers:
    """Who scores: the reward that was optimised, and a judge that was not, if one scores single answers."""

    own: ScoreJudge
    judge: ScoreJudge | None
    name: str | None
    """Of the judge."""

    def both(self, prompts: Sequence[Prompt], answers: Answers) -> tuple[Scores, Scores | None]:
        """Return the scores of each answer by the own reward and by the judge."""
        judged = scored(self.judge, prompts, answers) if self.judge else None
        return scored(self.own, prompts, answers), judged


def scorers_among(judges: Sequence[NamedJudge]) -> Scorers:
    """Return the own reward, which is the first of the judges, and the next one that scores single answers.
    """
    scoring = [(one.name, one.judge) for one in judges if isinstance(one.judge, ScoreJudge)]
    own_name, own = scoring[0]
    others = [(name, judge) for name, judge in scoring if name != own_name]
    name, judge = others[0] if others else (None, None)
    return Scorers(own, judge, name)


def overoptimisation(
    models: Path, prompts: Sequence[Prompt], contestants: Sequence[Contestant], pool: Answers,
    scorers: Scorers, alone: bool,
) -> Overoptimisation:
    """Measure the gains of best-of-n over `pool`, and of PPO, by the own reward and by the judge.

    `pool` holds SFT's answers to the first prompts, as many to each. `models` is the run's folder of models,
    whose policy/curves.jsonl has what PPO measured as it went: by the reward model, if that is `alone` what
    it optimised.
    """
    keys = [prompt_key(prompt) for prompt in prompts]
    best_of = []
    if pool:
        first = len(pool)
        best_of = best_of_curve(*scorers.both(prompts[:first], pool), keys[:first])
    by_name = {one.name: one for one in contestants}
    policy = _kept_policy(by_name["policy"], by_name["sft"], prompts, scorers)
    own_deviation = reward_deviation(models / "reward/model") or 1.0 if alone else None
    ppo = ppo_curve(models / "policy/curves.jsonl", own_deviation, reward_deviation(models / "judge/model"))
    return Overoptimisation(scorers.name, best_of, ppo, policy)


def _kept_policy(
    policy: Contestant, sft: Contestant, prompts: Sequence[Prompt], scorers: Scorers
) -> OptimisedPoint | None:
    """Return the policy that PPO kept; None where its KL was not measured."""
    if "kl" not in policy.measured:
        return None
    keys = [prompt_key(prompt) for prompt in prompts]
    kl = [value for row in policy.measured["kl"] for value in row]
    own, judged = scorers.both(prompts, policy.answers)
    own_sft, judged_sft = scorers.both(prompts, sft.answers)
    judge = gain_over(judged, judged_sft, keys) if judged and judged_sft else None
    return OptimisedPoint("the policy kept, on held-out prompts", max(sum(kl) / len(kl), 0.0),
                          gain_over(own, own_sft, keys), judge)


def reward_deviation(folder: Path) -> float | None:
    """Return the standard deviation of SFT's scores under a reward model; None without a model."""
    config = folder / "config.json"
    if not config.is_file():
        return None
    return float(json.loads(config.read_text(encoding="utf-8")).get("reward_std", 1.0))


def best_of_weights(pool: int, n: int) -> list[float]:
    """Return, for each answer of a pool in ascending order of score, how often it is the best of n of them.

    Over all subsets of n of the pool: C(i-1, n-1) / C(pool, n) for the i-th smallest, which makes their mean
    an unbiased estimate of the best of n (Nakano et al. 2021, arXiv 2112.09332, appendix I).
    """
    return [math.comb(i - 1, n - 1) / math.comb(pool, n) for i in range(1, pool + 1)]


def best_of_kl(n: int) -> float:
    """Return KL(best of n, SFT) = log n - (n - 1) / n in nats (Stiennon et al. 2020, appendix G.3)."""
    return math.log(n) - (n - 1) / n


def best_of_curve(
    own: Scores, judged: Scores | None, keys: Sequence[str]
) -> list[OptimisedPoint]:
    """Return the gains of the best of 1, 2, 4 ... of each prompt's pool by its `own` scores.

    `judged` are the judge's scores of the same answers. `keys` names the prompts.
    Every pool has the same size.
    """
    if not own:
        return []
    pool = len(own[0])
    order = [sorted(range(pool), key=row.__getitem__) for row in own]

    def gain(n: int, scores: Scores) -> Interval:
        over_mean = [weight - 1 / pool for weight in best_of_weights(pool, n)]
        differences = [sum(weight * row[i] for weight, i in zip(over_mean, places, strict=True))
                       for row, places in zip(scores, order, strict=True)]
        return in_deviations(differences, scores, keys)

    sizes = [2**power for power in range(pool.bit_length()) if 2**power <= pool]
    return [OptimisedPoint(str(n), best_of_kl(n), gain(n, own), gain(n, judged) if judged else None)
            for n in sizes]


def gain_over(scores: Scores, sft: Scores, keys: Sequence[str]) -> Interval:
    """Return the mean of scores as a gain over SFT's scores on the same prompts, which `keys` names.

    As many scores belong to each prompt, and as many of SFT's.
    """
    differences = [fmean(row) - fmean(other) for row, other in zip(scores, sft, strict=True)]
    return in_deviations(differences, sft, keys)


def in_deviations(differences: Sequence[float], sft: Scores, keys: Sequence[str]) -> Interval:
    """Return the mean of a difference of each prompt, in standard deviations of SFT's scores; in those scores
    themselves if they are all the same.

    The deviation is of the same prompts, and another draw of them has another one. So the interval is that
    of the ratio (delta method): what each prompt adds to the deviation is taken off its difference in
    proportion to the gain, which leaves the mean as it is.
    """
    sft_PA = np.array(sft)
    deviation = float(sft_PA.std()) if np.ptp(sft_PA) else 1.0
    gain_P = np.array(differences) / deviation
    spread_P = np.square((sft_PA - sft_PA.mean()) / deviation).mean(1)
    return statistics.mean((gain_P - gain_P.mean() * (spread_P - spread_P.mean()) / 2).tolist(), keys)


def ppo_curve(
    curves: Path, deviation: float | None, judge_deviation: float | None
) -> list[OptimisedPoint]:
    """Return what PPO measured on validation prompts, from its curves; empty where it measured nothing.

    Scores of a reward model are centred on SFT, so a mean over its `deviation` is a gain. Where PPO had
    another reward `deviation` is None, and so is the own gain; without a second reward model
    `judge_deviation`, and the judge's.
    """
    points = []
    for line in curves.read_text(encoding="utf-8").splitlines() if curves.is_file() else []:
        values: Mapping[str, float | None] = json.loads(line)
        kl, own, judged = (values.get(name) for name in (KL, OWN, JUDGE))
        if kl is None or own is None:
            continue
        judge = None if judged is None or judge_deviation is None else judged / judge_deviation
        gain = None if deviation is None else own / deviation
        points.append(OptimisedPoint(f"update {values.get('step')}", max(kl, 0.0), gain, judge))
    return points


def peak_kl(
    points: Sequence[OptimisedPoint], bend: Callable[[Floats], Floats], peak: Callable[[float, float], float]
) -> float | None:
    """Return the KL at which the fitted curve of the judge's gain is highest.

    The curves are those of Gao et al., equation 1: gain(d) = d (a - b d) for the best of n, d (a - b log d)
    for reinforcement learning; a and b by least squares. `bend(d)` is what b stands before, and `peak(a, b)`
    the highest point. None where fewer than FEWEST_POINTS were measured, or where the peak is not within what
    was measured.
    """
    measured = [(math.sqrt(point.kl), _value(point.judge)) for point in points
                if point.kl > 0 and point.judge is not None]
    if len(measured) < FEWEST_POINTS:
        return None
    d_N, gain_N = np.array(measured).T
    (a, b), *_ = np.linalg.lstsq(np.stack([d_N, bend(d_N)], 1), gain_N, rcond=None)
    if b <= 0:
        return None
    top = float(peak(a, b))
    return top * top if d_N.min() <= top <= d_N.max() else None


def _value(gain: Interval | float) -> float:
    return gain.value if isinstance(gain, Interval) else gain


def overoptimisation_section(found: Overoptimisation) -> list[str]:
    """Return the report's section: the picture, where the curves part, and both tables."""
    if not found.best_of and not found.ppo:
        return []
    judge = f"judge: {found.judge}" if found.judge else "no judge scores single answers"
    lines = ["## How far the reward model can be optimised", "",
             f"Gains over SFT in standard deviations of its scores ({judge}; along PPO's updates the second "
             f"reward model, on validation prompts).", "", f"![own reward and judge over KL]({PICTURE})", "",
             *_other_reward(found),
             *_parting("PPO", found.parting_kl, found.ppo),
             *_parting("Best of n", found.parting_kl_best_of, found.best_of)]
    for points, what in ((found.best_of, "best of"), ([*found.ppo, *_policy(found)], "PPO")):
        rows = [(point.label, f"{point.kl:.2f}", _gain(point.own), _gain(point.judge)) for point in points]
        lines += table((what, "KL, nats", "own reward", "judge"), rows)
    return lines


def _other_reward(found: Overoptimisation) -> list[str]:
    """Say why PPO's updates have no own reward, if they have none."""
    if not found.ppo or found.ppo[0].own is not None:
        return []
    return ["PPO was rewarded by more than the reward model, or by something else, so the own reward of its "
            "updates cannot stand beside the others: the training's curves have it.", ""]


def _policy(found: Overoptimisation) -> list[OptimisedPoint]:
    return [found.policy] if found.policy else []


def _parting(what: str, kl: float | None, points: Sequence[OptimisedPoint]) -> list[str]:
    if kl is not None:
        return [f"- {what}: the judge's curve is highest at a KL of {kl:.1f} nats; beyond it only the own "
                "reward rises."]
    judged = sorted((point.kl, _value(point.judge)) for point in points if point.judge is not None)
    if not judged:
        return []
    if len(judged) < FEWEST_POINTS:
        return [f"- {what}: {len(judged)} measurements are too few to tell where the judge's gain is "
                "highest."]
    gains = [gain for _, gain in judged]
    if gains[-1] == max(gains):
        return [f"- {what}: within what was measured the judge's gain rises with the own reward."]
    return [f"- {what}: the judge's gain has no clear top. It was {gains[0]:+.2f} at the lowest KL and "
            f"{gains[-1]:+.2f} at the highest, {judged[-1][0]:.1f} nats."]


def _gain(gain: Interval | float | None) -> str:
    if gain is None:
        return ""
    if isinstance(gain, Interval):
        return f"{gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"
    return f"{gain:+.2f}"


def draw_overoptimisation(file: Path, found: Overoptimisation) -> None:
    """Draw own reward and judge over KL, on an axis linear in sqrt(KL): best of n, and PPO."""
    if not found.best_of and not found.ppo:
        return
    figure, panels = new_figure(8.5, 3.6, panels=2)
    titles = ("best of n of SFT", "PPO")
    for panel, title, points in zip(panels, titles, (found.best_of, found.ppo), strict=True):
        for name, color in (("own", BLUE), ("judge", ORANGE)):
            drawn = [(point.kl, gain) for point in points if (gain := getattr(point, name)) is not None]
            if not drawn:
                continue
            label = "own reward" if name == "own" else "judge"
            panel.plot([kl for kl, _ in drawn], [_value(gain) for _, gain in drawn], "o-", color=color,
                       markersize=4, label=label)
            ends = [(kl, gain.low, gain.high) for kl, gain in drawn if isinstance(gain, Interval)]
            if ends:
                kls, lows, highs = (list(values) for values in zip(*ends, strict=True))
                panel.fill_between(kls, lows, highs, color=color, alpha=0.15)
        panel.axhline(0, color=GREY, linewidth=0.8, linestyle="--")
        panel.set_xscale("function", functions=(lambda kl: np.sqrt(np.clip(kl, 0, None)), np.square))
        panel.set_xlim(left=0)
        panel.set(title=title, xlabel="KL to SFT, nats an answer", ylabel="gain, deviations of SFT")
    for point in _policy(found):
        if point.own is not None:
            panels[1].plot(point.kl, _value(point.own), "*", color=BLUE, markersize=11)
        if point.judge is not None:
            panels[1].plot(point.kl, _value(point.judge), "*", color=ORANGE, markersize=11,
                           label="kept policy, held-out")
    for panel, kl in zip(panels, (found.parting_kl_best_of, found.parting_kl), strict=True):
        if kl is not None:
            panel.axvline(kl, color="black", linewidth=0.9, linestyle=":", label="they part")
        if panel.get_legend_handles_labels()[0]:
            panel.legend(frameon=False, fontsize=8)
    save_figure(figure, file)
