"""Argilla's exports: each answer of each annotator to the question that judges is a judgement.

Three forms are read: records as `to_list()` and `to_json()` give them (`fields`, `responses` by question),
the same flattened (`question.responses`, `.responses.users`, `.responses.status`), and the columns of Argilla
1 on the hub (a list of `user_id`, `value`, `status` under the question's name, with
`question-suggestion-metadata` beside it). questions.py says which question judges; the others are left alone,
and so are suggestions, which are what the annotator was shown. Answers that were not submitted are
quarantined.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from plumbline.preferences.reading.conversations import Unusable, plain_text, shown
from plumbline.preferences.reading.formats.annotation_tools.questions import (
    CORRECTIONS,
    Kind,
    Question,
    judging,
    kind_of_side,
    kind_of_yes_or_no,
    trait,
)
from plumbline.preferences.reading.formats.annotation_tools.tasks import Task, named_side, task_of
from plumbline.preferences.reading.formats.fields import (
    NUMBER,
    Judgement,
    Judgements,
    TakenBack,
    as_number,
    as_thumb,
    as_whole,
    different,
    normalised,
    origin_of,
)
from plumbline.preferences.reading.formats.record import Record
from plumbline.preferences.types import Comparison, Demonstration, Origin, Ranking, Rating, Row, label_of

ANSWERS, USERS, STATUS = ".responses", ".responses.users", ".responses.status"
SUGGESTED = "-suggestion-metadata"
SUGGESTIONS = (".suggestion", ".suggestion.agent", ".suggestion.score", ".suggestion.type", "-suggestion",
               SUGGESTED)
"""Ends of the names of columns that hold what was suggested."""
DESCRIPTIONS = ("metadata.", "vectors.", "vector.")
"""Beginnings of the names of columns that describe a record."""
ANSWER = frozenset({"user_id", "status", "value", "values"})
SUBMITTED, DISCARDED = (None, "submitted"), ("discarded", "Discarded")


@dataclass(frozen=True)
class ArgillaAnswer:
    """What one annotator said to one question."""

    question: str
    user: object
    status: object
    value: object


def is_argilla(names: tuple[str, ...]) -> bool:
    """True if fields with these names are an export of Argilla."""
    return {"fields", "responses"} <= set(names) or any(name.endswith((ANSWERS, SUGGESTED)) for name in names)


def argilla(record: Record, source: str) -> Judgements:
    """Return all judgements of one record."""
    fields, answers = _read(record)
    if not answers:
        raise Unusable("responses", "nobody has answered this record")
    names = list(dict.fromkeys(answer.question for answer in answers))
    task = task_of(fields, "fields", besides=frozenset(names) if fields is record else frozenset())
    questions = [_question(name, answers, task) for name in names]
    judges = {question.name: question for question in judging(questions, record.question, "responses")}
    if not judges and not any(answer.status in SUBMITTED for answer in answers):
        raise Unusable("responses", f"the answers were not submitted: {shown(answers[0].status)}")
    if not judges:
        raise Unusable("responses", "expected a ranking, a rating, a label or a demonstration among the "
                                    f"answers to {', '.join(sorted(names))[:200]}")
    _leave_the_rest(record, fields, {name: name in judges for name in names})
    return [_judgement(answer, judges[answer.question], task, record, source) for answer in answers
            if answer.question in judges]


def _read(record: Record) -> tuple[Record, list[ArgillaAnswer]]:
    """Return the record's fields, and the answers to all questions."""
    if isinstance(record.peek("fields"), dict):
        if (status := record.get("status")) in DISCARDED:
            raise Unusable("status", f"the record was not submitted: {shown(status)}")
        return record.within("fields"), list(_nested(record, record.apart("responses")))
    for name in record:
        if name.endswith(SUGGESTIONS) or name.startswith(DESCRIPTIONS):
            record.leave(name)
    flat = [name.removesuffix(ANSWERS) for name in record if name.endswith(ANSWERS)]
    if flat:
        return record, [answer for name in flat for answer in _flattened(record, name)]
    columns = [name.removesuffix(SUGGESTED) for name in record if name.endswith(SUGGESTED)]
    return record, [answer for name in columns for answer in _given(record, name, name, record.apart(name))]


