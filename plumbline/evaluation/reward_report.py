"""The reward model's report in reports/reward/, and the decision of the gate."""

from pathlib import Path

import numpy as np

from plumbline.evaluation.examination import Bin, Examination, ScoredComparison
from plumbline.evaluation.figures import BLUE, GREY, ORANGE, new_figure, save_figure
from plumbline.evaluation.markdown import conversation, percent, quoted, table
from plumbline.statistics import Interval

HISTOGRAM_BINS = 40
HEADERS = {"source": "source", "kind": "kind of prompt", "annotator": "annotator",
           "agreement": "judgements of the pair", "length": "the chosen response is"}


def gate(found: Examination, min_accuracy: float) -> list[str]:
    """Return the reasons why PPO must not use the reward model; an empty list passes it.

    The lower end of the interval counts, because a good figure from few comparisons may be luck.
    """
    if found.accuracy.low >= min_accuracy:
        return []
    return [f"held-out accuracy is {percent(found.accuracy)} of {found.accuracy.n} comparisons, and the "
            f"lower end of the 95 % interval is below reward_eval.min_accuracy ({100 * min_accuracy:g} %)"]


def write_report(
    folder: Path, found: Examination, scored: list[ScoredComparison], reasons: list[str]
) -> None:
    """Write report.md, worst.md, calibration.png and scores.png into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(_report(found, reasons), encoding="utf-8")
    (folder / "worst.md").write_text(_worst(found), encoding="utf-8")
    _draw_calibration(folder / "calibration.png", found.calibration)
    _draw_scores(folder / "scores.png", scored)


def _report(found: Examination, reasons: list[str]) -> str:
    verdict = "passed" if not reasons else "failed: " + "; ".join(reasons)
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
        *lines, "", "![calibration](calibration.png)", "", "![scores](scores.png)", "",
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
    ]
    return [(name, percent(interval), str(interval.n)) for name, interval in named if interval]


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
