"""What the page tests share: clients of a site, a real server, a real browser."""

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient
from selenium.common import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from starlette.types import ASGIApp

from plumbline.project.home import Home, enter
from plumbline.web.app import create_app
from plumbline.web.security import open_keys
from plumbline.web.site import Site

ADDRESS = "http://127.0.0.1:4280"
CHROMIUM, CHROMEDRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")


def visit(home: Home) -> TestClient:
    """A client of a project's site, who may only read."""
    return TestClient(create_app(home), base_url=ADDRESS, follow_redirects=False)


def login(client: TestClient, home: Home) -> TestClient:
    """Let a client send the token as programs do."""
    client.headers["authorization"] = f"Bearer {open_keys(home)[0].token}"
    return client


def site_behind(client: TestClient) -> Site:
    """The site that a client visits, so that a test can put runs into its history."""
    site = client.app.state.site  # type: ignore[attr-defined]
    assert isinstance(site, Site)
    return site


class entered:
    """A home whose environment this process has, until the end of the block."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def __enter__(self) -> Home:
        self.before = dict(os.environ)
        for name in ("PLUMBLINE_HOME", "MLFLOW_TRACKING_URI"):
            os.environ.pop(name, None)
        enter(self.home)
        return self.home

    def __exit__(self, *_: object) -> None:
        os.environ.clear()
        os.environ.update(self.before)


@dataclass(frozen=True)
class Server:
    """A running `plumbline ui`."""

    url: str
    token: str
    process: "subprocess.Popen[str]"


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """A site of this process behind a real server, by its address: for a history that a test filled."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


Serve = Callable[..., Server]


def wait_for(url: str, process: "subprocess.Popen[str]") -> None:
    """Return when the server answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the server ended: {process.stdout.read() if process.stdout else ''}")
        try:
            httpx.get(f"{url}/api/health", timeout=60)
            return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail("the server did not answer within a minute")


def start_browser(dark: bool = False, width: int = 1280, height: int = 900) -> Chrome:
    """A Chromium of the given size; the caller ends it with `quit`."""
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                   "--disable-background-networking", "--hide-scrollbars", f"--window-size={width},{height}",
                   *(["--force-dark-mode", "--enable-features=WebUIDarkMode"] if dark else [])):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(str(CHROMEDRIVER)))
    emulate(driver, dark, width, height)
    return driver


def emulate(driver: Chrome, dark: bool, width: int, height: int) -> None:
    """Show pages as a screen of this size, in this theme, would."""
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
        "features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                     {"name": "prefers-reduced-motion", "value": "reduce"}]})
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})


def wait(until: Callable[[], bool]) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(WebDriverException):  # the page is just going
            if until():
                return
        time.sleep(0.05)
    pytest.fail("nothing followed within half a minute")


def opens_a_page(driver: Chrome, act: Callable[[], object]) -> None:
    """Do what opens another page, and return when that page is there, its script included.

    The driver itself does not: a click returns while the old page is still shown, when the server takes its time.
    """
    before = driver.find_element(By.TAG_NAME, "html").id
    act()
    wait(lambda: driver.find_element(By.TAG_NAME, "html").id != before
         and driver.execute_script("return document.readyState") == "complete")  # type: ignore[no-untyped-call]


def problems_in(driver: Chrome) -> list[str]:
    """Return the warnings and errors of the browser's console since the last call."""
    return [entry["message"] for entry in driver.get_log("browser")  # type: ignore[no-untyped-call]
            if entry["level"] in ("SEVERE", "WARNING")]
