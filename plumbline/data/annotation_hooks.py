"""What Argilla and Label Studio send when somebody has annotated: checked, and read.

Argilla signs as Standard Webhooks does. Label Studio signs nothing, but sends the headers that it was told
to: there a bearer token stands for the signature, unless something between the two signs.
annotation_changes.py says what becomes of what is sent.
"""

import contextlib
import hmac
import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from plumbline.data.annotations import WHOLE_TASK
from plumbline.errors import UserError
from plumbline.notify.webhook_signatures import ID, SIGNATURE, TIMESTAMP, is_signed

ARGILLA, LABEL_STUDIO = "argilla", "label-studio"
SECRETS = {ARGILLA: "PLUMBLINE_ARGILLA_SECRET", LABEL_STUDIO: "PLUMBLINE_LABEL_STUDIO_SECRET"}
QUESTIONS = {ARGILLA: "PLUMBLINE_ARGILLA_QUESTION", LABEL_STUDIO: "PLUMBLINE_LABEL_STUDIO_QUESTION"}
"""Variables that name the question whose answers are the judgements, where several could be."""
RECORD_DELETED, TASKS_DELETED = "record.deleted", "TASKS_DELETED"
NEW = {ARGILLA: ("response.created",), LABEL_STUDIO: ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED")}
CHANGED = {ARGILLA: ("response.updated",), LABEL_STUDIO: ("ANNOTATION_UPDATED",)}
DELETED = {ARGILLA: ("response.deleted", RECORD_DELETED),
           LABEL_STUDIO: ("ANNOTATIONS_DELETED", TASKS_DELETED)}
BEARER = "Bearer "
EVENT_TIME = re.compile(rb'"timestamp"\s{0,9}:\s{0,9}"([0-9T:.+Z-]{10,40})"')
NEAR, MOST_TIMES = 1000, 4
"""Bytes at either end of a body in which the event's time is looked for, and how many are tried."""
log = logging.getLogger("plumbline.web")


class NotSigned(UserError):
    """The request does not prove where it comes from."""


class NotConfigured(UserError):
    """There is no secret to check requests by."""


@dataclass(frozen=True)
class Told:
    """The part of a request about one annotation, or about a task with all of its annotations."""

    project: str
    task: str
    annotation: str
    """WHOLE_TASK for all of the task's."""
    when: datetime | None
    """When it was said in the tool; None where it does not say."""
    record: Mapping[str, object] | None
    """In the tool's own export format; None if it was deleted."""
    stands: bool = True
    """True if it is meant as a judgement: it was submitted, not skipped, discarded or left as a draft."""


@dataclass(frozen=True)
class Delivery:
    """The content of one request."""

    event: str
    told: tuple[Told, ...]
    """None for an event that holds no judgement."""
    changes: bool
    """True if it takes the place of an earlier answer."""


def admit(tool: str, headers: Mapping[str, str]) -> None:
    """Check the headers, before the body is read.

    Raises NotConfigured without a secret, and NotSigned where they cannot prove that the sender knows it.
    """
    secret = os.environ.get(SECRETS[tool])
    if not secret:
        raise NotConfigured(f"Webhooks of {tool} are refused, because {SECRETS[tool]} is not set where the "
                            "pages run. Set it to the webhook's secret and start the pages again.")
    if headers.get(SIGNATURE) or _bears_token(tool, headers, secret):
        return
    wanted = f"`Authorization: {BEARER}SECRET`, or " if tool == LABEL_STUDIO else ""
    raise NotSigned(f"Expected {wanted}the headers {ID}, {TIMESTAMP} and {SIGNATURE}.")


def check(tool: str, headers: Mapping[str, str], body: bytes) -> None:
    """Check the headers, and the signature if there is no bearer token.

    Raises as `admit`, and NotSigned for a wrong one, whatever the reason: who sends it may be a stranger.
    """
    admit(tool, headers)
    secret = os.environ[SECRETS[tool]]
    if _bears_token(tool, headers, secret):
        return
    # Argilla signs the event's time but sends the delivery's, which differ where its queue is slow.
    times = [headers.get(TIMESTAMP, ""), *_event_times(body)]
    try:
        is_right = is_signed(secret, headers.get(ID, ""), times, body, headers[SIGNATURE])
    except UserError as error:
        _say_once(f"Signed webhooks of {tool} are refused because of {SECRETS[tool]}. {error}")
        is_right = False
    if not is_right:
        raise NotSigned(f"The signature is not that of this body with the secret in {SECRETS[tool]}.")


def _bears_token(tool: str, headers: Mapping[str, str], secret: str) -> bool:
    given = headers.get("authorization", "").encode("latin-1")  # as it came: Starlette has decoded it so
    return tool == LABEL_STUDIO and hmac.compare_digest(given, os.fsencode(f"{BEARER}{secret}"))


@cache
def _say_once(problem: str) -> None:
    log.warning("%s", problem)


def read(tool: str, body: bytes) -> Delivery:
    """Parse a request. Raises UserError if it is not one of that tool."""
    try:
        values = json.loads(body)
        event = str(values["type" if tool == ARGILLA else "action"])
        told: Sequence[Told] = ()
        if event in (*NEW[tool], *CHANGED[tool]):
            parse = _responses if tool == ARGILLA else _annotations
            told = parse(values)
        elif event in DELETED[tool]:
            parse_deleted = _deleted_responses if tool == ARGILLA else _deleted_annotations
            told = parse_deleted(values, event)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"The request is not a webhook of {tool}: {type(error).__name__}: {error}.") from None
    return Delivery(event, tuple(told), event in CHANGED[tool])


