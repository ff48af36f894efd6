"""Events on the Prefect server: new preferences start the retraining, and others may act on what became of a
run.

An event is a notice, not the data: where no server listens nothing is lost, because the next run learns from
everything that has arrived.
"""

import base64
import json
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from http.client import HTTPException

from plumbline.notify.posting import post
from plumbline.project.home import API_KEY, API_URL

PREFERENCES_ADDED = "plumbline.preferences.added"
RUN_FINISHED = "plumbline.run.finished"
RUN_FAILED = "plumbline.run.failed"
GATE_FAILED = "plumbline.gate.failed"
CHAMPION_CHANGED = "plumbline.champion.changed"
APPROVAL_AWAITED = "plumbline.approval.awaited"
TIMEOUT_SECONDS = 5.0


def send(event: str, resource: str, payload: Mapping[str, object], name: str | None = None) -> str | None:
    """Send one event to the server that PREFECT_API_URL names. Returns what went wrong, or None.

    An event that is sent again under the same `name` (a UUID) counts once.
    """
    if not os.environ.get(API_URL):
        return f"{API_URL} is not set"
    now = datetime.now(UTC).isoformat()
    content = {"occurred": now, "event": event, "id": name or str(uuid.uuid4()),
               "resource": {"prefect.resource.id": resource}, "payload": payload}
    try:
        call("events", [content])
    except (OSError, ValueError) as error:
        return f"{os.environ[API_URL]} does not take events ({error})"
    return None


def call(path: str, body: object) -> object:
    """POST to the server that PREFECT_API_URL names. Returns the parsed answer, None if empty.

    Raises OSError.
    """
    headers = {"Content-Type": "application/json"}
    if secret := os.environ.get(API_KEY):
        headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    url = f"{os.environ[API_URL].rstrip('/')}/{path}"
    text = post(url, json.dumps(body).encode(), headers, TIMEOUT_SECONDS)
    return json.loads(text) if text else None


def unreachable(api_url: str) -> str | None:
    """Return why the server at an address does not answer, or None if it does."""
    try:
        with urllib.request.urlopen(f"{api_url.rstrip('/')}/health", timeout=TIMEOUT_SECONDS):
            return None
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, HTTPException, ValueError) as error:  # somebody else, or no address
        return str(error)
