"""Two policies answer by answer: which prompts both were asked, what each said, and who says which is better.

Where one was evaluated against the other, the judge of that evaluation has the word, and one reward model
scored both. Otherwise their answers come from two evaluations on the same held-out prompts: then the gold
reward decides where there is one, else the reward model if both runs used the same one, else nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from plumbline.evaluation.samples import Sample, SampleAnswer
from plumbline.history.history import Run
from plumbline.history.reports import Reports
from plumbline.preferences.types import Prompt
from plumbline.statistics import wilson
from plumbline.web.drawing.charts import Bar
from plumbline.web.views.sides import CHAMPION, EVALUATION, POLICY, SFT, Side

GOLD, REWARD = "gold", "reward"
TIE_WITHIN = 1e-6
Better = Literal["a", "b", "tie"]
SORTS = {"difference": "largest difference", "disagreement": "verdict against reward", "a": "A much better",
         "b": "B much better", "prompt": "order of the prompts"}


@dataclass(frozen=True)
class AnswerPair:
    """One prompt with both answers."""

    prompt: Prompt
    a: SampleAnswer
    b: SampleAnswer
    outcome: float | None
    """1: A is better; 0: B is; None where nobody says."""
    gap: float | None
    """How much better A is: by gold, else by reward; None where neither can be compared."""
    reward_gap: float | None
    """The reward of A minus that of B; None where two reward models scored them."""

    @property
    def better(self) -> Better | None:
        """`a`, `b` or `tie`; None if nothing says which is better."""
        if self.outcome is None:
            return None
        if abs(self.outcome - 0.5) < TIE_WITHIN:
            return "tie"
        return "a" if self.outcome > 0.5 else "b"

    @property
    def disagreement(self) -> float:
        """By how much the rewards contradict the verdict; 0 where they agree."""
        if self.outcome is None or self.reward_gap is None:
            return 0.0
        return max(0.0, -self.reward_gap * (2 * self.outcome - 1))


@dataclass(frozen=True)
class Matched:
    """The answers of two policies to the same prompts."""

    pairs: Sequence[AnswerPair]
    verdicts: str
    """Who says which is better, in a sentence."""
    rewards: str
    """Whose rewards these are, in a sentence."""

    def counts(self) -> dict[Better, int]:
        """Count the pairs by which is better."""
        found: dict[Better, int] = {"a": 0, "tie": 0, "b": 0}
        for pair in self.pairs:
            if pair.better:
                found[pair.better] += 1
        return found

    def rate(self) -> Bar | None:
        """Return the share of pairs in which A is better, ties as half, with Wilson's interval."""
        outcomes = [pair.outcome for pair in self.pairs if pair.outcome is not None]
        if not outcomes:
            return None
        value = sum(outcomes) / len(outcomes)
        low, high = wilson(value, len(outcomes))
        return Bar("A is better", value, low, high, f"n = {len(outcomes):,}")

    def means(self) -> list[tuple[str, float, float]]:
        """Return the means over the answers of A and of B, for each measurement that both have."""
        known = {what for pair in self.pairs for what in pair.a.measured.keys() & pair.b.measured.keys()}
        if any(pair.reward_gap is None for pair in self.pairs):
            known.discard(REWARD)
        found = []
        for what in sorted(known):
            both = [(pair.a.measured[what], pair.b.measured[what]) for pair in self.pairs
                    if what in pair.a.measured and what in pair.b.measured]
            left, right = (sum(side) / len(both) for side in zip(*both, strict=True))
            found.append((what, left, right))
        return found


def match(reports: Reports, a: Side, b: Side) -> Matched:
    """Return the prompts that both were asked, in the order of A's evaluation."""
    for one, other in ((a, b), (b, a)):
        opponent = _met(one, other)
        if opponent is None:
            continue
        samples = [sample for sample in one.samples(reports) if opponent in sample.outcomes]
        if samples:
            return _judged(one, other, opponent, samples, turned=one is b and one is not a)
    return _apart(a, b, reports)


def _met(one: Side, other: Side) -> str | None:
    """Return what the evaluation of `one` calls `other`, if it was an opponent there."""
    if one.contestant != POLICY:
        return None
    if other.model == SFT and other.sft is not None and other.sft == one.sft:
        return SFT
    if other.model == CHAMPION:
        return CHAMPION if other.run.id == one.run.id and not one.candidate else None
    met = one.version and other.version and one.version.compared_with == other.version.number
    return CHAMPION if met else None


