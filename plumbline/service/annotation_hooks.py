"""What Argilla and Label Studio send when somebody has annotated: checked, and turned into records that are imported.

Argilla signs as Standard Webhooks does. Label Studio signs nothing, but sends the headers that it was told to: there a
bearer token stands for the signature, unless something between the two signs. What changes an earlier answer takes its
place. A delivery that comes again, by a retry or by somebody who recorded it, changes nothing.
"""

import contextlib
import hashlib
import hmac
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from plumbline.errors import UserError
from plumbline.lineage.data_changes import supersede
from plumbline.lineage.home import Home
from plumbline.lineage.intake import take_in
from plumbline.lineage.signatures import ID, SIGNATURE, TIMESTAMP, is_signed
from plumbline.preferences.formats import Reading

ARGILLA, LABEL_STUDIO = "argilla", "label-studio"
SECRETS = {ARGILLA: "PLUMBLINE_ARGILLA_SECRET", LABEL_STUDIO: "PLUMBLINE_LABEL_STUDIO_SECRET"}
NEW = {ARGILLA: ("response.created",), LABEL_STUDIO: ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED")}
CHANGED = {ARGILLA: ("response.updated",), LABEL_STUDIO: ("ANNOTATION_UPDATED",)}
BEARER = "Bearer "
EVENT_TIME = re.compile(rb'"timestamp"\s{0,9}:\s{0,9}"([0-9T:.+Z-]{10,40})"')
NEAR, MOST_TIMES = 1000, 4
"""Bytes at either end of a body in which the event's time is looked for, and how many are tried."""


class NotSigned(UserError):
    """The request does not prove where it comes from."""


class NotConfigured(UserError):
    """There is no secret to check requests by."""


@dataclass(frozen=True)
class Delivery:
    """What one request holds."""

    event: str
    records: tuple[Mapping[str, object], ...]
    """In the tool's own export format; none for an event that holds no judgement."""
    changes: bool
    """Whether it takes the place of an earlier answer."""


def admit(tool: str, headers: Mapping[str, str]) -> None:
    """Judge the headers, before the body is read.

    Raises NotConfigured without a secret, and NotSigned where they cannot prove that the sender knows it.
    """
    secret = os.environ.get(SECRETS[tool])
    if not secret:
        raise NotConfigured(f"Webhooks of {tool} are refused, because {SECRETS[tool]} is not set where the pages run. "
                            "Set it to the webhook's secret and start the pages again.")
    given = headers.get("authorization", "")
    if headers.get(SIGNATURE) or (tool == LABEL_STUDIO
                                and hmac.compare_digest(given.encode(), f"{BEARER}{secret}".encode())):
        return
    wanted = f"`Authorization: {BEARER}SECRET`, or " if tool == LABEL_STUDIO else ""
    raise NotSigned(f"Expected {wanted}the headers {ID}, {TIMESTAMP} and {SIGNATURE}.")


def check(tool: str, headers: Mapping[str, str], body: bytes) -> None:
    """Judge the signature, if there is one. Raises as `admit`, and NotSigned for one that is not of this body."""
    admit(tool, headers)
    if not headers.get(SIGNATURE):
        return
    # Argilla signs the event's time but sends the delivery's, which differ where its queue is slow.
    times = [headers.get(TIMESTAMP, ""), *_event_times(body)]
    if not is_signed(os.environ[SECRETS[tool]], headers.get(ID, ""), times, body, headers[SIGNATURE]):
        raise NotSigned(f"The signature is not that of this body with the secret in {SECRETS[tool]}.")


def read(tool: str, body: bytes) -> Delivery:
    """What the request says. Raises UserError for what is not of that tool."""
    try:
        values = json.loads(body)
        event = str(values["type" if tool == ARGILLA else "action"])
        if event not in (*NEW[tool], *CHANGED[tool]):
            return Delivery(event, (), False)
        records = _argilla(values["data"]) if tool == ARGILLA else _label_studio(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"The request is not a webhook of {tool}: {type(error).__name__}: {error}.") from None
    return Delivery(event, records, event in CHANGED[tool])


def accept(home: Home, tool: str, body: bytes) -> dict[str, object]:
    """Import what a checked request holds; what became of it. Raises UserError where nothing in it can be used."""
    delivery = read(tool, body)
    if not delivery.records:
        return {"event": delivery.event, "batch": None, "detail": "This event holds no judgement."}
    mark = home.folder / "hooks" / hashlib.sha256(body).hexdigest()
    if mark.exists():
        return {"event": delivery.event, "batch": mark.read_text(), "detail": "It had come before."}
    batch = _import(home, tool, delivery)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(batch)
    return {"event": delivery.event, "batch": batch, "detail": ""}


def _import(home: Home, tool: str, delivery: Delivery) -> str:
    content = "".join(json.dumps(record, sort_keys=True, ensure_ascii=False) + "\n" for record in delivery.records)
    name, how = f"{tool}.jsonl", Reading(tool)
    if not delivery.changes:
        return take_in(home, content.encode(), name, how).arrival.digest
    with tempfile.TemporaryDirectory(dir=home.folder) as folder:
        file = Path(folder) / name
        file.write_text(content, encoding="utf-8")
        return supersede(home, str(file), how, f"changed in {tool}", None).arrival.digest


def _argilla(data: Mapping[str, object]) -> tuple[Mapping[str, object], ...]:
    if data["status"] != "submitted":
        return ()  # a draft, or discarded
    (record,), (user,) = _listed(data["record"]), _listed(data["user"])
    answer = {"user_id": user.get("username") or user["id"], "status": "submitted", "values": data["values"]}
    return ({"id": record["id"], "fields": record["fields"], "metadata": record.get("metadata") or {},
             "responses": [answer]},)


def _label_studio(values: Mapping[str, object]) -> tuple[Mapping[str, object], ...]:
    annotations, tasks = _listed(values["annotation"]), _listed(values["task"])
    data = {task["id"]: task["data"] for task in tasks}
    return tuple({"id": one["task"], "data": data[one["task"]], "annotations": [one]} for one in annotations
                 if not one.get("was_cancelled"))


def _listed(value: object) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, dict):
            raise TypeError(f"expected an object, found {type(one).__name__}")
        found.append(one)
    return found


def _event_times(body: bytes) -> list[str]:
    """The times that stand at the beginning or end of the body, in seconds since 1970.

    Only a look at the characters: whoever sent it is not known yet, so it is not decoded.
    """
    found = [*EVENT_TIME.finditer(body[:NEAR]), *EVENT_TIME.finditer(body[-NEAR:])]
    times = set()
    for one in found[:MOST_TIMES]:
        with contextlib.suppress(ValueError):
            times.add(str(math.floor(datetime.fromisoformat(one[1].decode()).replace(tzinfo=UTC).timestamp())))
    return sorted(times)
