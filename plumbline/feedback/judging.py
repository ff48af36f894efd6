"""People as a judge that PPO did not optimise: they compare the answers of an evaluation, blind.

`plumbline feedback judge`, or the button on a version's page, offers answers to held-out prompts on the
feedback page: the policy's against SFT's, and the champion's. Three things differ from the pairs that become
training data:

- No verdict on them is collected: a held-out prompt must train nothing (`collect.py`, `verdicts.py`).
- Which model gave which answer is not told after the verdict either, or whoever judges the next pair would
  know the policy by its manner.
- They come first, and every person sees them, up to the number of people that any pair gets.

Verdicts arrive after the run has ended, so their figures are worked out when they are shown. A pair is found
by its texts, which are those of `samples.jsonl`: a run that reuses an evaluation has its verdicts as well.
Pairs that read the same are not asked about, so a win rate is that of answers which differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from sqlalchemy import Engine, select

from plumbline import statistics
from plumbline.errors import UserError
from plumbline.evaluation.matches import GREEDY, POLICY, JudgeAgreement, cohens_kappa
from plumbline.evaluation.samples import Sample, SampleAnswer
from plumbline.feedback.database import is_there, open_database, unreachable
from plumbline.feedback.pairs import kind_of
from plumbline.feedback.schema import pairs, verdicts
from plumbline.feedback.verdicts import JUDGE, OfferedAnswer, OfferedPair
from plumbline.history.reports import Reports
from plumbline.lineage.records import Run
from plumbline.project.home import Home
from plumbline.statistics import Interval

MATCHES = {"sft_greedy": "SFT, both greedy", "sft": "SFT",
           "champion_greedy": "the champion, both greedy", "champion": "the champion"}
"""Opponents of the policy, by their names in `samples.jsonl`, in words."""
PROMPTS = 50
"""Held-out prompts that people are asked about, unless another number is given."""

Said = Mapping[str, Mapping[str, float]]
"""By pair that people were asked about, then by person: 1 if the policy's answer is better, 0.5 if neither
is, 0 if its opponent's is."""


@dataclass(frozen=True)
class PeopleFigures:
    """What people say of the policy against one opponent."""

    opponent: str
    """One of MATCHES."""
    win_rate: Interval
    """Of all verdicts, ties as half; its interval is over prompts."""
    people: int
    asked: int
    """Pairs that people were asked about; `win_rate.prompts` of them have a verdict so far."""
    among_people: JudgeAgreement | None
    """Two people on the same pair; None if no two decided the same one."""
    with_judge: JudgeAgreement | None
    """People and the first judge of the evaluation; None if there is no pair that both decided."""
    judge_win_rate: Interval | None
    """The first judge's win rate on the same pairs."""

    @property
    def named(self) -> str:
        """Return the opponent in words, such as `SFT, both greedy`."""
        return MATCHES[self.opponent]

    def __str__(self) -> str:
        persons = "1 person" if self.people == 1 else f"{self.people} people"
        told = [f"{self.win_rate} by {persons} on {self.win_rate.prompts} of {self.asked} pairs asked"]
        if self.among_people:
            told.append(f"who agree on {_agreement(self.among_people)}")
        if self.with_judge:
            told.append(f"with {self.with_judge.judges[1]} on {_agreement(self.with_judge)}")
        if self.judge_win_rate:
            told.append(f"its win rate on these is {self.judge_win_rate.value:.3f}")
        return "; ".join(told)


def judging_pairs(
    samples: Sequence[Sample], run: Run, prompts: int = PROMPTS, sampled: bool = False
) -> list[OfferedPair]:
    """Return pairs of the policy's answers against SFT's and the champion's, on the first `prompts` prompts.

    `samples` are those of the run's evaluation, in its order, which is at random. Greedy answers are taken
    where there are some, unless `sampled`. Raises UserError if there is nothing to ask about.
    """
    if not samples:
        raise UserError(f"Run {run.id} has no answers to held-out prompts that people could judge: its "
                        "evaluation has not been made, or its files are neither in MLflow nor here.")
    greedy = not sampled and POLICY + GREEDY in samples[0].answers
    found = []
    # One opponent after the other: an answer that is seen twice in a row would be known as the policy's.
    for opponent in MATCHES:
        if opponent.endswith(GREEDY) == greedy:
            made = (_pair(sample, opponent, run) for sample in samples[:prompts])
            found += [pair for pair in made if pair]
    if not found:
        raise UserError(f"In the evaluation of run {run.id} the policy answers as its opponents do, word by "
                        "word: there is nothing to judge.")
    return found


