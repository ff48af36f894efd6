"""Sites for the page tests: an empty one, one over a small real project, a real server, a real browser.

    client     TestClient of the project's site, who may only read
    member     the same, signed in: `member.headers` holds the token
    server     `plumbline ui` over the project, as a process: server.url, server.token
    browser    Chromium

`visit(home)` makes a client of any home; `login(client)` signs it in.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from selenium.webdriver import Chrome

from plumbline.project.home import Home
from testing.fake_project import CHECKOUT, environment
from testing.servers import free_port
from testing.sites import (
    CHROMEDRIVER,
    CHROMIUM,
    Serve,
    Server,
    entered,
    login,
    site_behind,
    start_browser,
    visit,
    wait_for,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the project with runs, a server or a browser takes more than a few seconds."""
    for item in items:
        if Path(__file__).parent in item.path.parents and isinstance(item, pytest.Function) and (
                {"project", "serve", "browser"} & set(item.fixturenames)):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Home]:
    """A project in which nothing has been run."""
    (tmp_path / "dvc.yaml").write_text((CHECKOUT / "dvc.yaml").read_text())
    (tmp_path / "params.yaml").write_text((CHECKOUT / "params.yaml").read_text())
    with entered(Home(tmp_path, tmp_path / ".plumbline")) as home:
        yield home


@pytest.fixture(scope="session")
def project(recorded_project: Path) -> Path:
    """A project in which some runs were recorded by the real code; the tests share it."""
    return recorded_project


@pytest.fixture
def home(project: Path) -> Iterator[Home]:
    """The home of the project with runs."""
    with entered(Home(project, project / ".plumbline")) as home:
        yield home


@pytest.fixture
def client(home: Home) -> TestClient:
    """Reads the project's site; its history is up to date."""
    client = visit(home)
    site_behind(client).history.refresh()
    return client


@pytest.fixture
def member(home: Home, client: TestClient) -> TestClient:
    """Sends the token with everything."""
    return login(client, home)


@pytest.fixture(scope="session")
def serve() -> Iterator[Serve]:
    """Starts `plumbline ui` over a project; all are ended at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(root: Path, *options: str, **more: str) -> Server:
        url = f"http://127.0.0.1:{(port := free_port())}"
        process = subprocess.Popen([sys.executable, "-m", "plumbline", "ui", "--port", str(port), *options],
                                   cwd=root, env=environment(**more), stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        started.append(process)
        wait_for(url, process)
        return Server(url, (root / ".plumbline" / "token").read_text().strip(), process)

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def server(serve: Serve, project: Path) -> Server:
    """`plumbline ui` over the project; tests that change something start their own."""
    return serve(project)


@pytest.fixture(scope="session")
def browser() -> Iterator[Chrome]:
    """A Chromium without a window. Where there is none the test is skipped, but never in continuous integration."""
    if not (CHROMIUM.exists() and CHROMEDRIVER.exists()):
        if os.environ.get("CI") or os.environ.get("CI_BROWSER") == "1":
            pytest.fail("No Chromium: continuous integration must have /usr/bin/chromium and /usr/bin/chromedriver.")
        pytest.skip("No Chromium: install the packages chromium and chromium-driver to run the browser tests.")
    driver = start_browser()
    try:
        yield driver
    finally:
        driver.quit()
