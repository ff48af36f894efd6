"""Examination of a reward model: how well its scores predict held-out preferences, and what else explains
them.

Accuracy counts decided comparisons, equal scores as half; its interval allows for several of one prompt.
Three figures put it in proportion: the accuracy of simply preferring the longer response, or the shorter one;
that on pairs of similar length, where length explains nothing (Singhal et al. 2023, arXiv 2310.03716, on how
far length explains reward models); and, on simulated data, the ceiling that the annotators' noise leaves even
to the gold reward.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from plumbline import statistics
from plumbline.errors import UserError
from plumbline.evaluation import slices
from plumbline.evaluation.judging.judges import ScoreFunction
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
        """Return the chosen response's score minus the rejected one's; for a tie, first minus second."""
        return self.chosen_score - self.rejected_score

    @property
    def chosen_score(self) -> float:
        """Return the score of the better response; of the first one of a tie."""
        return self.scores[1] if self.comparison.label == "B" else self.scores[0]

    @property
    def rejected_score(self) -> float:
        """Return the score of the worse response; of the second one of a tie."""
        return self.scores[0] if self.comparison.label == "B" else self.scores[1]


@dataclass(frozen=True)
class Bin:
    """Comparisons with similar predictions: the mean prediction, the share that came true, the number."""

    predicted: float
    observed: float
    n: int


@dataclass(frozen=True)
class Examination:
    """The results of an examination; None where the data has no answer."""

    accuracy: Interval
    equal_scores: int
    members: list[Interval]
    """Accuracy of each member of an ensemble; empty for a single model."""
    slices: dict[str, dict[str, Interval]]
    """Accuracy by source, kind, annotator, agreement and length; see slices.py. Kinds only where the prompts
    have them. Of an ensemble also where all members prefer the same response, and where they do not."""
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
    longer_baseline: Interval
    """Accuracy of preferring the longer response."""
    shorter_baseline: Interval
    length_correlation: float | None
    ceiling: Interval | None
    gold_agreement: Interval | None
    worst: list[ScoredComparison]

    @property
    def similar_length(self) -> Interval | None:
        """Return the accuracy on pairs of similar length; None if there are none."""
        return self.slices["length"].get("similar")

    def metrics(self) -> dict[str, Score]:
        """Return the figures for metrics.json; those that could not be measured are None.

        Of the slices those with names of our own: sources and annotators may be many, and are in the report.
        """
        sliced: dict[str, Score] = {}
        for division in ("kind", "agreement", "length", "members"):
            for name, found in self.slices[division].items():
                sliced |= found.metrics(f"accuracy_{division}_{name.replace(' ', '_')}")
        for number, found in enumerate(self.members, start=1):
            sliced |= found.metrics(f"accuracy_member_{number}")
        return sliced | {
            "accuracy": self.accuracy.value,
            "accuracy_low": self.accuracy.low, "accuracy_high": self.accuracy.high,
            "n": self.accuracy.n, "equal_scores": self.equal_scores, "ties": self.ties,
            "bt_loss": self.bt_loss, "ece": self.ece, "length_correlation": self.length_correlation,
            "longer_baseline_accuracy": self.longer_baseline.value,
            "shorter_baseline_accuracy": self.shorter_baseline.value,
            "ceiling_accuracy": self.ceiling.value if self.ceiling else None,
            "gold_agreement": self.gold_agreement.value if self.gold_agreement else None,
        }


def score_comparisons(comparisons: Sequence[Comparison], score: ScoreFunction) -> list[ScoredComparison]:
    """Score every response once: those of a ranking appear in many of its comparisons.

    Raises UserError if a score is not a number: the reward model's training diverged.
    """
    wanted = dict.fromkeys((one.prompt, response) for one in comparisons for response in one.responses)
    scores = dict(zip(wanted, score(list(wanted)), strict=True))
    broken = sum(not math.isfinite(value) for value in scores.values())
    if broken:
        raise UserError(f"The reward model must score every response with a number, but {broken} of "
                        f"{len(scores)} scores are infinite or not a number: its training diverged. Lower "
                        "reward_model.learning_rate.")
    scored = []
    for one in comparisons:
        first, second = one.responses
        scored.append(ScoredComparison(one, (scores[one.prompt, first], scores[one.prompt, second])))
    return scored


def examine(
    scored: Sequence[ScoredComparison], gold: Gold | None,
    members: Sequence[Sequence[ScoredComparison]] = (),
) -> Examination:
    """Examine the scores of held-out comparisons; `gold` is the true reward, if there is one.

    `members` are the same comparisons with the scores of each member of an ensemble. Raises ValueError if
    every comparison is a tie: then there is no preference to predict.
    """
    decided = [one for one in scored if one.comparison.label != "tie"]
    tied = [one for one in scored if one.comparison.label == "tie"]
    if not decided:
        raise ValueError("no comparison is decided")
    margins = np.array([one.margin for one in decided])
    differences = np.abs(margins)
    right = outcomes(margins)

    decided_by = [[one for one in by_member if one.comparison.label != "tie"] for by_member in members]
    pairs = [one.comparison for one in decided]
    longer = outcomes(np.array([float(len(one.chosen) - len(one.rejected)) for one in pairs]))
    calibration = _bins(_sigmoid(differences), right, np.linspace(0.5, 1.0, CALIBRATION_BINS + 1))
    ceiling, gold_agreement = _against_gold(scored, gold) if gold else (None, None)
    return Examination(
        accuracy=_share(right, decided),
        equal_scores=int((margins == 0).sum()),
        members=[_share(outcomes(one.margin for one in by_member), decided) for by_member in decided_by],
        slices=_slices(scored, decided, right, decided_by),
        by_margin=_bins(differences, right, np.quantile(differences, np.linspace(0, 1, MARGIN_BINS + 1))),
        bt_loss=float(np.logaddexp(0.0, -margins).mean()),
        calibration=calibration,
        ece=sum(found.n * abs(found.predicted - found.observed) for found in calibration) / len(decided),
        ties=len(tied),
        difference_decided=float(differences.mean()),
        difference_ties=float(np.abs([one.margin for one in tied]).mean()) if tied else None,
        longer_baseline=_share(longer, decided),
        shorter_baseline=_share([1.0 - outcome for outcome in longer], decided),
        length_correlation=_length_correlation(scored),
        ceiling=ceiling,
        gold_agreement=gold_agreement,
        worst=sorted((one for one in decided if one.margin < 0), key=lambda one: one.margin)[:WORST],
    )


def _slices(
    scored: Sequence[ScoredComparison], decided: Sequence[ScoredComparison], right: Sequence[float],
    decided_by: Sequence[Sequence[ScoredComparison]],
) -> dict[str, dict[str, Interval]]:
    """Return the accuracy of the decided comparisons by each division, see `Examination.slices`."""
    def sliced(names: Sequence[str]) -> dict[str, Interval]:
        """Return the accuracy of the decided comparisons of each name."""
        rows: dict[str, list[int]] = defaultdict(list)
        for i, name in enumerate(names):
            rows[name].append(i)
        accuracy = {}
        for name in sorted(rows):
            places = rows[name]
            accuracy[name] = _share([right[i] for i in places], [decided[i] for i in places])
        return accuracy

    pairs = [one.comparison for one in decided]
    agreement = slices.agreement_among([one.comparison for one in scored])
    return {
        "source": sliced(list(map(slices.source_of, pairs))),
        "kind": sliced(slices.kinds_of(pairs)),
        "annotator": sliced(list(map(slices.annotator_of, pairs))),
        "agreement": sliced([name for name, one in zip(agreement, scored, strict=True)
                             if one.comparison.label != "tie"]),
        "length": sliced(list(map(slices.length_of, pairs))),
        "members": sliced(["agree" if len({one.margin > 0 for one in same}) == 1 else "differ"
                           for same in zip(*decided_by, strict=True)]),
    }


def accuracy(scored: Sequence[ScoredComparison]) -> Interval | None:
    """Return how often the chosen response has the higher score; None if every comparison is a tie."""
    decided = [one for one in scored if one.comparison.label != "tie"]
    return _share(outcomes(one.margin for one in decided), decided) if decided else None


def _share(of: Sequence[float], among: Sequence[ScoredComparison]) -> Interval:
    return statistics.share(of, [prompt_key(one.comparison.prompt) for one in among])


def outcomes(margins: Iterable[float]) -> list[float]:
    """Return 1 for a margin that favours the chosen response, 0.5 for a margin of 0, and 0 otherwise."""
    return [0.5 if margin == 0 else float(margin > 0) for margin in margins]


def _against_gold(
    scored: Sequence[ScoredComparison], gold: Gold
) -> tuple[Interval | None, Interval | None]:
    """Return the gold reward's accuracy on the labels, and the reward model's on the gold reward's order.

    Gold rewards are rounded: the same parts added in another order differ in their last digits, and are ties.
    """
    truth = []
    for one in scored:
        prompt = one.comparison.prompt
        first, second = (round(gold(prompt, response), 9) for response in one.comparison.responses)
        truth.append(ScoredComparison(one.comparison, (first, second)))
    labelled = [true for true in truth if true.comparison.label != "tie"]
    ceiling = _share(outcomes(np.array([true.margin for true in labelled])), labelled)

    ordered = [(one, true) for one, true in zip(scored, truth, strict=True) if true.margin != 0]
    agreement = [0.5 if one.margin == 0 else float((one.margin > 0) == (true.margin > 0))
                 for one, true in ordered]
    return ceiling, _share(agreement, [one for one, _ in ordered]) if ordered else None


def _length_correlation(scored: Sequence[ScoredComparison]) -> float | None:
    """Return the correlation of differences in score and in characters, within each comparison.

    Within a comparison the prompt plays no part. The correlation is about zero and not about the mean,
    because the order of the two responses is arbitrary. None if scores or lengths never differ.
    """
    scores = np.array([one.scores[0] - one.scores[1] for one in scored])
    responses = [one.comparison.responses for one in scored]
    lengths = np.array([float(len(first) - len(second)) for first, second in responses])
    scale = float(np.sqrt((scores**2).sum() * (lengths**2).sum()))
    return float((scores * lengths).sum()) / scale if scale else None


def _bins(predicted: Floats, right: Sequence[float], edges: Floats) -> list[Bin]:
    """Return the non-empty bins between `edges`; the outermost bins take predictions beyond the edges."""
    observed = np.array(right)
    place = np.clip(np.searchsorted(edges, predicted, side="right") - 1, 0, len(edges) - 2)
    return [Bin(float(predicted[inside].mean()), float(observed[inside].mean()), int(inside.sum()))
            for i in range(len(edges) - 1) if (inside := place == i).any()]


def _sigmoid(values: Floats) -> Floats:
    return np.exp(-np.logaddexp(0.0, -values))