def _judged(one: Side, other: Side, opponent: str, samples: Sequence[Sample], turned: bool) -> Matched:
    """Match answers of one evaluation, where one side was the policy; `turned` if that is B."""
    pairs = []
    for sample in samples:
        own, theirs, outcome = sample.answers[POLICY], sample.answers[opponent], sample.outcomes[opponent]
        left, right = (theirs, own) if turned else (own, theirs)
        reward, gold = _gap(left, right, REWARD), _gap(left, right, GOLD)
        pairs.append(AnswerPair(sample.prompt, left, right, 1.0 - outcome if turned else outcome,
                                gold if gold is not None else reward, reward))
    assert one.step is not None
    judge = one.step.facts.get("judge") or one.step.params.get(f"{EVALUATION}.judge", "")
    said = f"{one.label[:1].upper()}{one.label[1:]} was evaluated against {other.label}, and the verdicts are"
    said += f" that judge's: {judge}." if judge else " that judge's."
    return Matched(pairs, said, f"The reward model of run {one.run.id} scored both.")


def _apart(a: Side, b: Side, reports: Reports) -> Matched:
    """Match answers from two evaluations."""
    theirs = {sample.prompt: sample.answers[b.contestant] for sample in b.samples(reports)}
    both = [(sample.prompt, sample.answers[a.contestant], theirs[sample.prompt])
            for sample in a.samples(reports) if sample.prompt in theirs]
    same = a.reward_model is not None and a.reward_model == b.reward_model
    gold = bool(both) and all(GOLD in one.measured for _, *two in both for one in two)
    comparable = REWARD if same else None
    decides = GOLD if gold else comparable
    pairs = []
    for prompt, left, right in both:
        gap = _gap(left, right, decides) if decides else None
        outcome = None
        if gap is not None:
            outcome = 0.5 if abs(gap) <= TIE_WITHIN else float(gap > 0)
        reward_gap = _gap(left, right, REWARD) if same else None
        pairs.append(AnswerPair(prompt, left, right, outcome, gap, reward_gap))
    said = {GOLD: "the gold reward says which answer is better.",
            REWARD: "the reward model that scored both says which answer is better.",
            None: "nothing measured on both says which answer is better."}
    rewards = "One reward model scored both." if same else \
        "Each run's own reward model scored its answers: those rewards cannot be compared with each other."
    return Matched(pairs, f"They were not evaluated against each other; {said[decides]}", rewards)


def _gap(a: SampleAnswer, b: SampleAnswer, what: str) -> float | None:
    return a.measured[what] - b.measured[what] if what in a.measured and what in b.measured else None


def _passes(pair: AnswerPair, better: str, text: str) -> bool:
    """True for a pair with this verdict, or two texts if `better` is `different`, and this text in it."""
    if better == "different" and pair.a.text == pair.b.text:
        return False
    if better not in ("", "different", pair.better):
        return False
    return any(text in one.casefold() for one in _texts(pair))


def arranged(found: Matched, sort: str, better: str, text: str) -> list[AnswerPair]:
    """Return the pairs that the filters leave, in the wanted order."""
    wanted = text.casefold()
    pairs = [pair for pair in found.pairs if _passes(pair, better, wanted)]
    match sort:
        case "difference":
            pairs.sort(key=lambda pair: -abs(pair.gap or 0.0))
        case "disagreement":
            pairs.sort(key=lambda pair: -pair.disagreement)
        case "a" | "b":
            sign = 1 if sort == "a" else -1
            pairs.sort(key=lambda pair: -sign * (pair.gap or 0.0))
    return pairs


def _texts(pair: AnswerPair) -> list[str]:
    return [*(turn.content for turn in pair.prompt), pair.a.text, pair.b.text]


@dataclass(frozen=True)
class StageDifference:
    """How a stage of one run differs from the same stage of another."""

    stage: str
    same_result: bool
    """Both have the very same result."""
    code: tuple[str | None, str | None]
    version: tuple[str | None, str | None]

    @property
    def same_code(self) -> bool | None:
        """True if the code is the same; None if one of them is not known."""
        return None if None in self.code else self.code[0] == self.code[1]


def stages(a: Run, b: Run) -> list[StageDifference]:
    """Return how each stage that both runs have differs."""
    return [StageDifference(name, step.mlflow_run is not None and step.mlflow_run == other.mlflow_run,
                            (step.code, other.code), (step.version, other.version))
            for name, step in a.steps.items() if (other := b.steps.get(name)) and (step.code or other.code)]


def batches(a: Run, b: Run) -> tuple[list[str], list[str]]:
    """Return the sources of the batches that only A learned from, and of those of B."""
    of_a, of_b = _sources(a), _sources(b)
    return ([name for digest, name in of_a.items() if digest not in of_b],
            [name for digest, name in of_b.items() if digest not in of_a])


def _sources(run: Run) -> dict[str, str]:
    return {batch.digest: f"{batch.source} ({batch.rows:,} rows)" for batch in run.batches}