def _nested(record: Record, responses: object) -> Iterator[ArgillaAnswer]:
    """Yield answers given by question (Argilla 2), or by annotator with `values` by question (Argilla 1)."""
    if isinstance(responses, dict):
        for question, given in responses.items():
            yield from _given(record, question, f"responses.{question}", given)
    elif isinstance(responses, list):
        for answer in responses:
            values = answer.get("values") if isinstance(answer, dict) else None
            if not isinstance(values, dict):
                raise Unusable("responses", f"expected objects with `values`, found {shown(answer)}")
            _note_the_rest(record, "responses[]", answer)
            for question, value in values.items():
                plain = value.get("value") if isinstance(value, dict) else value
                yield ArgillaAnswer(str(question), answer.get("user_id"), answer.get("status"), plain)
    elif responses is not None:
        raise Unusable("responses", f"expected answers by question, found {shown(responses)}")


def _given(record: Record, question: str, place: str, given: object) -> Iterator[ArgillaAnswer]:
    # The hub's sequences: an object of lists.
    if isinstance(given, dict) and isinstance(given.get("value"), list):
        _note_the_rest(record, place, given)
        users, states = given.get("user_id"), given.get("status")
        for i, value in enumerate(given["value"]):
            yield ArgillaAnswer(question, _at(users, i), _at(states, i), value)
        return
    for answer in _as_list(given):
        if not isinstance(answer, dict) or "value" not in answer:
            raise Unusable(f"responses.{question}", f"expected objects with `value`, found {shown(answer)}")
        _note_the_rest(record, f"{place}[]", answer)
        yield ArgillaAnswer(question, answer.get("user_id"), answer.get("status"), answer["value"])


def _note_the_rest(record: Record, place: str, answer: Mapping[str, object]) -> None:
    """Account for what is in an answer besides its annotator, its status and its value."""
    inner = record.inner(place, {name: value for name, value in answer.items() if name not in ANSWER})
    inner.leave("inserted_at")


def _flattened(record: Record, question: str) -> Iterator[ArgillaAnswer]:
    values, users, states = (record.apart(question + end) for end in (ANSWERS, USERS, STATUS))
    for i, value in enumerate(_as_list(values)):
        yield ArgillaAnswer(question, _at(users, i), _at(states, i), value)


def _as_list(value: object) -> list[object]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _at(values: object, i: int) -> object:
    return values[i] if isinstance(values, list) and i < len(values) else None


def _leave_the_rest(record: Record, fields: Record, judges: Mapping[str, bool]) -> None:
    """Count the answers to other questions as left alone."""
    nested = record.inner("responses", judges) if fields is not record else None
    for name, judging_ in judges.items():
        if nested is not None:
            nested.get(name) if judging_ else nested.leave(name)
        elif not judging_:
            for column in (name, name + ANSWERS, name + USERS, name + STATUS):
                record.leave(column)


def _question(name: str, answers: Sequence[ArgillaAnswer], task: Task) -> Question:
    about = task.subject(name)
    values = [answer.value for answer in answers if answer.question == name]
    kinds = (_kind(name, value, about, task) for value in values if value is not None)
    kind: Kind = next((kind for kind in kinds if kind != "other"), "other")
    return Question(name, kind, None if kind in ("compares", "demonstrates") else about)


def _kind(question: str, value: object, about: str | None, task: Task) -> Kind:
    """Return the kind of question that this answer shows."""
    if isinstance(value, list | dict):
        try:
            return "other" if _ranks(value, task, question) is None else "compares"
        except Unusable:
            return "compares"
    is_digits = isinstance(value, str) and bool(NUMBER.fullmatch(value.strip()))
    if isinstance(value, str) and named_side(value, task) is not None and not (is_digits and about):
        return kind_of_side(trait(question, about), value)
    if is_digits or (isinstance(value, int | float) and not isinstance(value, bool)):
        return "rates"
    if yes_or_no := kind_of_yes_or_no(trait(question, about), value):
        return yes_or_no
    return "demonstrates" if not task.responses and normalised(question).startswith(CORRECTIONS) else "other"


