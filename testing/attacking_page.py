"""A page of another site that tries to run a command by way of Prefect's API, in a real Chromium.

It is given what an attacker would have to find out first, so that each step is tried whatever became of those before.
"""

import contextlib
import http.server
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

CHROMIUM, CHROMEDRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
NAME = "evil.example"
"""Leads to this machine, as an attacker's name may."""
SECONDS = 30

PAGE = b"""<!doctype html><title>waits</title><script>
const given = JSON.parse(decodeURIComponent(location.hash.slice(1)));
const step = async (path, body, plain) => {
  try {
    // A body without a type needs no leave of the server to be sent, and Prefect takes it for JSON.
    const more = plain ? {mode: "no-cors", body: new Blob([JSON.stringify(body)])}
                       : {headers: {"content-type": "application/json"}, body: JSON.stringify(body)};
    const answer = await fetch(given.api + path, {method: "POST", ...more});
    return plain ? "sent" : String(answer.status);
  } catch (error) { return String(error); }
};
const listen = path => new Promise(done => {
  const socket = new WebSocket(given.api.replace("http", "ws") + path, ["prefect"]);
  socket.onopen = () => done("open");
  socket.onerror = () => done("refused");
});
(async () => {
  const found = {};
  for (const plain of [false, true]) {
    const kind = plain ? "plain " : "";
    found[kind + "filter"] = await step("/deployments/filter", {}, plain);
    found[kind + "upsert"] = await step("/deployments/", given.deployment, plain);
    found[kind + "run"] = await step(`/deployments/${given.id}/create_flow_run`, {}, plain);
  }
  found.events = await listen("/events/in");
  document.title = JSON.stringify(found);
})();
</script>"""


class EvilHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def evil_site() -> Iterator[str]:
    """The origin of another site."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), EvilHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{NAME}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def victim() -> Iterator[Chrome]:
    """A Chromium that lets pages of any kind ask this machine, as some browsers do."""
    if not (CHROMIUM.exists() and CHROMEDRIVER.exists()):
        if os.environ.get("CI"):
            pytest.fail("No Chromium: continuous integration must have /usr/bin/chromium and /usr/bin/chromedriver.")
        pytest.skip("No Chromium")
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                   "--disable-background-networking", "--disable-features=LocalNetworkAccessChecks",
                   f"--host-resolver-rules=MAP {NAME} 127.0.0.1"):
        options.add_argument(option)
    driver = Chrome(options=options, service=ChromeService(str(CHROMEDRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def attack(driver: Chrome, site: str, api: str, deployment: str, wanted: dict[str, object]) -> dict[str, str]:
    """Open the page, which wants to change and run a deployment; returns what became of each step."""
    given = {"api": api, "id": deployment, "deployment": wanted}
    driver.get("about:blank")
    driver.get(f"{site}/#{quote(json.dumps(given))}")
    deadline = time.monotonic() + SECONDS
    while driver.title == "waits" and time.monotonic() < deadline:
        time.sleep(0.1)
    found: dict[str, str] = json.loads(driver.title)
    return found
