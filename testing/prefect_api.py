"""Prefect's API over HTTP, asked again where Prefect's own client would ask again."""

import base64
import http.client
import json
import time
import urllib.error
import urllib.request

BUSY = (429, 502, 503)
"""A server whose SQLite database is locked answers 503."""
PAUSES = (1, 2, 4, 8, 16)
"""Seconds; Prefect's client makes five more attempts as well."""


def ask(url: str, body: object, key: str = "") -> object:
    """Post a body as JSON, signed in with `user:password`; returns the answer's JSON, None for an empty one.

    Raises HTTPError for an answer that will not change, and the last error of a server that stays away or busy.
    """
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Basic {base64.b64encode(key.encode()).decode()}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    for pause in (*PAUSES, None):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
            return json.loads(text) if text else None
        except (OSError, http.client.HTTPException) as error:
            final = isinstance(error, urllib.error.HTTPError) and error.code not in BUSY
            if final or pause is None:
                raise
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")
