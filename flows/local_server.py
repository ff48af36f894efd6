"""Prefect's server for the time of one command, started the moment the command starts and gone when it ends.

Prefect starts one by itself, too late and in our process group: after all imports, and Ctrl-C would take the
server away before the flow could report to it. This one leads a session of its own, and ends with this
process however that ends. Only this process and its children know its key.
"""

import atexit
import gc
import os
import secrets
import socket
import sys
import time
import urllib.error
import urllib.request

from plumbline.errors import UserError
from plumbline.notify.prefect_events import unreachable
from plumbline.project.home import API_KEY, API_URL, Home
from plumbline.project.processes import end_group, start_bound
from plumbline.project.service_lock import is_up

STARTUP_SECONDS = 120
RESTART_SECONDS = 30
"""How long `plumbline up` may take to start its server again."""
SERVER_SETTINGS = {
    # The marks that Prefect gives its own temporary server: no web pages, no schedules.
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    # A library of the server's compiles checks of types into itself whenever it is imported.
    "PY_KEY_VALUE_DISABLE_BEARTYPE": "1",
}
KEPT_OBJECTS = 50_000
"""How many new objects make Python look for garbage; its default is 700. What an import makes stays, and
looking for garbage in that is a tenth of a second out of each."""


class LocalServer:
    """A server that is starting or running."""

    def __init__(self, home: Home) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.api_url = f"http://127.0.0.1:{port}/api"
        self.key = secrets.token_urlsafe(32)
        self.log = home.folder / "prefect" / "server.log"
        command = [sys.executable, "-m", "flows.local_server", str(port)]
        environment = {**SERVER_SETTINGS, "PREFECT_SERVER_API_AUTH_STRING": self.key}
        with self.log.open("wb") as log:
            self._process = start_bound(command, environment, log, home.root)

    def wait(self) -> None:
        """Return when the server answers. Raises UserError when it does not."""
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.api_url}/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise UserError(f"Prefect's server did not start within {STARTUP_SECONDS} s; see {self.log}. "
                        "`plumbline doctor` checks for known broken combinations of packages.")

    def stop(self) -> None:
        """End the server and wait until it has gone."""
        end_group(self._process)


def start_local_server(home: Home) -> LocalServer | None:
    """Start a server for this process, unless the user has one: PREFECT_API_URL or PREFECT_HOME is set.

    Raises UserError where the one that PREFECT_API_URL names does not answer: nothing has begun then. Comes
    before the first import of Prefect: what Prefect still has to send at exit is sent before this server
    stops, because exit handlers run in the reverse order of their registration.
    """
    given = os.environ.get(API_URL)
    if given:
        _require_answer(home, given)
    if given or os.environ.get("PREFECT_HOME") != str(home.folder / "prefect"):
        return None
    server = LocalServer(home)
    atexit.register(server.stop)
    os.environ.update({API_URL: server.api_url, API_KEY: server.key})
    return server


def _require_answer(home: Home, api_url: str) -> None:
    up = is_up(home.folder)
    deadline = time.monotonic() + (RESTART_SECONDS if up else 0)
    while problem := unreachable(api_url):
        if time.monotonic() >= deadline:
            advice = ("`plumbline status` says how it is." if up else
                      "Start it, or unset PREFECT_API_URL: each command then starts a server of its own.")
            raise UserError(f"Prefect's server at {api_url} does not answer ({problem}), and a run needs it. "
                            f"Nothing was begun. {advice}")
        time.sleep(0.5)


def serve(port: int) -> None:
    """Be the server, until it is told to end."""
    gc.set_threshold(KEPT_OBJECTS)
    import uvicorn

    uvicorn.run("plumbline.service.prefect_guard:create_app", factory=True, host="127.0.0.1", port=port,
                log_level="error", lifespan="on")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
