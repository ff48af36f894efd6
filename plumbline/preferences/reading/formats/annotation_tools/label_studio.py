"""Label Studio's JSON export: a task with `data` and `annotations`; each result of what judges is a
judgement.

Pairwise (`selected`), Ranker (`ranker`), Rating (`rating`), Number (`number`) and Choices (`choices`) are
read. A control is known by its `from_name`, and questions.py says which of several judges. Which response is
the left one says `to_name`. Skipped annotations are quarantined; `predictions` and `drafts` are not
judgements.
"""

from collections.abc import Iterator, Mapping, Sequence

from plumbline.preferences.reading.conversations import Unusable, plain_text, shown
from plumbline.preferences.reading.formats.annotation_tools.questions import (
    Question,
    judging,
    kind_of_side,
    kind_of_yes_or_no,
    trait,
)
from plumbline.preferences.reading.formats.annotation_tools.tasks import (
    ASKED,
    Task,
    named_side,
    task_of,
    words,
)
from plumbline.preferences.reading.formats.fields import (
    NUMBER,
    Judgement,
    Judgements,
    TakenBack,
    as_list,
    as_number,
    as_thumb,
    different,
    normalised,
    origin_of,
)
from plumbline.preferences.reading.formats.record import Record, says_nothing
from plumbline.preferences.types import Comparison, Label, Origin, Ranking, Rating, Row

CONTROLS = ("pairwise", "ranker", "rating", "number", "choices")
SELECTED: Mapping[object, Label] = {"left": "A", "right": "B"}
PART = ("start", "end", "x", "y", "globalOffsets")
"""What a result's value has where it is about a part of what was shown."""
KNOWN = ("id", "task", "project", "ground_truth", "lead_time", "prediction", "result_count", "unique_id",
         "import_id",
         "last_action", "draft_created_at", "bulk_created", "updated_by", "parent_prediction",
         "parent_annotation",
         "last_created_by", "created_username", "created_ago", "created_at", "updated_at", "state")
"""What Label Studio says of an annotation besides who made it and what it is."""
KNOWN_OF_RESULT = ("id", "origin", "score", "readonly", "hidden", "meta")


def label_studio(record: Record, source: str) -> Judgements:
    """Return all judgements of one task."""
    data = record.within("data")
    annotations = as_list(record.apart("annotations"), "annotations")
    if not annotations:
        raise Unusable("annotations", "nobody has annotated this task")
    task = task_of(data, "data")
    questions = _questions([result for annotation in annotations for result in _results(annotation)], task)
    judges = {question.name: question for question in judging(questions, record.question, "annotations")}
    others = record.inner("annotations[].result", {question.name: True for question in questions
                                                   if question.name not in judges})
    for name in others:
        others.leave(name)
    return [judged for i, annotation in enumerate(annotations)
            for judged in _annotation(annotation, f"annotations[{i}]", task, judges, record, source)]


def flat(_record: Record, _source: str) -> Judgements:
    """Refuse a record of Label Studio's flat exports. Raises Unusable always."""
    raise Unusable("-", "this is a JSON_MIN or CSV export of Label Studio, which does not tell which columns "
                        "answer or which response was the left one: export the project as JSON, or say with "
                        "--format and --map what its columns are")


def _results(annotation: object) -> list[dict[str, object]]:
    results = annotation.get("result") if isinstance(annotation, dict) else None
    return [result for result in results if isinstance(result, dict)] if isinstance(results, list) else []


def _questions(results: Sequence[Mapping[str, object]], task: Task) -> list[Question]:
    """Return the controls, each by its first result that tells what it asks for."""
    found: dict[str, Question] = {}
    for result in results:
        name = _control(result)
        if name not in found or found[name].kind == "other":
            found[name] = _question(name, result, task)
    return list(found.values())


def _control(result: Mapping[str, object]) -> str:
    names = (result.get("from_name"), result.get("type"))
    return next((str(name) for name in names if not says_nothing(name)), "")


def _question(name: str, result: Mapping[str, object], task: Task) -> Question:
    """Return the question of a control, as one of its results shows it."""
    kind, value, to_name = result.get("type"), result.get("value"), result.get("to_name")
    if kind not in CONTROLS or result.get("item_index") is not None or (isinstance(value, dict) and any(
            part in value for part in PART)):
        return Question(name, "other", None)
    if kind in ("pairwise", "ranker"):
        return Question(name, "compares", None)
    about = _about(task, name, to_name)
    if kind != "choices":
        return Question(name, "rates", about)
    choices = value.get("choices") if isinstance(value, dict) else None
    choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    if not isinstance(choice, str):
        return Question(name, "other", about)
    side = named_side(choice, _as_shown(task, to_name)) and kind_of_side(trait(name, about), choice)
    if side == "compares" or (side and about is None):
        return Question(name, side, None)
    if NUMBER.fullmatch(choice.strip()):
        return Question(name, "rates", about)
    return Question(name, kind_of_yes_or_no(trait(name, about), choice) or "other", about)


