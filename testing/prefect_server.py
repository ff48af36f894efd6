"""A Prefect server that serves the deployments of a made-up project."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from testing.fake_project import environment
from testing.going_on import processes_of
from testing.prefect_api import ask
from testing.waiting import eventually

START = 120


@dataclass(frozen=True)
class Api:
    """A Prefect server that serves a project's deployments."""

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


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


@pytest.fixture(scope="session")
def server(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home, url = tmp_path_factory.mktemp("prefect"), f"http://127.0.0.1:{port}/api"
    settings = environment(PREFECT_HOME=str(home), PREFECT_API_URL=url, PREFECT_SERVER_ANALYTICS_ENABLED="false",
                           FAKE_STEP_SECONDS="0.05")
    started = []
    for command in ([sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui"],
                    [sys.executable, "-m", "flows.deployments"]):
        started.append(subprocess.Popen(command, cwd=project, env=settings, start_new_session=True,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        eventually(lambda: answers(f"{url}/health"), "the server's start", START)
    api = Api(url, project, str(home))
    eventually(api.deployment, "the deployment", START)
    yield api
    for process in reversed(started):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    for left in processes_of(project):
        left.kill()
