"""Rankings that do not stand in one list of ranks: a column for each response and each rank, or ranks beside
the texts.

As in other files than ours, a rank that is given twice is more often a mistake than a tie, and is set aside.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

from plumbline.preferences.reading.conversations import Unusable, any_answer, shown
from plumbline.preferences.reading.formats.asked import asked
from plumbline.preferences.reading.formats.fields import as_list, as_number, origin_of
from plumbline.preferences.reading.formats.record import Record
from plumbline.preferences.reading.formats.two_responses import STEMS
from plumbline.preferences.types import Origin, Ranking, Row

COLUMN = re.compile(rf"({'|'.join(STEMS)})(_?)([0-9]{{1,2}}|[a-hA-H])")
RANK_OF = (r"rank\2\3", r"\1\2\3_rank")
"""What the column of the rank is called beside that of a response."""
LISTS = ("answers", "responses")
TEXTS = ("answer", "response", "text", "content", "completion", "output")


def ranking_in_columns(record: Record, source: str) -> Row:
    """Return the ranking in `response_1`, `rank_1`, `response_2`, ...; columns may be empty in a row."""
    ranked: dict[str, float] = {}
    for column in filter(None, map(COLUMN.fullmatch, record.names)):
        name = column[0]
        ranks = [rank_of(name, spelt) for spelt in RANK_OF]
        rank = next((spelt for spelt in ranks if spelt in record), ranks[0])
        if not record.holds(name) and not record.holds(rank):
            continue
        text = any_answer(record.get(name), name)
        _once(text, ranked, name)[text] = as_number(record.get(rank), rank)
    return _ranking(record, ranked, origin_of(record, source), "rank")


def ranked_list(record: Record, source: str) -> Row:
    """Return the ranking in a list of objects with text and rank, as in Nectar, which GPT-4 ranked."""
    field = next((name for name in LISTS if name in record), LISTS[0])
    ranked: dict[str, float] = {}
    for i, answer in enumerate(as_list(record.get(field), field)):
        place = f"{field}[{i}]"
        if not isinstance(answer, dict):
            raise Unusable(place, f"expected an object with a text and its rank, found {shown(answer)}")
        inner = record.inner(field, answer)
        name = next((name for name in TEXTS if name in inner), TEXTS[0])
        text = any_answer(inner.get(name), f"{place}.{name}")
        _once(text, ranked, f"{place}.{name}")[text] = as_number(inner.get("rank"), f"{place}.rank")
    nectar = "good_natured" in record.names
    origin = origin_of(record, source, annotator="gpt-4" if nectar else None,
                       machine=True if nectar else None)
    return _ranking(record, ranked, origin, f"{field}[].rank")


def rank_of(name: str, spelt: str) -> str:
    """Return the column of the rank of the response in column `name`, in one of the spellings of RANK_OF."""
    return COLUMN.sub(spelt, name)


def _once(text: str, ranked: dict[str, float], field: str) -> dict[str, float]:
    if text in ranked:
        raise Unusable(field, "two of the responses are the same text")
    return ranked


def _ranking(record: Record, ranked: dict[str, float], origin: Origin, field: str) -> Row:
    if len(ranked) < 2:
        raise Unusable(field, f"expected two or more ranked responses, found {len(ranked)}")
    return Ranking(asked(record), tuple(ranked), in_order(list(ranked.values()), field), origin)


def in_order(ranks: Sequence[float], field: str) -> tuple[int, ...]:
    """Return ranks from 1 without gaps. Raises Unusable for an invalid rank, or one that is given twice."""
    if any(not rank.is_integer() or rank < 0 for rank in ranks):
        raise Unusable(field, f"expected whole numbers, the best first, found {ranks[:8]}")
    order = sorted(ranks)
    twice = next((one for one, other in pairwise(order) if one == other), None)
    if twice is not None:
        raise Unusable(field, f"rank {twice:.0f} is given twice; ties are written in our own schema (kind: "
                              "ranking)")
    return tuple(order.index(rank) + 1 for rank in ranks)
