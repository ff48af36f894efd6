"""Which pair to show to whom, and what each annotator's verdicts say of her."""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Subquery, and_, exists, func, select

from plumbline.feedback.database import unreachable
from plumbline.feedback.schema import pairs, verdicts
from plumbline.feedback.store import Store, pair_of
from plumbline.feedback.verdicts import Pair
from plumbline.preferences.types import Message, Prompt

AGAIN_EVERY = 5
"""Every fifth pair is one that somebody else has judged: without those nobody could tell whether people agree."""
WANTED = 2
"""Verdicts that a pair gets at most, of different people."""


@dataclass(frozen=True)
class Annotator:
    """What one person has said so far."""

    name: str
    verdicts: int
    choices: dict[str, int]
    agreement: float | None
    """Share of the verdicts by others on the same pairs that say the same; None without such."""
    compared: int
    """How many those are."""
    first_shown: float | None
    """Share of the decided verdicts that prefer what was shown first; far from a half is a habit, not a judgement."""
    decided: int
    """Verdicts A or B on pairs whose sides are at random: those of `try it` are not."""


def next_pair(store: Store, annotator: str, ranking: bool = False) -> Pair | None:
    """The pair to ask an annotator about; None when there is nothing left that she has not judged."""
    with unreachable(store.engine), store.reading.connect() as connection:
        mine = connection.execute(select(func.count()).select_from(verdicts)
                                  .where(verdicts.c.annotator == annotator, verdicts.c.undone.is_(None))).scalar_one()
        judged, again = _times_judged(), mine % AGAIN_EVERY == AGAIN_EVERY - 1
        times = func.coalesce(judged.c.times, 0)
        query = (select(pairs).outerjoin(judged, judged.c.pair == pairs.c.id)
                 .where(_offered(ranking), ~_judged(verdicts.c.annotator == annotator), times < WANTED))
        row = connection.execute(query.order_by(times.desc() if again else times, pairs.c.made, pairs.c.id)
                                 .limit(1)).one_or_none()
    return pair_of(row) if row else None


def shown_order(pair: Pair, annotator: str) -> tuple[int, ...]:
    """The order in which an annotator sees a pair's answers: at random, and the same whenever she comes back."""
    seed = hashlib.sha256(f"{pair.id}\0{annotator}".encode()).digest()
    order = list(range(len(pair.answers)))
    random.Random(seed).shuffle(order)
    return tuple(order)


def stock(store: Store, ranking: bool = False) -> int:
    """How many pairs nobody has judged."""
    query = select(func.count()).select_from(pairs).where(_offered(ranking), ~_judged())
    with unreachable(store.engine), store.reading.connect() as connection:
        return int(connection.execute(query).scalar_one())


def open_prompts(store: Store) -> set[Prompt]:
    """The prompts of pairs that nobody has judged."""
    query = select(pairs.c.prompt).where(pairs.c.source == "feedback", ~_judged())
    with unreachable(store.engine), store.reading.connect() as connection:
        return {tuple(Message(turn["role"], turn["content"]) for turn in row.prompt)
                for row in connection.execute(query)}


def annotators(store: Store) -> list[Annotator]:
    """Everybody's statistics, the most diligent first."""
    query = (select(verdicts.c.annotator, verdicts.c.pair, verdicts.c.choice, verdicts.c.shown, pairs.c.source)
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
            if row.source == "feedback" and row.choice in ("A", "B"):
                firsts[row.annotator].append(row.choice == "A")
    found = [_annotator(name, said, by_pair, firsts[name]) for name, said in by_name.items()]
    return sorted(found, key=lambda one: (-one.verdicts, one.name))


def _annotator(name: str, said: Sequence[tuple[str, str, str | None]],
               by_pair: dict[str, list[tuple[str, str]]], firsts: Sequence[bool]) -> Annotator:
    same = [meant == other for pair, _, meant in said if meant for who, other in by_pair[pair] if who != name]
    choices = Counter(choice for _, choice, _ in said)
    return Annotator(name, len(said), dict(choices), _share(same), len(same), _share(firsts), len(firsts))


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def _meant(choice: str, shown: Iterable[int]) -> str | None:
    """What a choice between two means whatever the order they were shown in; None for rankings and skips."""
    if choice in ("A", "B"):
        return f"answer {list(shown)['AB'.index(choice)]}"
    return {"tie": "neither", "both bad": "neither"}.get(choice)


def _offered(ranking: bool) -> ColumnElement[bool]:
    """Pairs for everybody; those of `try it` are judged where they were made."""
    return and_(pairs.c.source == "feedback", pairs.c.size > 2 if ranking else pairs.c.size == 2)


def _judged(*which: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(verdicts.c.pair == pairs.c.id, verdicts.c.undone.is_(None), *which)


def _times_judged() -> Subquery:
    """By pair, how many people have judged it."""
    return (select(verdicts.c.pair, func.count(verdicts.c.annotator.distinct()).label("times"))
            .where(verdicts.c.undone.is_(None), verdicts.c.choice != "skip").group_by(verdicts.c.pair).subquery())
