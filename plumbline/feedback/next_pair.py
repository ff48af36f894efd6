"""The next pair for an annotator, and statistics of each annotator's verdicts."""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Subquery, and_, exists, func, select

from plumbline.feedback.database import unreachable
from plumbline.feedback.schema import pairs, verdicts
from plumbline.feedback.store import FeedbackStore, pair_of
from plumbline.feedback.verdicts import JUDGE, OfferedPair, Source
from plumbline.preferences.types import Prompt, prompt_from_json

AGAIN_EVERY = 5
"""Every fifth pair is one that another person has judged: agreement can only be measured on those."""
ASKED: tuple[Source, ...] = ("feedback", JUDGE)
"""Pairs that are offered to everyone, so not those of `try it`."""
WANTED = 2
"""Most verdicts that a pair gets, of different people."""


@dataclass(frozen=True)
class AnnotatorStatistics:
    """Statistics of one annotator's verdicts."""

    name: str
    verdicts: int
    choices: dict[str, int]
    agreement: float | None
    """Share of the verdicts by others on the same pairs that say the same; None without such."""
    compared: int
    """Verdicts by others that `agreement` compares with."""
    first_shown: float | None
    """Share of the decided verdicts that prefer the answer shown first; far from a half is a habit."""
    decided: int
    """Verdicts A or B on pairs whose sides are shown at random, so without those of `try it`."""


def next_pair(store: FeedbackStore, annotator: str, ranking: bool = False) -> OfferedPair | None:
    """Return the next pair for an annotator, or None if this annotator has judged all open pairs.

    Pairs for judging come first: somebody asked for them, and waits.
    """
    by_annotator = verdicts.c.annotator == annotator
    given = select(func.count()).select_from(verdicts).where(by_annotator, verdicts.c.undone.is_(None))
    judged = _times_judged()
    times = func.coalesce(judged.c.times, 0)
    open_pairs = (select(pairs).outerjoin(judged, judged.c.pair == pairs.c.id)
                  .where(_offered(ranking, ASKED), ~_judged(by_annotator), times < WANTED))
    with unreachable(store.engine), store.reading.connect() as connection:
        again = connection.execute(given).scalar_one() % AGAIN_EVERY == AGAIN_EVERY - 1
        order = ((pairs.c.source == JUDGE).desc(), times.desc() if again else times, pairs.c.made, pairs.c.id)
        row = connection.execute(open_pairs.order_by(*order).limit(1)).one_or_none()
    return pair_of(row) if row else None


def order_seed(pair: OfferedPair, annotator: str) -> str:
    """Return the seed of the order in which an annotator sees a pair's answers; the same at each visit."""
    return hashlib.sha256(f"{pair.id}\0{annotator}".encode()).hexdigest()


def shown_order(pair: OfferedPair, seed: str) -> tuple[int, ...]:
    """Return a pair's answers, by their positions, in the random order of a seed."""
    order = list(range(len(pair.answers)))
    random.Random(seed).shuffle(order)
    return tuple(order)


def stock(store: FeedbackStore, ranking: bool = False) -> int:
    """Return the number of pairs to learn from without a verdict."""
    query = select(func.count()).select_from(pairs).where(_offered(ranking), ~_judged())
    with unreachable(store.engine), store.reading.connect() as connection:
        return int(connection.execute(query).scalar_one())


def open_prompts(store: FeedbackStore) -> set[Prompt]:
    """Return the prompts of the pairs without a verdict."""
    query = select(pairs.c.prompt).where(pairs.c.source == "feedback", ~_judged())
    with unreachable(store.engine), store.reading.connect() as connection:
        return {prompt_from_json(row.prompt) for row in connection.execute(query)}


def annotators(store: FeedbackStore) -> list[AnnotatorStatistics]:
    """Return the statistics of all annotators, those with most verdicts first."""
    columns = (verdicts.c.annotator, verdicts.c.pair, verdicts.c.choice, verdicts.c.shown, pairs.c.source)
    query = (select(*columns)
             .join(pairs, pairs.c.id == verdicts.c.pair).where(verdicts.c.undone.is_(None)))
    firsts: dict[str, list[bool]] = defaultdict(list)
    by_name: dict[str, list[tuple[str, str, str | None]]] = defaultdict(list)
    by_pair: dict[str, list[tuple[str, str]]] = defaultdict(list)
    with unreachable(store.engine), store.reading.connect() as connection:
        for row in connection.execute(query):
            meant = _meant(row.choice, row.shown)
            by_name[row.annotator].append((row.pair, row.choice, meant))
            if meant:
                by_pair[row.pair].append((row.annotator, meant))
            if row.source in ASKED and row.choice in ("A", "B"):
                firsts[row.annotator].append(row.choice == "A")
    found = [_statistics(name, given, by_pair, firsts[name]) for name, given in by_name.items()]
    return sorted(found, key=lambda one: (-one.verdicts, one.name))


def _statistics(name: str, given: Sequence[tuple[str, str, str | None]],
                by_pair: dict[str, list[tuple[str, str]]], firsts: Sequence[bool]) -> AnnotatorStatistics:
    """Return one annotator's statistics.

    `given` holds (pair, choice, meaning) of the annotator's verdicts, `by_pair` (annotator, meaning) of all.
    """
    same = []
    for pair, _, meant in given:
        if meant:
            same += [meant == other for annotator, other in by_pair[pair] if annotator != name]
    choices = Counter(choice for _, choice, _ in given)
    return AnnotatorStatistics(name, len(given), dict(choices), _share(same), len(same), _share(firsts),
                               len(firsts))


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def _meant(choice: str, shown: Iterable[int]) -> str | None:
    """Return the meaning of a choice between two answers, whatever their order; None for rankings, skips."""
    if choice in ("A", "B"):
        return f"answer {list(shown)['AB'.index(choice)]}"
    return {"tie": "neither", "both bad": "neither"}.get(choice)


def _offered(ranking: bool, sources: Sequence[Source] = ("feedback",)) -> ColumnElement[bool]:
    """Match the pairs (or rankings) of these sources."""
    return and_(pairs.c.source.in_(sources), pairs.c.size > 2 if ranking else pairs.c.size == 2)


def _judged(*which: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(verdicts.c.pair == pairs.c.id, verdicts.c.undone.is_(None), *which)


def _times_judged() -> Subquery:
    """Select the number of people who have judged each pair."""
    people = func.count(verdicts.c.annotator.distinct()).label("times")
    return (select(verdicts.c.pair, people).where(verdicts.c.undone.is_(None), verdicts.c.choice != "skip")
            .group_by(verdicts.c.pair).subquery())
