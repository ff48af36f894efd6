"""Label Studio's JSON export: a task with `data` and `annotations`; each result that judges is a judgement.

Pairwise (`selected`), Ranker (`ranker`), Rating (`rating`), Number (`number`) and Choices (`choices`) are read. An
annotation that compares or ranks is read for that alone, and one that rates is not read for its choices: the other
controls of such a task describe the responses. `predictions` are not judgements; skipped tasks are quarantined.
"""

from collections.abc import Iterator, Mapping, Sequence

from plumbline.preferences.conversations import Unusable, as_text, shown
from plumbline.preferences.formats.fields import (
    Judgement,
    Judgements,
    as_list,
    as_number,
    as_thumb,
    different,
    origin_of,
)
from plumbline.preferences.formats.record import Record
from plumbline.preferences.formats.tasks import Task, named_side, task_of
from plumbline.preferences.types import Comparison, Label, Origin, Ranking, Rating, Row

CONTROLS = (("pairwise", "ranker"), ("rating", "number"), ("choices",))
SELECTED: Mapping[object, Label] = {"left": "A", "right": "B"}


def label_studio(record: Record, source: str) -> Judgements:
    """All judgements of one task."""
    data = record.within("data")
    annotations = as_list(record.get("annotations"), "annotations")
    if not annotations:
        raise Unusable("annotations", "nobody has annotated this task")
    task = task_of(data, "data")
    return [judged for i, annotation in enumerate(annotations)
            for judged in _annotation(annotation, f"annotations[{i}]", task, record, source)]


def _annotation(annotation: object, field: str, task: Task, record: Record, source: str) -> Iterator[Judgement]:
    try:
        if not isinstance(annotation, dict):
            raise Unusable(field, f"expected an object, found {shown(annotation)}")
        if annotation.get("was_cancelled"):
            raise Unusable(f"{field}.was_cancelled", "the annotator skipped this task")
        origin = origin_of(record, source, annotator=_annotator(annotation.get("completed_by")), machine=False,
                           time=annotation.get("updated_at") or annotation.get("created_at"))
        results = _judging(annotation.get("result"), f"{field}.result")
    except Unusable as problem:
        yield problem
        return
    for place, result in results:
        try:
            yield _row(result, place, task, origin)
        except Unusable as problem:
            yield problem


def _annotator(completed_by: object) -> object:
    """A number, or an object of the annotator's fields where the export was asked for them."""
    if not isinstance(completed_by, dict):
        return completed_by
    return completed_by.get("email") or completed_by.get("username") or completed_by.get("id")


def _judging(value: object, field: str) -> list[tuple[str, dict[str, object]]]:
    results = [(f"{field}[{i}]", result) for i, result in enumerate(as_list(value, field)) if isinstance(result, dict)]
    for controls in CONTROLS:
        judging = [(place, result) for place, result in results if result.get("type") in controls]
        if judging:
            return judging
    found = ", ".join(sorted({str(result.get("type"))[:20] for _, result in results})) or "nothing"
    raise Unusable(field, f"expected pairwise, ranker, rating, number or choices, found {found}")


def _row(result: Mapping[str, object], field: str, task: Task, origin: Origin) -> Row:
    control, value = result.get("type"), result.get("value")
    if not isinstance(value, dict):
        raise Unusable(f"{field}.value", f"expected an object, found {shown(value)}")
    if control == "pairwise":
        selected = value.get("selected")
        label = SELECTED.get(selected) if isinstance(selected, str) else None
        if label is None:
            raise Unusable(f"{field}.value.selected", f"expected left or right, found {shown(selected)}")
        return _comparison(task, label, origin, field)
    if control == "ranker":
        return _ranking(value.get("ranker"), task, origin, f"{field}.value.ranker")
    if control == "choices":
        return _choice(value.get("choices"), task, origin, f"{field}.value.choices")
    place = f"{field}.value.{control}"
    name = task.named(result.get("to_name"))
    response = task.only(place) if name is None else task.text(name)
    return Rating(task.prompt(), response, as_number(value.get(str(control)), place), origin)


def _comparison(task: Task, label: Label, origin: Origin, field: str) -> Row:
    if len(task.responses) != 2:
        raise Unusable(field, f"expected two responses in data, found {', '.join(task.responses)[:200] or 'none'}")
    first, second = task.responses
    return Comparison(task.prompt(), different(task.text(first), task.text(second), (first, second)), label, origin)


def _choice(value: object, task: Task, origin: Origin, field: str) -> Row:
    choices = as_list(value, field)
    if len(choices) != 1 or not isinstance(choices[0], str):
        raise Unusable(field, f"expected one choice, found {len(choices)}")
    if len(task.responses) == 1:
        return Rating(task.prompt(), task.only(field), float(as_thumb(choices[0], field)), origin)
    label = named_side(choices[0], task)
    if label is None:
        raise Unusable(field, f"expected the name of one of two responses, or tie, found {shown(choices[0])}")
    return _comparison(task, label, origin, field)


def _ranking(value: object, task: Task, origin: Origin, field: str) -> Row:
    """The items of the one list or bucket, the best first; items that were left out of it are not ranked."""
    if isinstance(value, dict):
        buckets = {name: items for name, items in value.items() if name != "_"}
        if len(buckets) != 1:
            raise Unusable(field, f"expected one list in order, found {len(buckets)} buckets, which have no order")
        value = next(iter(buckets.values()))
    texts = _items(task.fields)
    order = as_list(value, field)
    unknown = next((name for name in order if not isinstance(name, str | int) or str(name) not in texts), None)
    if unknown is not None:
        raise Unusable(field, f"expected ids of data.items, found {shown(unknown)}")
    if len(set(map(str, order))) < len(order):
        raise Unusable(field, "an item stands in the order twice")
    ranked = _shown_order(texts, [str(name) for name in order])
    responses = [as_text(texts[name], f"data.items.{name}") for name, _ in ranked]
    if len(responses) < 2 or len(set(responses)) < len(responses):
        raise Unusable(field, f"expected two or more different responses, found {len(set(responses))}")
    return Ranking(task.prompt(), tuple(responses), tuple(rank for _, rank in ranked), origin)


def _shown_order(texts: Mapping[str, object], order: Sequence[str]) -> list[tuple[str, int]]:
    """The ranked items as they stood before they were ranked."""
    return [(name, order.index(name) + 1) for name in texts if name in order]


def _items(data: Mapping[str, object]) -> dict[str, object]:
    """The texts of the List tag's items by their ids: the one field that is a list of objects with `id`."""
    for value in data.values():
        if isinstance(value, list) and value and all(isinstance(item, dict) and "id" in item for item in value):
            return {str(item["id"]): item.get("body") or item.get("html") or item.get("title") for item in value}
    raise Unusable("data", "expected a list of items with `id` and `body`")
