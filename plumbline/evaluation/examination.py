"""Examine a reward model: how well its scores predict held-out preferences, and what else explains them.

Accuracy counts decided comparisons, equal scores as half; its interval resamples prompts. Beside it stand the two
figures that say what it is worth: the accuracy of simply preferring the longer response, and, on simulated data, the
ceiling that the annotators' noise leaves even to the gold reward.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from plumbline import statistics
from plumbline.errors import UserError
from plumbline.evaluation.judges import ScoreFunction
from plumbline.preferences.splits import prompt_key
from plumbline.preferences.types import Comparison, Prompt
from plumbline.statistics import Floats, Interval

Gold = Callable[[Prompt, str], float]
Score = float | int | None
MARGIN_BINS = 5
CALIBRATION_BINS = 10
WORST = 20


@dataclass(frozen=True)
class ScoredComparison:
    """A comparison with the reward model's score of each response."""

    comparison: Comparison
    scores: tuple[float, float]

    @property
    def margin(self) -> float:
        """Score of the chosen response minus that of the rejected one; for a tie, first minus second."""
        first, second = self.scores
        return second - first if self.comparison.label == "B" else first - second

    @property
    def chosen_score(self) -> float:
        """Score of the better response; of the first one of a tie."""
        return self.scores[1] if self.comparison.label == "B" else self.scores[0]

    @property
    def rejected_score(self) -> float:
        """Score of the worse response; of the second one of a tie."""
        return self.scores[0] if self.comparison.label == "B" else self.scores[1]


@dataclass(frozen=True)
class Bin:
    """Comparisons whose predictions are alike: the mean prediction, the share that came true, how many."""

    predicted: float
    observed: float
    n: int


@dataclass(frozen=True)
class Examination:
    """What the examination found; None where the data cannot say."""

    accuracy: Interval
    equal_scores: int
    by_source: dict[str, Interval]
    by_annotator: dict[str, Interval]
    by_margin: list[Bin]
    """`predicted` is the mean absolute difference of scores."""
    bt_loss: float
    """Mean of -log sigmoid(margin), in nats; log 2 = 0.693 is chance."""
    calibration: list[Bin]
    """`predicted` is the mean confidence sigmoid(|difference|), from 0.5."""
    ece: float
    ties: int
    difference_decided: float
    difference_ties: float | None
    longer_baseline: Interval | None
    length_correlation: float | None
    ceiling: Interval | None
    gold_agreement: Interval | None
    worst: list[ScoredComparison]

    def metrics(self) -> dict[str, Score]:
        """The figures for metrics.json; what could not be measured is None."""
        return {
            "accuracy": self.accuracy.value, "accuracy_low": self.accuracy.low, "accuracy_high": self.accuracy.high,
            "n": self.accuracy.n, "equal_scores": self.equal_scores, "ties": self.ties,
            "bt_loss": self.bt_loss, "ece": self.ece, "length_correlation": self.length_correlation,
            "longer_baseline_accuracy": self.longer_baseline.value if self.longer_baseline else None,
            "ceiling_accuracy": self.ceiling.value if self.ceiling else None,
            "gold_agreement": self.gold_agreement.value if self.gold_agreement else None,
        }


def score_comparisons(comparisons: Sequence[Comparison], score: ScoreFunction) -> list[ScoredComparison]:
    """Score every response once: those of a ranking appear in many of its comparisons.

    Raises UserError for a score that is no number: the reward model's training diverged.
    """
    wanted = dict.fromkeys((one.prompt, response) for one in comparisons for response in one.responses)
    scores = dict(zip(wanted, score(list(wanted)), strict=True))
    broken = sum(not math.isfinite(value) for value in scores.values())
    if broken:
        raise UserError(f"The reward model must score every response with a number, but {broken} of {len(scores)} "
                        "scores are infinite or not a number: its training diverged. Lower reward_model.learning_rate.")
    return [ScoredComparison(one, (scores[one.prompt, one.responses[0]], scores[one.prompt, one.responses[1]]))
            for one in comparisons]


