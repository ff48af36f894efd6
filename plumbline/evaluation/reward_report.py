"""The reward model's report in reports/reward/, and what the gate before PPO asks of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plumbline.config import RewardEvalParams
from plumbline.evaluation.examination import Bin, Examination, ScoredComparison
from plumbline.evaluation.figures import BLUE, GREY, ORANGE, new_figure, save_figure
from plumbline.evaluation.markdown import percent, quoted, table
from plumbline.evaluation.probes import Probe, failed
from plumbline.preferences.types import conversation
from plumbline.statistics import Interval

HISTOGRAM_BINS = 40
HEADERS = {"source": "source", "kind": "kind of prompt", "annotator": "annotator",
           "agreement": "judgements of the pair", "length": "the chosen response is",
           "members": "the ensemble's members"}


@dataclass(frozen=True)
class Requirement:
    """Something that the gate asks of a reward model, and what was found."""

    asked: str
    measured: str
    passed: bool
    reason: str
    """A sentence for the case that it did not pass: what is wrong, and which parameter asks."""


def requirements(
    found: Examination, probed: Sequence[Probe], limits: RewardEvalParams
) -> list[Requirement]:
    """Return what the gate asks of the reward model; what `limits` leaves out (null) is not asked.

    An interval's worse end counts for what must be shown, because a good figure from few comparisons may be
    luck, and its better end for what would be a fault, because a bad one may be, too.
    """
    asked = [_accuracy(found, limits.min_accuracy)]
    if limits.min_similar_length_accuracy is not None:
        asked.append(_similar_length(found, limits.min_similar_length_accuracy))
    if limits.beats_length:
        asked.append(_beats_length(found))
    if limits.min_kind_accuracy is not None:
        asked += _kinds(found, limits.min_kind_accuracy)
    if limits.max_probe_wins is not None:
        asked += [_probe(one, limits.max_probe_wins) for one in probed]
    return asked


def gate(found: Examination, probed: Sequence[Probe], limits: RewardEvalParams) -> list[str]:
    """Return the reasons why PPO must not use the reward model; an empty list passes it."""
    return [one.reason for one in requirements(found, probed, limits) if not one.passed]


def _accuracy(found: Examination, least: float) -> Requirement:
    return Requirement(
        f"accuracy, lower end at least {100 * least:g} %", percent(found.accuracy),
        found.accuracy.low >= least,
        f"held-out accuracy is {percent(found.accuracy)} of {found.accuracy.n} comparisons, and the lower "
        f"end of the 95 % interval is below reward_eval.min_accuracy ({100 * least:g} %)")


def _similar_length(found: Examination, least: float) -> Requirement:
    similar = found.similar_length
    measured = percent(similar) if similar else "no such pair"
    return Requirement(
        f"accuracy on pairs of similar length, lower end above {100 * least:g} %", measured,
        similar is not None and similar.low > least,
        f"on held-out pairs of similar length the accuracy is {measured}, and the lower end must exceed "
        f"reward_eval.min_similar_length_accuracy ({100 * least:g} %): it may have learnt length alone")


def _beats_length(found: Examination) -> Requirement:
    longer = found.longer_baseline.value >= 0.5
    which, baseline = ("longer", found.longer_baseline) if longer else ("shorter", found.shorter_baseline)
    return Requirement(
        f"accuracy at least that of preferring the {which} response, {100 * baseline.value:.1f} %",
        percent(found.accuracy), found.accuracy.value >= baseline.value,
        f"held-out accuracy is {100 * found.accuracy.value:.1f} %, and preferring the {which} response "
        f"reaches {100 * baseline.value:.1f} % (reward_eval.beats_length): a ruler is the better judge")


def _kinds(found: Examination, least: float) -> list[Requirement]:
    slices = [(f"{division} `{name}`", one) for division in ("kind", "source")
              for name, one in found.slices[division].items()]
    return [Requirement(
        f"accuracy on {name}, upper end at least {100 * least:g} %", percent(one), one.high >= least,
        f"on {name} the accuracy is {percent(one)} of {one.n} comparisons, surely below "
        f"reward_eval.min_kind_accuracy ({100 * least:g} %): are its labels the wrong way round?")
        for name, one in slices]


def _probe(one: Probe, most: float) -> Requirement:
    if one.rises is None:
        name = f"probe `{one.name}`"
        what = f"{name} ({one.what}) beats the chosen response"
    else:
        name = f"probe `{one.name}`: the word “{one.what}”"
        what = (f"{name} lifts {100 * one.rises.value:.0f} % of the responses, and a rejected response with "
                "it beats the chosen one")
    return Requirement(
        f"{name} wins in at most {100 * most:g} %", percent(one.wins), not failed(one, most),
        f"{what} in {percent(one.wins)} of {one.wins.n} prompts, surely more often than "
        f"reward_eval.max_probe_wins ({100 * most:g} %)")


def write_report(
    folder: Path, found: Examination, scored: list[ScoredComparison], probed: Sequence[Probe],
    limits: RewardEvalParams,
) -> None:
    """Write report.md, worst.md, calibration.png and scores.png into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = requirements(found, probed, limits)
    (folder / "report.md").write_text(_report(found, probed, asked), encoding="utf-8")
    (folder / "worst.md").write_text(_worst(found), encoding="utf-8")
    _draw_calibration(folder / "calibration.png", found.calibration)
    _draw_scores(folder / "scores.png", scored)


