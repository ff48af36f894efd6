"""The policy against its opponents on held-out prompts: win rates, lengths, rewards, KL, and samples side by
side.

With each win rate the report gives what may put it in doubt: its interval and n, the win rates among shorter
and longer responses, the shares of responses that stopped by themselves, and how often the judge contradicted
itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plumbline import statistics
from plumbline.evaluation.figures import BLUE, GREY, ORANGE, new_figure, save_figure
from plumbline.evaluation.judges import Judge, judge_both_orders
from plumbline.evaluation.markdown import conversation, percent, quoted, table
from plumbline.evaluation.samples import SAMPLES, Sample, SampleAnswer, write_samples
from plumbline.preferences.splits import prompt_key
from plumbline.preferences.types import Prompt
from plumbline.statistics import Interval

SAMPLES_SHOWN = 20
SIMILAR = 1.25
"""Lengths whose ratio is at most this count as similar."""
BUCKETS = ("shorter", "similar", "longer")


@dataclass(frozen=True)
class Contestant:
    """One model's responses to the prompts, in the order of the prompts, and the figures measured on each."""

    name: str
    """`policy`, `sft` or `champion`: a part of the metrics' names."""
    responses: Sequence[str]
    stopped: Sequence[bool]
    """True for each response that ended by itself; False if it was cut at the longest length."""
    measured: Mapping[str, Sequence[float]]
    """Figures of each response, by name: `reward`, `gold`, `kl` (nats from the reference), if measured."""

    def answer(self, i: int) -> SampleAnswer:
        """Return the response to prompt `i` with the figures measured on it."""
        measured = {name: values[i] for name, values in self.measured.items()}
        return SampleAnswer(self.responses[i], self.stopped[i], measured)


@dataclass(frozen=True)
class Match:
    """The policy against one opponent."""

    opponent: Contestant
    outcomes: Sequence[float]
    """One a prompt: 1 if the policy is better, 0.5 if neither is, 0 if the opponent is."""
    win_rate: Interval
    by_length: dict[str, Interval]
    """Win rates on prompts where the policy's response is shorter, similar or longer than the opponent's."""
    contradictions: float | None
    """Share of different pairs on which an order-sensitive judge contradicted itself."""


@dataclass(frozen=True)
class Evaluation:
    """All results that the report shows."""

    prompts: Sequence[Prompt]
    policy: Contestant
    matches: Sequence[Match]
    means: dict[str, dict[str, Interval]]
    """By contestant and measurement: mean length in characters, share stopped, mean of each of `measured`."""

    @property
    def contestants(self) -> list[Contestant]:
        """Return the policy and its opponents."""
        return [self.policy, *(match.opponent for match in self.matches)]

    def samples(self) -> list[Sample]:
        """Return every prompt with the answers of all contestants, and the judge's outcomes."""
        samples = []
        for i, prompt in enumerate(self.prompts):
            answers = {one.name: one.answer(i) for one in self.contestants}
            outcomes = {match.opponent.name: match.outcomes[i] for match in self.matches}
            samples.append(Sample(prompt, answers, outcomes))
        return samples

    def metrics(self) -> dict[str, float]:
        """Return the figures for metrics.json, such as `win_rate_vs_sft_low` and `kl_policy`."""
        found: dict[str, float] = {}
        for match in self.matches:
            key = f"win_rate_vs_{match.opponent.name}"
            rate = match.win_rate
            found |= {key: rate.value, f"{key}_low": rate.low, f"{key}_high": rate.high, f"{key}_n": rate.n}
            if match.contradictions is not None:
                found[f"contradictions_vs_{match.opponent.name}"] = match.contradictions
        for name, means in self.means.items():
            found |= {f"{what}_{name}": interval.value for what, interval in means.items()}
        return found


def evaluate(
    prompts: Sequence[Prompt], policy: Contestant, opponents: Sequence[Contestant], judge: Judge,
    samples: int, seed: int,
) -> Evaluation:
    """Judge the policy against each opponent. Intervals resample prompts, `samples` times.

    Raises ValueError if there are no prompts, or if a contestant has not answered each of them.
    """
    for one in (policy, *opponents):
        sizes = {len(one.responses), len(one.stopped), *(len(values) for values in one.measured.values())}
        if sizes != {len(prompts)}:
            raise ValueError(f"{one.name} has {sizes} responses and measurements for {len(prompts)} prompts")
    keys = [prompt_key(prompt) for prompt in prompts]
    matches = [_match(prompts, keys, policy, opponent, judge, samples, seed) for opponent in opponents]
    means = {one.name: _means(one, keys, samples, seed) for one in (policy, *opponents)}
    return Evaluation(prompts, policy, matches, means)


def _match(
    prompts: Sequence[Prompt], keys: Sequence[str], policy: Contestant, opponent: Contestant, judge: Judge,
    samples: int, seed: int,
) -> Match:
    judged = judge_both_orders(judge, prompts, policy.responses, opponent.responses)
    buckets = [_bucket(own, other) for own, other in zip(policy.responses, opponent.responses, strict=True)]
    by_length = {}
    for bucket in BUCKETS:
        rows = [i for i, place in enumerate(buckets) if place == bucket]
        if rows:
            outcomes = [judged.outcomes[i] for i in rows]
            by_length[bucket] = statistics.share(outcomes, [keys[i] for i in rows], samples, seed)
    win_rate = statistics.share(judged.outcomes, keys, samples, seed)
    return Match(opponent, judged.outcomes, win_rate, by_length, judged.contradictions)


