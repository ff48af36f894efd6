"""Argilla's exports: each answer of each annotator to a question that compares, rates or demonstrates is a judgement.

Three forms are read: records as `to_list()` and `to_json()` give them (`fields`, `responses` by question), the same
flattened (`question.responses`, `.responses.users`, `.responses.status`), and the columns of Argilla 1 on the hub (a
list of `user_id`, `value`, `status` under the question's name, with `question-suggestion-metadata` beside it).
Suggestions are what the annotator was shown, not a judgement; answers that were not submitted are quarantined.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from plumbline.preferences.conversations import Unusable, as_text, shown
from plumbline.preferences.formats.fields import (
    THUMBS,
    Judgement,
    Judgements,
    as_number,
    as_thumb,
    as_whole,
    different,
    normalised,
    origin_of,
)
from plumbline.preferences.formats.record import Record
from plumbline.preferences.formats.tasks import Task, named_side, task_of
from plumbline.preferences.types import Comparison, Demonstration, Origin, Ranking, Rating, Row

ANSWERS, USERS, STATUS, SUGGESTED = ".responses", ".responses.users", ".responses.status", "-suggestion-metadata"
CORRECTIONS = ("response", "completion", "answer", "demonstration", "correction", "corrected", "chosen")


@dataclass(frozen=True)
class Answer:
    """What one annotator said to one question."""

    question: str
    user: object
    status: object
    value: object


def is_argilla(names: tuple[str, ...]) -> bool:
    """Whether fields with these names are an export of Argilla."""
    return ("fields" in names and "responses" in names) or any(name.endswith((ANSWERS, SUGGESTED)) for name in names)


def argilla(record: Record, source: str) -> Judgements:
    """All judgements of one record; comments and other texts that judge nothing are no part of it."""
    fields, answers = _read(record)
    if not answers:
        raise Unusable("responses", "nobody has answered this record")
    task = task_of(fields, "fields")
    judgements = [judged for answer in answers for judged in _judgement(answer, task, record, source)]
    if not judgements:
        asked = ", ".join(sorted({answer.question for answer in answers}))[:200]
        raise Unusable("responses", f"expected a ranking, a rating, a label or a demonstration among the answers to "
                                    f"{asked}")
    return judgements


def _read(record: Record) -> tuple[Record, list[Answer]]:
    if isinstance(record.peek("fields"), dict):
        return record.within("fields"), list(_nested(record.get("responses")))
    flat = [name.removesuffix(ANSWERS) for name in record if name.endswith(ANSWERS)]
    if flat:
        return record, [answer for name in flat for answer in _flattened(record, name)]
    columns = [name.removesuffix(SUGGESTED) for name in record if name.endswith(SUGGESTED)]
    answers = [answer for name in columns for answer in _given(name, record.get(name))]
    return record, answers


def _nested(responses: object) -> Iterator[Answer]:
    """By question in Argilla 2; in Argilla 1 by annotator, with `values` by question."""
    if isinstance(responses, dict):
        for question, given in responses.items():
            yield from _given(question, given)
    elif isinstance(responses, list):
        for answer in responses:
            values = answer.get("values") if isinstance(answer, dict) else None
            if not isinstance(values, dict):
                raise Unusable("responses", f"expected objects with `values`, found {shown(answer)}")
            for question, value in values.items():
                plain = value.get("value") if isinstance(value, dict) else value
                yield Answer(str(question), answer.get("user_id"), answer.get("status"), plain)
    elif responses is not None:
        raise Unusable("responses", f"expected answers by question, found {shown(responses)}")


def _given(question: str, given: object) -> Iterator[Answer]:
    if isinstance(given, dict) and isinstance(given.get("value"), list):  # the hub's sequences: an object of lists
        users, states = given.get("user_id"), given.get("status")
        for i, value in enumerate(given["value"]):
            yield Answer(question, _at(users, i), _at(states, i), value)
        return
    for answer in given if isinstance(given, list) else [] if given is None else [given]:
        if not isinstance(answer, dict) or "value" not in answer:
            raise Unusable(f"responses.{question}", f"expected objects with `value`, found {shown(answer)}")
        yield Answer(question, answer.get("user_id"), answer.get("status"), answer["value"])


def _flattened(record: Record, question: str) -> Iterator[Answer]:
    values = record.get(question + ANSWERS)
    for i, value in enumerate(values if isinstance(values, list) else [] if values is None else [values]):
        yield Answer(question, _at(record.get(question + USERS), i), _at(record.get(question + STATUS), i), value)


def _at(values: object, i: int) -> object:
    return values[i] if isinstance(values, list) and i < len(values) else None


def _judgement(answer: Answer, task: Task, record: Record, source: str) -> Iterator[Judgement]:
    """The judgement that the answer is, what is wrong with it, or nothing if it is no judgement."""
    try:
        if answer.status not in (None, "submitted"):
            raise Unusable(f"responses.{answer.question}", f"the answer was not submitted: {shown(answer.status)}")
        row = _row(answer, task, origin_of(record, source, annotator=answer.user, machine=False))
    except Unusable as problem:
        yield problem
        return
    if row is not None:
        yield row


def _row(answer: Answer, task: Task, origin: Origin) -> Row | None:
    value, field = answer.value, f"responses.{answer.question}"
    if isinstance(value, bool):
        return Rating(task.prompt(), task.only(field), float(value), origin)
    if isinstance(value, int | float):
        return Rating(task.prompt(), task.rated(answer.question, field), as_number(value, field), origin)
    if isinstance(value, list | dict):
        return _ranked(_ranks(value, task, field), task, origin, field)
    if not isinstance(value, str):
        raise Unusable(field, "it is missing" if value is None else f"expected an answer, found {shown(value)}")
    label = named_side(value, task)
    if label is not None:
        names = tuple(task.responses)
        texts = different(task.text(names[0]), task.text(names[1]), (names[0], names[1]))
        return Comparison(task.prompt(), texts, label, origin)
    if len(task.responses) == 1 and value.strip().lower() in THUMBS:
        return Rating(task.prompt(), task.only(field), float(as_thumb(value, field)), origin)
    if not task.responses or normalised(answer.question).startswith(CORRECTIONS):
        return Demonstration(task.prompt(), as_text(value, field), origin)
    return None


def _ranks(value: object, task: Task, field: str) -> dict[str, int] | None:
    """The rank of each response's field: from an order, or from objects with `value` and `rank`."""
    if isinstance(value, dict) and isinstance(value.get("value"), list) and isinstance(value.get("rank"), list):
        value = [{"value": name, "rank": rank} for name, rank in zip(value["value"], value["rank"], strict=False)]
    if not isinstance(value, list):
        raise Unusable(field, f"expected an answer, found {shown(value)}")
    ranks: dict[str, int] = {}
    for i, item in enumerate(value, start=1):
        named, rank = (item.get("value"), as_whole(item.get("rank"))) if isinstance(item, dict) else (item, i)
        name = task.named(named)
        if name is None:
            return None  # several labels: they rank nothing
        if rank is None or not 1 <= rank <= len(value):
            raise Unusable(field, f"expected ranks from 1 to {len(value)}")
        if name in ranks:
            raise Unusable(field, f"{name} is ranked twice")
        ranks[name] = rank
    return ranks


def _ranked(ranks: dict[str, int] | None, task: Task, origin: Origin, field: str) -> Row | None:
    if ranks is None:
        return None
    names = [name for name in task.responses if name in ranks]
    if len(names) < 2:
        raise Unusable(field, f"expected two or more ranked responses, found {len(names)}")
    texts = [task.text(name) for name in names]
    if len(set(texts)) < len(texts):
        raise Unusable("fields", "two of the responses are the same text")
    places = [ranks[name] for name in names]
    if len(texts) == 2:
        label = "tie" if places[0] == places[1] else "A" if places[0] < places[1] else "B"
        return Comparison(task.prompt(), (texts[0], texts[1]), label, origin)  # type: ignore[arg-type]
    return Ranking(task.prompt(), tuple(texts), tuple(places), origin)


