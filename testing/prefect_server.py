"""A Prefect server that tests share, and one project whose deployments it has."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from testing.databases import Databases
from testing.fake_project import environment
from testing.going_on import processes_of
from testing.prefect_api import ask
from testing.servers import answers, free_port
from testing.waiting import eventually

START_SECONDS = 400


@dataclass(frozen=True)
class Api:
    """A Prefect server, and the root of the project whose deployments it has."""

    url: str
    root: Path
    prefect_home: str

    def post(self, path: str, body: dict[str, object]) -> object:
        return ask(f"{self.url}/{path}", body)

    def runs(self, state: str) -> list[dict[str, object]]:
        found = self.post("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": [state]}}}, "limit": 5})
        assert isinstance(found, list)
        return found

    def deployment(self) -> str:
        found = self.post("deployments/filter", {"deployments": {"name": {"any_": ["always-on"]}}})
        assert isinstance(found, list)
        return str(found[0]["id"]) if found else ""


@contextmanager
def going_on(arguments: list[str], folder: Path, settings: dict[str, str]) -> Iterator[None]:
    """Run a Python module in a session of its own; it has ended after the block."""
    process = subprocess.Popen([sys.executable, "-m", *arguments], cwd=folder, env=settings, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[dict[str, str]]:
    """The variables by which commands find a Prefect server of this session's own."""
    port, home = free_port(), tmp_path_factory.mktemp("home")
    databases.give(home)
    variables = {"PREFECT_HOME": str(home / "prefect"), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    with going_on(["prefect", "server", "start", "--port", str(port), "--no-ui"], home,
                  environment(PREFECT_SERVER_ANALYTICS_ENABLED="false", **variables)):
        eventually(lambda: answers(f"{variables['PREFECT_API_URL']}/health"), "the server's start", START_SECONDS)
        yield variables


@pytest.fixture(scope="session")
def server(project: Path, prefect: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The shared server, which has the deployments of a copy of the project."""
    root = tmp_path_factory.mktemp("served") / "copy"
    shutil.copytree(project, root, symlinks=True)
    api = Api(prefect["PREFECT_API_URL"], root, prefect["PREFECT_HOME"])
    with going_on(["flows.deployments"], root, environment(root, **prefect)):
        eventually(api.deployment, "the deployment", START_SECONDS)
        yield api
    for left in processes_of(root):
        left.kill()
