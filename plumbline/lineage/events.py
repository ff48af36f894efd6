"""Events that others act on, sent to the Prefect server: new preferences start the retraining.

An event is a notice, not the data: where no server listens nothing is lost, because the next run learns from everything
that has arrived.
"""

import json
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

PREFERENCES_ADDED = "plumbline.preferences.added"
API_URL = "PREFECT_API_URL"
TIMEOUT_SECONDS = 5.0


def send(event: str, resource: str, payload: Mapping[str, object]) -> str | None:
    """Send one event to the server that PREFECT_API_URL names; what went wrong, or None."""
    url = os.environ.get(API_URL)
    if not url:
        return f"{API_URL} is not set"
    body = [{"occurred": datetime.now(UTC).isoformat(), "event": event, "id": str(uuid.uuid4()),
             "resource": {"prefect.resource.id": resource}, "payload": payload}]
    request = urllib.request.Request(f"{url.rstrip('/')}/events", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            return None
    except (urllib.error.URLError, OSError, ValueError) as error:
        return f"{url} does not take events ({error})"
