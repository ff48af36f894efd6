"""The tests' way to Prefect's API: a server that is busy or just away for a moment is asked again."""

import threading
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from testing import prefect_api

CUT = 0
"""The server closes the connection without an answer."""


@contextmanager
def answering(*statuses: int) -> Iterator[tuple[str, list[int]]]:
    """A server that answers its requests in this way, and what it has not answered yet."""
    left = list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            if status := left.pop(0):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b'{"state": "there"}')

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", left
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_api, "PAUSES", (0.0, 0.0, 0.0))


def test_a_busy_server_and_a_cut_connection_are_asked_again() -> None:
    with answering(503, CUT, 502, 200) as (url, left):
        assert prefect_api.ask(url, {}) == {"state": "there"}
        assert left == []


@pytest.mark.parametrize(("statuses", "unasked"), [((404, 200), [200]), ((503, 503, 503, 503, 200), [200])])
def test_a_refusal_is_final_and_patience_ends(statuses: tuple[int, ...], unasked: list[int]) -> None:
    with answering(*statuses) as (url, left):
        with pytest.raises(urllib.error.HTTPError):
            prefect_api.ask(url, {})
        assert left == unasked