def said(engine: Engine) -> Said:
    """Return what people said of the pairs for judging, of a person on a pair the last word."""
    columns = (verdicts.c.pair, verdicts.c.annotator, verdicts.c.choice, verdicts.c.shown)
    query = (select(*columns).join(pairs, pairs.c.id == verdicts.c.pair)
             .where(pairs.c.source == JUDGE, verdicts.c.undone.is_(None), verdicts.c.choice != "skip")
             .order_by(verdicts.c.id))
    with unreachable(engine), engine.connect() as connection:
        asked = connection.execute(select(pairs.c.id).where(pairs.c.source == JUDGE)).scalars()
        found: dict[str, dict[str, float]] = {pair: {} for pair in asked}
        for row in connection.execute(query):
            found.setdefault(row.pair, {})[row.annotator] = _outcome(row.choice, row.shown)
    return found


def said_in(home: Home) -> Said:
    """Return what people said in the project's store, if it has one. Raises UserError if it cannot be used.
    """
    if not is_there(home):
        return {}
    engine = open_database(home)
    try:
        return said(engine.execution_options(isolation_level="AUTOCOMMIT"))
    finally:
        engine.dispose()


def people_figures(given: Said, samples: Sequence[Sample], judge: str | None) -> list[PeopleFigures]:
    """Return the figures of each match of an evaluation that people judged; `judge` names its first judge."""
    if not given:
        return []
    found = []
    for opponent in MATCHES:
        by_pair = {pair.id: sample.outcomes.get(opponent) for sample in samples
                   if (pair := _pair(sample, opponent))}
        asked = {pair: given[pair] for pair in by_pair if pair in given}
        if any(asked.values()):
            found.append(_figures(opponent, asked, by_pair, judge or "the first judge"))
    return found


def people_on_run(given: Said, reports: Reports, run: Run | None) -> list[PeopleFigures]:
    """Return the figures of a run's evaluation; none if nobody judged it or its answers are gone."""
    if not given or run is None:
        return []
    step = run.steps.get("preference_eval")
    return people_figures(given, reports.samples(run), step.facts.get("judge") if step else None)


def _pair(sample: Sample, opponent: str, run: Run | None = None) -> OfferedPair | None:
    """Return the policy's answer beside its opponent's; None if one is missing or both read the same."""
    name = POLICY + GREEDY if opponent.endswith(GREEDY) else POLICY
    own, other = sample.answers.get(name), sample.answers.get(opponent)
    if own is None or other is None or own.text.split() == other.text.split():
        return None
    reason = f"To judge the policy of run {run.id} against {MATCHES[opponent]}." if run else ""
    answers = (_offered(own, name, run), _offered(other, opponent, run))
    return OfferedPair(sample.prompt, answers, reason, kind_of(sample.prompt), JUDGE)


def _offered(answer: SampleAnswer, name: str, run: Run | None) -> OfferedAnswer:
    """Return the answer with its contestant, and the digest of that model as far as it was recorded."""
    step = run.steps.get("preference_eval") if run else None
    folder = f"models/{name.removesuffix(GREEDY)}"
    inputs = step.inputs if step else {}
    digest = inputs.get(f"{folder}/model", inputs.get(folder, ""))
    return OfferedAnswer(answer.text, name, digest, answer.measured.get("reward"))


def _outcome(choice: str, shown: Sequence[int]) -> float:
    """Return the outcome for the policy, whose answer is the first of a pair whatever side it stood on."""
    if choice not in ("A", "B"):
        return 0.5
    return 1.0 if shown["AB".index(choice)] == 0 else 0.0


def _figures(
    opponent: str, asked: Said, by_judge: Mapping[str, float | None], judge: str
) -> PeopleFigures:
    outcomes = [(pair, outcome) for pair, by_person in asked.items() for outcome in by_person.values()]
    couples = [(pair, one, other) for pair, by_person in asked.items()
               for one, other in combinations(by_person.values(), 2)]
    beside = [(pair, outcome, judged) for pair, outcome in outcomes
              if (judged := by_judge[pair]) is not None]
    on_these = {pair: judged for pair, _, judged in beside}
    people = {person for by_person in asked.values() for person in by_person}
    return PeopleFigures(
        opponent, _share(outcomes), len(people), len(asked),
        _agreed(couples, "people", alike=True), _agreed(beside, judge),
        _share(list(on_these.items())) if on_these else None)


def _agreed(rows: Sequence[tuple[str, float, float]], other: str, alike: bool = False
            ) -> JudgeAgreement | None:
    """Return how far two sides agree where both decide; `alike` if they may be exchanged, as two people."""
    both = [(pair, one > 0.5, two > 0.5) for pair, one, two in rows if 0.5 not in (one, two)]
    if not both:
        return None
    sides = [(one, two) for _, one, two in both]
    if alike:
        sides += [(two, one) for one, two in sides]
    share = _share([(pair, float(one == two)) for pair, one, two in both])
    return JudgeAgreement(("people", other), share, cohens_kappa(sides))


def _share(outcomes: Sequence[tuple[str, float]]) -> Interval:
    return statistics.share([outcome for _, outcome in outcomes], [pair for pair, _ in outcomes])


def _agreement(found: JudgeAgreement) -> str:
    kappa = "" if found.kappa is None else f", kappa {found.kappa:.2f}"
    return f"{found.share.value:.2f} of {found.share.n}{kappa}"