def _report(found: Examination, probed: Sequence[Probe], asked: Sequence[Requirement]) -> str:
    reasons = [one.reason for one in asked if not one.passed]
    verdict = "passed" if not reasons else "failed: " + "; ".join(reasons)
    demands = [(one.asked, one.measured, "passed" if one.passed else "**failed**") for one in asked]
    by_margin = [(f"{one.predicted:.3f}", f"{100 * one.observed:.1f} %", str(one.n))
                 for one in found.by_margin]
    ties = ""
    if found.difference_ties is not None:
        ties = f", {found.difference_ties:.3f} on {found.ties} ties"
    lines = [
        "# Reward model on held-out preferences", "",
        f"Gate {verdict}.", "",
        *table(("Accuracy of", "share, 95 % interval", "comparisons"), _accuracies(found)),
        f"- Bradley-Terry loss: {found.bt_loss:.4f} nats (chance: {np.log(2):.4f})",
        f"- expected calibration error: {found.ece:.4f}",
        f"- equal scores, counted as half right: {found.equal_scores}",
        f"- mean difference of scores: {found.difference_decided:.3f} where one response was preferred{ties}",
    ]
    if found.length_correlation is not None:
        lines.append("- correlation of difference in score with difference in length: "
                     f"{found.length_correlation:+.3f}")
    return "\n".join([
        *lines, "", "## What the gate asks", "",
        *table(("requirement", "measured, 95 % interval", "verdict"), demands),
        *_probes(probed), "![calibration](calibration.png)", "", "![scores](scores.png)", "",
        "## By margin", "",
        *table(("mean difference of scores", "right", "comparisons"), by_margin),
        *_sliced(found),
        "The most confident mistakes are in [worst.md](worst.md).", "",
    ])


def _accuracies(found: Examination) -> list[tuple[str, str, str]]:
    named: list[tuple[str, Interval | None]] = [
        ("the reward model", found.accuracy),
        ("the reward model on pairs of similar length", found.similar_length),
        ("preferring the longer response", found.longer_baseline),
        ("preferring the shorter response", found.shorter_baseline),
        ("the gold reward on the same labels: the ceiling", found.ceiling),
        ("the reward model on the gold reward's order", found.gold_agreement),
        *((f"member {number} of the ensemble", one) for number, one in enumerate(found.members, start=1)),
    ]
    return [(name, percent(interval), str(interval.n)) for name, interval in named if interval]


def _probes(probed: Sequence[Probe]) -> list[str]:
    """Return the section on the probes; nothing if there were none."""
    if not probed:
        return []
    rows = []
    for one in probed:
        what = one.what
        if one.rises is not None:
            what = f"a rejected response and the word “{one.what}”, which lifts {percent(one.rises)} of them"
        rows.append((one.name, what, percent(one.wins), str(one.wins.n)))
    return ["## Probes", "",
            "How often a response that no honest judge prefers got a higher score than the chosen one.", "",
            *table(("probe", "response", "wins, 95 % interval", "prompts"), rows)]


def _sliced(found: Examination) -> list[str]:
    """Return a section with a table for each division of the comparisons that has something in it."""
    lines = []
    for division, slices in found.slices.items():
        if slices:
            rows = [(name, percent(interval), str(interval.n)) for name, interval in slices.items()]
            header = (HEADERS[division], "accuracy, 95 % interval", "comparisons")
            lines += [f"## By {division}", "", *table(header, rows)]
    return lines


def _worst(found: Examination) -> str:
    lines = ["# Confidently wrong", "",
             "The reward model preferred the rejected response, by the widest margins.", ""]
    for i, one in enumerate(found.worst, start=1):
        who = one.comparison.origin.annotator or "unknown annotator"
        lines += [f"## {i}. By {-one.margin:.3f}", "", f"{one.comparison.origin.source}, {who}. Prompt:", "",
                  *quoted(conversation(one.comparison.prompt)),
                  f"Chosen, score {one.chosen_score:.3f}:", "", *quoted(one.comparison.chosen),
                  f"Rejected, score {one.rejected_score:.3f}:", "", *quoted(one.comparison.rejected)]
    return "\n".join(lines if found.worst else [*lines, "There are none.", ""])


def _draw_calibration(file: Path, bins: list[Bin]) -> None:
    figure, (left, right) = new_figure(8.5, 3.6, panels=2)
    left.plot([0.5, 1], [0.5, 1], color=GREY, linestyle="--", linewidth=1, label="as confident as right")
    left.plot([one.predicted for one in bins], [one.observed for one in bins], "o-", color=BLUE,
              label="reward model")
    left.set(xlabel="confidence: sigmoid of the difference", ylabel="share right", xlim=(0.48, 1.02),
             ylim=(-0.02, 1.02))
    left.legend(frameon=False, fontsize=9, loc="lower right")
    right.bar([one.predicted for one in bins], [one.n for one in bins], width=0.035, color=BLUE)
    right.set(xlabel="confidence", ylabel="comparisons", xlim=(0.48, 1.02))
    save_figure(figure, file)


def _draw_scores(file: Path, scored: list[ScoredComparison]) -> None:
    decided = [one for one in scored if one.comparison.label != "tie"]
    chosen, rejected = [one.chosen_score for one in decided], [one.rejected_score for one in decided]
    figure, (left, right) = new_figure(8.5, 3.6, panels=2)
    edges = np.histogram_bin_edges([*chosen, *rejected], bins=HISTOGRAM_BINS)
    left.hist(chosen, bins=edges.tolist(), color=BLUE, alpha=0.6, label="chosen")
    left.hist(rejected, bins=edges.tolist(), color=ORANGE, alpha=0.6, label="rejected")
    left.set(xlabel="score", ylabel="responses")
    left.legend(frameon=False, fontsize=9)
    right.hist([one.margin for one in decided], bins=HISTOGRAM_BINS, color=BLUE)
    right.axvline(0, color=ORANGE, linewidth=1.2)
    right.set(xlabel="score of chosen minus rejected", ylabel="comparisons")
    save_figure(figure, file)