def examine(scored: Sequence[ScoredComparison], gold: Gold | None, samples: int, seed: int) -> Examination:
    """Examine the scores of held-out comparisons; `gold` is the true reward where there is one.

    Raises ValueError if every comparison is a tie: there is nothing to be right about.
    """
    decided = [one for one in scored if one.comparison.label != "tie"]
    tied = [one for one in scored if one.comparison.label == "tie"]
    if not decided:
        raise ValueError("no comparison is decided")
    margins = np.array([one.margin for one in decided])
    confidence, right = _sigmoid(np.abs(margins)), outcomes(margins)

    def share(of: Sequence[float], among: Sequence[ScoredComparison]) -> Interval:
        return statistics.share(of, [prompt_key(one.comparison.prompt) for one in among], samples, seed)

    def sliced(names: Sequence[str]) -> dict[str, Interval]:
        rows: dict[str, list[int]] = defaultdict(list)
        for i, name in enumerate(names):
            rows[name].append(i)
        return {name: share([right[i] for i in rows[name]], [decided[i] for i in rows[name]]) for name in sorted(rows)}

    calibration = _bins(confidence, right, np.linspace(0.5, 1.0, CALIBRATION_BINS + 1))
    truth = _against_gold(scored, gold, share) if gold else (None, None)
    return Examination(
        accuracy=share(right, decided),
        equal_scores=int((margins == 0).sum()),
        by_source=sliced([one.comparison.origin.source for one in decided]),
        by_annotator=sliced([one.comparison.origin.annotator or "unknown" for one in decided]),
        by_margin=_bins(np.abs(margins), right, np.quantile(np.abs(margins), np.linspace(0, 1, MARGIN_BINS + 1))),
        bt_loss=float(np.logaddexp(0.0, -margins).mean()),
        calibration=calibration,
        ece=sum(found.n * abs(found.predicted - found.observed) for found in calibration) / len(decided),
        ties=len(tied),
        difference_decided=float(np.abs(margins).mean()),
        difference_ties=float(np.abs([one.margin for one in tied]).mean()) if tied else None,
        longer_baseline=share(outcomes(np.array([_longer(one.comparison) for one in decided])), decided),
        length_correlation=_length_correlation(scored),
        ceiling=truth[0],
        gold_agreement=truth[1],
        worst=sorted((one for one in decided if one.margin < 0), key=lambda one: one.margin)[:WORST],
    )


def outcomes(margins: Floats) -> list[float]:
    """1 where the margin favours the chosen response, 0.5 where it is 0, 0 where it does not."""
    return [0.5 if margin == 0 else float(margin > 0) for margin in margins.tolist()]


def _against_gold(
    scored: Sequence[ScoredComparison], gold: Gold,
    share: Callable[[Sequence[float], Sequence[ScoredComparison]], Interval],
) -> tuple[Interval | None, Interval | None]:
    """Accuracy of the gold reward on the labels, and of the reward model on the gold reward's own order.

    Rounding takes off the last digits, in which sums of the same parts may differ: those are ties of the gold reward.
    """
    truth = [ScoredComparison(one.comparison, (round(gold(one.comparison.prompt, one.comparison.responses[0]), 9),
                                     round(gold(one.comparison.prompt, one.comparison.responses[1]), 9)))
             for one in scored]
    labelled = [true for true in truth if true.comparison.label != "tie"]
    ordered = [(one, true) for one, true in zip(scored, truth, strict=True) if true.margin != 0]
    agreement = [0.5 if one.margin == 0 else float((one.margin > 0) == (true.margin > 0)) for one, true in ordered]
    return (share(outcomes(np.array([true.margin for true in labelled])), labelled),
            share(agreement, [one for one, _ in ordered]) if ordered else None)


def _longer(comparison: Comparison) -> float:
    """How many characters the chosen response is longer."""
    return float(len(comparison.chosen) - len(comparison.rejected))


def _length_correlation(scored: Sequence[ScoredComparison]) -> float | None:
    """Correlation of the difference in score with the difference in length, within each comparison.

    Within a comparison the prompt plays no part. About zero and not about the mean, because which response comes first
    is arbitrary. None where one of the two never differs.
    """
    scores = np.array([one.scores[0] - one.scores[1] for one in scored])
    lengths = np.array([float(len(one.comparison.responses[0]) - len(one.comparison.responses[1])) for one in scored])
    scale = float(np.sqrt((scores**2).sum() * (lengths**2).sum()))
    return float((scores * lengths).sum()) / scale if scale else None


def _bins(predicted: Floats, right: Sequence[float], edges: Floats) -> list[Bin]:
    """The non-empty bins between `edges`, whose ends hold every prediction."""
    observed = np.array(right)
    place = np.clip(np.searchsorted(edges, predicted, side="right") - 1, 0, len(edges) - 2)
    return [Bin(float(predicted[place == i].mean()), float(observed[place == i].mean()), int((place == i).sum()))
            for i in range(len(edges) - 1) if (place == i).any()]


def _sigmoid(values: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -values))