def _about(task: Task, name: str, to_name: object) -> str | None:
    """Return the response that a control is about: named by `to_name`, by the control's name, or the only
    one.
    """
    if isinstance(to_name, str) and (to_name in ASKED or to_name == task.prompt_name):
        return None
    return task.named(to_name) or task.subject(name)


def _as_shown(task: Task, to_name: object) -> Task:
    """Return the task with its two responses in the order in which `to_name` names them.

    Object tags may have other names than the fields that they show: then the names' ends tell (`txtA,txtB`).
    """
    names = [name.strip() for name in to_name.split(",")] if isinstance(to_name, str) else []
    if len(names) != 2:
        return task
    left, right = (task.named(name) for name in names)
    if left is None and right is None and len(task.responses) == 2:
        left, right = (task.at_side(words(name)[-1]) if words(name) else None for name in names)
    return task.unordered() if left is None or right is None or left == right else task.shown_as(left, right)


def _annotation(annotation: object, field: str, task: Task, judges: Mapping[str, Question], record: Record,
                source: str) -> Iterator[Judgement]:
    """Yield the judgements of one annotation, as TakenBack if the annotation was skipped or rejected."""
    if not isinstance(annotation, dict):
        yield Unusable(field, f"expected an object, found {shown(annotation)}")
        return
    given = record.inner("annotations[]", annotation)
    for name in KNOWN:
        given.leave(name)
    back = _taken_back(given, field)
    for judged in _judgements(given, field, task, judges, record, source):
        if back:
            yield Unusable(*back) if isinstance(judged, Unusable) else TakenBack(*back, judged)
        else:
            yield judged


def _taken_back(annotation: Record, field: str) -> tuple[str, str] | None:
    """Return the field and the reason of an annotation that was skipped or rejected; None for others."""
    if annotation.get("was_cancelled"):
        return f"{field}.was_cancelled", "the annotator skipped this task"
    reviews = annotation.get("reviews")
    last = reviews[-1] if isinstance(reviews, list) and reviews else None
    if isinstance(last, dict) and last.get("accepted") is False:
        return f"{field}.reviews", "a reviewer rejected this annotation"
    return None


def _judgements(annotation: Record, field: str, task: Task, judges: Mapping[str, Question], record: Record,
                source: str) -> Iterator[Judgement]:
    try:
        origin = origin_of(record, source, annotator=_annotator(annotation.get("completed_by")),
                           machine=False, time=annotation.get("updated_at") or annotation.get("created_at"))
        results = _judging(annotation, f"{field}.result", judges)
    except Unusable as problem:
        yield problem
        return
    for place, result in results:
        try:
            given = annotation.inner("result[]", result)
            yield _row(given, place, task, judges[_control(given)], origin)
        except Unusable as problem:
            yield problem


def _annotator(completed_by: object) -> object:
    """Return the annotator's name or number; exports can hold an object with the annotator's fields."""
    if not isinstance(completed_by, dict):
        return completed_by
    return completed_by.get("email") or completed_by.get("username") or completed_by.get("id")


def _judging(annotation: Record, field: str,
             judges: Mapping[str, Question]) -> list[tuple[str, dict[str, object]]]:
    """Return the annotation's results that judge, with their places. Raises Unusable if there are none."""
    given = as_list(annotation.apart("result"), field)
    results = [(f"{field}[{i}]", result) for i, result in enumerate(given) if isinstance(result, dict)]
    found = [(place, result) for place, result in results if _control(result) in judges]
    if not found:
        wanted = f"{', '.join(CONTROLS[:-1])} or choices"
        if judges:
            wanted = f"an answer to {', '.join(judges)[:200]}"
        kinds = ", ".join(sorted({str(result.get("type"))[:20] for _, result in results})) or "nothing"
        raise Unusable(field, f"expected {wanted}, found {kinds}")
    return found