def _judgement(answer: ArgillaAnswer, question: Question, task: Task, record: Record,
               source: str) -> Judgement:
    """Return the row that an answer gives, or what is wrong with it."""
    field, stands = f"responses.{answer.question}", answer.status in SUBMITTED
    not_submitted = f"the answer was not submitted: {shown(answer.status)}"
    try:
        row = _row(answer.value, question, task,
                   origin_of(record, source, annotator=answer.user, machine=False), field)
    except Unusable as problem:
        return problem if stands else Unusable(field, not_submitted)
    return row if stands else TakenBack(field, not_submitted, row)


def _row(value: object, question: Question, task: Task, origin: Origin, field: str) -> Row:
    if value is None:
        raise Unusable(field, "it is missing")
    is_side = question.kind == "unclear" and isinstance(value, str) and named_side(value, task) is not None
    if question.kind == "compares" or is_side:
        return _compared(value, task, origin, field)
    if question.kind == "demonstrates" or (question.kind == "other" and isinstance(value, str)
                                           and normalised(question.name).startswith(CORRECTIONS)):
        return Demonstration(task.prompt(), plain_text(value, field), origin)
    if question.kind == "other":
        raise Unusable(field, "expected a ranking, a number, a label that names a response, or yes or no; "
                              f"found {shown(value)}")
    response = task.only(field) if question.about is None else task.text(question.about)
    score = as_number(value, field) if question.kind == "rates" else float(as_thumb(value, field))
    return Rating(task.prompt(), response, score, origin)


def _compared(value: object, task: Task, origin: Origin, field: str) -> Row:
    if not isinstance(value, str):
        return _ranked(_ranks(value, task, field), task, origin, field)
    label = named_side(value, task)
    if label is None:
        raise Unusable(field, f"expected the name of one of two responses, or tie, found {shown(value)}")
    first, second = task.responses
    return Comparison(task.prompt(), different(task.text(first), task.text(second), (first, second)), label,
                      origin)


def _ranks(value: object, task: Task, field: str) -> dict[str, int] | None:
    """Return the ranks of the responses' fields, from all responses in order or objects with `value` and
    `rank`.

    Returns None for labels. Raises Unusable for invalid ranks.
    """
    if isinstance(value, dict):  # the hub's sequences: an object of lists
        names, places = value.get("value"), value.get("rank")
        if isinstance(names, list) and isinstance(places, list):
            value = [{"value": name, "rank": rank} for name, rank in zip(names, places, strict=False)]
    if not isinstance(value, list):
        return None
    ranks: dict[str, int] = {}
    for i, item in enumerate(value, start=1):
        named, rank = (item.get("value"), as_whole(item.get("rank"))) if isinstance(item, dict) else (item, i)
        name = task.named(named)
        if name is None:
            return None
        if rank is None or not 1 <= rank <= len(value):
            raise Unusable(field, f"expected ranks from 1 to {len(value)}")
        if name in ranks:
            raise Unusable(field, f"{name} is ranked twice")
        ranks[name] = rank
    are_ranked = bool(value) and all(isinstance(item, dict) for item in value)
    return ranks if are_ranked or (len(ranks) > 1 and ranks.keys() >= set(task.responses)) else None


def _ranked(ranks: dict[str, int] | None, task: Task, origin: Origin, field: str) -> Row:
    if ranks is None:
        raise Unusable(field, "expected the responses in their order, or with their ranks")
    names = [*(name for name in task.responses if name in ranks), *sorted(ranks.keys() - set(task.responses))]
    if len(names) < 2:
        raise Unusable(field, f"expected two or more ranked responses, found {len(names)}")
    texts = [task.text(name) for name in names]
    if len(set(texts)) < len(texts):
        raise Unusable("fields", "two of the responses are the same text")
    places = [ranks[name] for name in names]
    if len(texts) == 2:
        return Comparison(task.prompt(), (texts[0], texts[1]), label_of(places[1], places[0]), origin)
    return Ranking(task.prompt(), tuple(texts), tuple(places), origin)