def _responses(values: Mapping[str, object]) -> list[Told]:
    (data,) = _listed(values["data"])
    (record,), (user,) = _listed(data["record"]), _listed(data["user"])
    answer = {"user_id": user.get("username") or user["id"], "status": data["status"],
              "values": data["values"] or {}}
    judged = {"id": record["id"], "fields": record["fields"], "metadata": record.get("metadata") or {},
              "responses": [answer]}
    when = _moment(data.get("updated_at")) or _moment(values.get("timestamp"))
    return [Told("", str(record["id"]), str(data.get("id", "")), when, judged, data["status"] == "submitted")]


def _deleted_responses(values: Mapping[str, object], event: str) -> list[Told]:
    when = _moment(values.get("timestamp"))
    deleted = [str(one["id"]) for one in _listed(values["data"])]
    if event == RECORD_DELETED:
        return [Told("", record, WHOLE_TASK, when, None) for record in deleted]
    return [Told("", "", response, when, None) for response in deleted]


def _annotations(values: Mapping[str, object]) -> list[Told]:
    annotations, tasks = _listed(values["annotation"]), _listed(values["task"])
    data = {task["id"]: task["data"] for task in tasks}
    told = []
    for one in annotations:
        project = _project(values) or str(one.get("project", ""))
        when = _moment(one.get("updated_at")) or _moment(one.get("created_at"))
        record = {"id": one["task"], "data": data[one["task"]], "annotations": [one]}
        told.append(Told(project, str(one["task"]), str(one.get("id", "")), when, record,
                         not one.get("was_cancelled")))
    return told


def _deleted_annotations(values: Mapping[str, object], event: str) -> list[Told]:
    project = _project(values)
    if event == TASKS_DELETED:
        return [Told(project, str(one["id"]), WHOLE_TASK, None, None) for one in _listed(values["tasks"])]
    return [Told(project, "", str(one["id"]), None, None) for one in _listed(values["annotations"])]


def _project(values: Mapping[str, object]) -> str:
    project = values.get("project")
    return str(project["id"]) if isinstance(project, dict) else ""


def _moment(value: object) -> datetime | None:
    """Return the moment in UTC, which is the zone of both tools where they name none."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _listed(value: object) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, dict):
            raise TypeError(f"expected an object, found {type(one).__name__}")
        found.append(one)
    return found


def _event_times(body: bytes) -> list[str]:
    """Return the times at the beginning and end of the body, in seconds since 1970.

    The body is searched and not parsed, because its sender has not been checked yet.
    """
    found = [*EVENT_TIME.finditer(body[:NEAR]), *EVENT_TIME.finditer(body[-NEAR:])]
    times = set()
    for one in found[:MOST_TIMES]:
        with contextlib.suppress(ValueError):
            moment = datetime.fromisoformat(one[1].decode()).replace(tzinfo=UTC)
            times.add(str(math.floor(moment.timestamp())))
    return sorted(times)
