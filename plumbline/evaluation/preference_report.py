"""The report on the policy against its opponents: win rates, lengths, rewards, KL, and samples side by side.

With each win rate it gives what may put it in doubt: its interval and n, the win rates by kind and by length,
what other judges say, the shares of answers that stopped by themselves, how far the policy has lost variety,
and how often the judge contradicted itself or followed the order.
"""

from collections.abc import Sequence
from pathlib import Path

from plumbline.evaluation.figures import BLUE, GREY, ORANGE, new_figure, save_figure
from plumbline.evaluation.markdown import percent, quoted, table
from plumbline.evaluation.matches import GREEDY, Evaluation, Match
from plumbline.evaluation.samples import SAMPLES, write_samples
from plumbline.preferences.types import conversation
from plumbline.statistics import Interval

SAMPLES_SHOWN = 20
TITLES = {"sft": "SFT", "sft_greedy": "SFT, both greedy", "champion": "the champion",
          "champion_greedy": "the champion, both greedy"}


def write_report(folder: Path, found: Evaluation, more: Sequence[str] = ()) -> None:
    """Write report.md, samples.md, samples.jsonl and wins.png into `folder`; `more` ends report.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text("\n".join([*_report(found), *more]), encoding="utf-8")
    (folder / "samples.md").write_text(_samples(found), encoding="utf-8")
    write_samples(folder / SAMPLES, found.samples())
    _draw_wins(folder / "wins.png", found.matches)


def _report(found: Evaluation) -> list[str]:
    results = [(_title(match), percent(match.win_rate), *_counts(match), str(match.win_rate.prompts))
               for match in found.matches]
    lines = ["# The policy on held-out prompts", "",
             f"Judge: {found.judge}. A tie counts as half a win; intervals are over prompts.", "",
             *table(("against", "win rate, 95 % interval", "won", "tied", "lost", "prompts"), results),
             "![wins](wins.png)", "", *_judges(found)]
    for match in found.matches:
        lines += _match(match)
    return [*lines, *_answers(found)]


def _title(match: Match) -> str:
    if match.name.startswith("best_of_"):
        return f"the best of {match.name.removeprefix('best_of_')} of SFT by the reward model"
    return TITLES.get(match.name, match.name)


def _judges(found: Evaluation) -> list[str]:
    """Return what each judge says, where there are several, and how far they agree."""
    if len(found.judged) == 1:
        return []
    rows = [(name, _title(match), percent(match.win_rate), str(match.win_rate.n))
            for name, matches in found.judged.items() for match in matches if match.name.startswith("sft")]
    pairs = [(" and ".join(one.judges), percent(one.share), str(one.share.n),
              "none" if one.kappa is None else f"{one.kappa:.2f}") for one in found.agreements]
    return ["## By judge", "", *table(("judge", "against", "win rate, 95 % interval", "pairs"), rows),
            *table(("judges", "agree on pairs that both decide", "pairs", "Cohen's kappa"), pairs)]


def _match(match: Match) -> list[str]:
    def rows(rates: dict[str, Interval]) -> list[tuple[str, str, str]]:
        return [(name, percent(rate), str(rate.n)) for name, rate in rates.items()]

    by_length = dict(match.by_length)
    if match.length_controlled:
        by_length["as long, by logistic regression"] = match.length_controlled
    lines = [f"## Against {_title(match)}", "",
             *table(("the policy's answer is", "win rate, 95 % interval", "pairs"), rows(by_length)),
             *table(("kind of prompt", "win rate, 95 % interval", "pairs"), rows(dict(match.by_kind)))]
    if match.contradictions is not None and match.first_shown is not None:
        lines += ["Asked in both orders, the judge contradicted itself on "
                  f"{100 * match.contradictions:.1f} % of the pairs that differ; those count as ties. It "
                  f"preferred what it was shown first in {100 * match.first_shown:.1f} % of its verdicts.",
                  ""]
    if match.unjudged:
        lines += [f"On {100 * match.unjudged:.1f} % of the pairs that differ it gave no verdict in one order "
                  "or in both; those count as ties, too.", ""]
    return lines


def _answers(found: Evaluation) -> list[str]:
    measurements = list(dict.fromkeys(what for means in found.means.values() for what in means))
    rows = [(what, *(_mean(found.means[one.name].get(what)) for one in found.contestants))
            for what in measurements]
    for what in next(iter(found.distinct.values())):
        rows.append((what, *(f"{found.distinct[one.name][what]:.3f}" for one in found.contestants)))
    return ["## Answers", "",
            "Means with 95 % intervals. `kl` in nats an answer, from SFT; `entropy` and `fluency` (SFT's "
            "log-likelihood of the answer) in nats a token; `distinct_n` of the first answers together.", "",
            *table(("", *(one.name for one in found.contestants)), rows),
            "Answers side by side are in [samples.md](samples.md).", ""]


def _mean(interval: Interval | None) -> str:
    return f"{interval.value:.3g} [{interval.low:.3g}, {interval.high:.3g}]" if interval else "not measured"


def _counts(match: Match) -> tuple[str, str, str]:
    """Return the numbers of pairs won, tied and lost, as texts."""
    won = sum(outcome > 0.5 for outcome in match.outcomes)
    lost = sum(outcome < 0.5 for outcome in match.outcomes)
    return str(won), str(len(match.outcomes) - won - lost), str(lost)


def _samples(found: Evaluation) -> str:
    shown = found.prompts[:SAMPLES_SHOWN]
    lines = ["# Side by side", "", f"{len(shown)} held-out prompts, drawn at random.", ""]
    for i, prompt in enumerate(shown):
        lines += [f"## {i + 1}", "", *quoted(conversation(prompt))]
        for one in found.contestants:
            answer = one.sample_answer(i)
            notes = [f"{what} {value:.2f}" for what, value in answer.measured.items()]
            if not answer.stopped:
                notes.append("did not stop")
            outcomes = [match.outcome_of(i) for match in found.matches if match.opponent is one]
            notes += [_verdict(outcome, one.name) for outcome in outcomes if outcome is not None]
            heading = f"**{one.name}** ({', '.join(notes)})" if notes else f"**{one.name}**"
            lines += [heading, "", *quoted(answer.text)]
    return "\n".join(lines)


def _verdict(outcome: float, opponent: str) -> str:
    if outcome == 0.5:
        return "tie"
    policy = "the greedy policy's" if opponent.endswith(GREEDY) else "the policy's"
    return f"{policy} is better" if outcome > 0.5 else "this is better"


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
              xlabel="share of pairs; dot: win rate with 95 % interval")
    panel.set_yticklabels([f"vs {match.name}" for match in matches])
    panel.invert_yaxis()
    figure.legend(frameon=False, fontsize=9, ncols=3, loc="outside upper right")
    save_figure(figure, file)
