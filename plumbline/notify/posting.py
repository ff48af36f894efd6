"""POST to somebody's server. A redirect is a failure: it would lose the body, or carry keys elsewhere."""

import urllib.request
from collections.abc import Mapping
from http.client import HTTPException, HTTPMessage
from typing import IO


class _Stay(urllib.request.HTTPRedirectHandler):
    """Treats a redirect as an HTTPError."""

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
                         headers: HTTPMessage, newurl: str) -> None:
        """Follow no redirect."""


OPENER = urllib.request.build_opener(_Stay)


def post(url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> bytes:
    """Send a POST request and return the body of the answer.

    Raises OSError for a server that is away or answers anything but success, ValueError for an address that
    is none.
    """
    request = urllib.request.Request(url, body, dict(headers), method="POST")
    try:
        with OPENER.open(request, timeout=seconds) as answer:
            return bytes(answer.read())
    except HTTPException as error:  # what answers there speaks no HTTP, or was cut off
        raise OSError(f"{type(error).__name__}: {error}") from error