def _row(result: Record, field: str, task: Task, question: Question, origin: Origin) -> Row:
    for name in KNOWN_OF_RESULT:
        result.leave(name)
    control, value, to_name = str(result.get("type")), result.apart("value"), result.get("to_name")
    if not isinstance(value, dict):
        raise Unusable(f"{field}.value", f"expected an object, found {shown(value)}")
    key = "selected" if control == "pairwise" else control
    said, place = result.inner("value", value).get(key), f"{field}.value.{key}"
    if control == "pairwise":
        label = SELECTED.get(said) if isinstance(said, str) else None
        if label is None:
            raise Unusable(place, f"expected left or right, found {shown(said)}")
        return _compared(_as_shown(task, to_name), label, origin, field, to_name)
    if control == "ranker":
        return _ranking(said, to_name, task, origin, place)
    if control == "choices":
        return _chosen(said, _as_shown(task, to_name), question, origin, place)
    if control not in CONTROLS:
        raise Unusable(f"{field}.type", f"expected {', '.join(CONTROLS)}, found {shown(control)}")
    return Rating(task.prompt(), _judged(task, question, place), as_number(said, place), origin)


def _judged(task: Task, question: Question, field: str) -> str:
    return task.only(field) if question.about is None else task.text(question.about)


def _compared(task: Task, label: Label, origin: Origin, field: str, to_name: object) -> Row:
    """Return the comparison of the left response and the right one. Raises Unusable."""
    if len(task.responses) != 2:
        raise Unusable(field, "expected two responses in data, found "
                              f"{', '.join(task.responses)[:200] or 'none'}")
    if not task.in_order:
        raise Unusable(f"{field}.to_name", "expected the names of the two responses in data, the left one "
                                           f"first, found {shown(to_name)}")
    return _comparison(task, label, origin)


def _comparison(task: Task, label: Label, origin: Origin) -> Row:
    first, second = task.responses
    return Comparison(task.prompt(), different(task.text(first), task.text(second), (first, second)), label,
                      origin)


def _chosen(value: object, task: Task, question: Question, origin: Origin, field: str) -> Row:
    choices = as_list(value, field)
    if len(choices) != 1 or not isinstance(choices[0], str):
        raise Unusable(field, f"expected one choice, found {len(choices)}")
    label = named_side(choices[0], task)
    if question.kind in ("rates", "thumb") or (question.kind == "unclear" and label is None):
        score = as_number(choices[0],
                          field) if question.kind == "rates" else float(as_thumb(choices[0], field))
        return Rating(task.prompt(), _judged(task, question, field), score, origin)
    if label is None:
        raise Unusable(field, f"expected the name of one of two responses, or tie, found {shown(choices[0])}")
    return _comparison(task, label, origin)


def _ranking(value: object, to_name: object, task: Task, origin: Origin, field: str) -> Row:
    """Return the ranking of the items of the one list or bucket, best first. Raises Unusable."""
    if isinstance(value, dict):
        buckets = {name: items for name, items in value.items() if name != "_"}
        if len(buckets) != 1:
            raise Unusable(field, f"expected one list in order, found {len(buckets)} buckets, which have no "
                                  "order")
        value = next(iter(buckets.values()))
    texts = _items(task.fields, to_name)
    order = as_list(value, field)
    unknown = next((name for name in order if not isinstance(name, str | int) or str(name) not in texts),
                   None)
    if unknown is not None:
        raise Unusable(field, f"expected ids of data.items, found {shown(unknown)}")
    if len(set(map(str, order))) < len(order):
        raise Unusable(field, "an item stands in the order twice")
    ranked = _shown_order(texts, [str(name) for name in order])
    responses = [plain_text(texts[name], f"data.items.{name}") for name, _ in ranked]
    if len(responses) < 2 or len(set(responses)) < len(responses):
        raise Unusable(field, f"expected two or more different responses, found {len(set(responses))}")
    return Ranking(task.prompt(), tuple(responses), tuple(rank for _, rank in ranked), origin)


def _shown_order(texts: Mapping[str, object], order: Sequence[str]) -> list[tuple[str, int]]:
    """Return the ranked items with their ranks, in the order in which they were shown."""
    return [(name, order.index(name) + 1) for name in texts if name in order]


def _items(data: Record, to_name: object) -> dict[str, object]:
    """Return the texts of the List tag's items by id, from the field with a list of objects with `id`.

    Of several such fields, `to_name` names the right one. Raises Unusable.
    """
    fields = {name: data.peek(name) for name in data}
    lists = {name: value for name, value in fields.items() if _has_ids(value)}
    named = [name for name in lists if len(lists) == 1 or normalised(name) == normalised(str(to_name))]
    if len(named) != 1:
        raise Unusable("data", "expected a list of items with `id` and `body`" if not lists else
                       f"expected to_name to name the ranked one of {', '.join(lists)[:200]}, found "
                       f"{shown(to_name)}")
    data.get(named[0])
    items = as_list(lists[named[0]], "data")
    return {str(item["id"]): item.get("body") or item.get("html") or item.get("title")
            for item in items if isinstance(item, dict)}


def _has_ids(value: object) -> bool:
    """True for a list of one or more objects with `id`."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(item, dict) and "id" in item for item in value)