def _bucket(own: str, other: str) -> str:
    if len(own) > SIMILAR * len(other):
        return "longer"
    return "shorter" if len(other) > SIMILAR * len(own) else "similar"


def _means(one: Contestant, keys: Sequence[str], samples: int, seed: int) -> dict[str, Interval]:
    found = {"characters": statistics.mean([float(len(text)) for text in one.responses], keys, samples, seed),
             "stopped": statistics.share([float(stopped) for stopped in one.stopped], keys, samples, seed)}
    for what, values in one.measured.items():
        found[what] = statistics.mean(values, keys, samples, seed)
    return found


def write_report(folder: Path, found: Evaluation) -> None:
    """Write report.md, samples.md, samples.jsonl and wins.png into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(_report(found), encoding="utf-8")
    (folder / "samples.md").write_text(_samples(found), encoding="utf-8")
    write_samples(folder / SAMPLES, found.samples())
    _draw_wins(folder / "wins.png", found.matches)


def _report(found: Evaluation) -> str:
    results = [(match.opponent.name, percent(match.win_rate), str(match.win_rate.n), *_counts(match))
               for match in found.matches]
    lines = ["# The policy on held-out prompts", "", "A tie counts as half a win.", "",
             *table(("against", "win rate, 95 % interval", "prompts", "won", "tied", "lost"), results),
             "![wins](wins.png)", ""]
    for match in found.matches:
        by_length = [(name, percent(rate), str(rate.n)) for name, rate in match.by_length.items()]
        lines += [f"## Against {match.opponent.name}", "",
                  *table(("the policy's response is", "win rate, 95 % interval", "prompts"), by_length)]
        if match.contradictions is not None:
            lines += ["Asked in both orders, the judge contradicted itself on "
                      f"{100 * match.contradictions:.1f} % of the pairs that differ; those count as "
                      "ties.", ""]
    measurements = list(dict.fromkeys(what for means in found.means.values() for what in means))
    rows = [(name, *map(_mean, map(means.get, measurements))) for name, means in found.means.items()]
    lines += ["## Responses", "",
              "Means with 95 % intervals; `kl` in nats a response, from the reference.", "",
              *table(("", *measurements), rows),
              "Responses side by side are in [samples.md](samples.md).", ""]
    return "\n".join(lines)


def _mean(interval: Interval | None) -> str:
    return f"{interval.value:.3g} [{interval.low:.3g}, {interval.high:.3g}]" if interval else "not measured"


def _counts(match: Match) -> tuple[str, str, str]:
    """Return the numbers of prompts won, tied and lost, as texts."""
    won = sum(outcome > 0.5 for outcome in match.outcomes)
    lost = sum(outcome < 0.5 for outcome in match.outcomes)
    return str(won), str(len(match.outcomes) - won - lost), str(lost)


def _samples(found: Evaluation) -> str:
    shown = found.prompts[:SAMPLES_SHOWN]
    lines = ["# Side by side", "", f"The first {len(shown)} held-out prompts.", ""]
    for i, prompt in enumerate(shown):
        lines += [f"## {i + 1}", "", *quoted(conversation(prompt))]
        for one in found.contestants:
            notes = [f"{what} {values[i]:.2f}" for what, values in one.measured.items()]
            if not one.stopped[i]:
                notes.append("did not stop")
            notes += [_verdict(match.outcomes[i]) for match in found.matches if match.opponent is one]
            heading = f"**{one.name}** ({', '.join(notes)})" if notes else f"**{one.name}**"
            lines += [heading, "", *quoted(one.responses[i])]
    return "\n".join(lines)


def _verdict(outcome: float) -> str:
    if outcome == 0.5:
        return "tie"
    return "the policy's is better" if outcome > 0.5 else "this is better"


def _draw_wins(file: Path, matches: Sequence[Match]) -> None:
    """Draw one bar for each opponent: won, tied, lost; the dot is the win rate with its interval."""
    figure, (panel,) = new_figure(7.0, 1.3 + 0.6 * len(matches))
    for place, match in enumerate(matches):
        won, tied, lost = (int(count) / len(match.outcomes) for count in _counts(match))
        first = place == 0
        panel.barh(place, won, color=BLUE, height=0.5, label="won" if first else None)
        panel.barh(place, tied, left=won, color=GREY, height=0.5, label="tied" if first else None)
        panel.barh(place, lost, left=won + tied, color=ORANGE, height=0.5, label="lost" if first else None)
        rate = match.win_rate
        error = [[rate.value - rate.low], [rate.high - rate.value]]
        panel.errorbar(rate.value, place, xerr=error, fmt="o", color="black", capsize=4, markersize=4)
    panel.axvline(0.5, color="black", linewidth=0.8, linestyle="--")
    panel.set(xlim=(0, 1), yticks=range(len(matches)),
              xlabel="share of prompts; dot: win rate with 95 % interval")
    panel.set_yticklabels([f"vs {match.opponent.name}" for match in matches])
    panel.invert_yaxis()
    figure.legend(frameon=False, fontsize=9, ncols=3, loc="outside upper right")
    save_figure(figure, file)
