"""The pipeline under a real Prefect server: its schedule schedules, and cancelling a run leaves no process."""

import json
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
from fake_project import environment
from test_interrupt import eventually, processes_of

from flows.deployments import DEPLOYMENTS
from plumbline.lineage.events import PREFERENCES_ADDED, send

pytestmark = pytest.mark.slow
START = 60


@dataclass(frozen=True)
class Api:
    """A Prefect server that serves a project's deployments."""

    url: str
    root: Path

    def post(self, path: str, body: dict[str, object]) -> object:
        request = urllib.request.Request(f"{self.url}/{path}", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def runs(self, state: str) -> list[dict[str, object]]:
        found = self.post("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": [state]}}}, "limit": 5})
        assert isinstance(found, list)
        return found

    def deployment(self) -> str:
        found = self.post("deployments/filter", {"limit": 5})
        assert isinstance(found, list)
        return str(found[0]["id"]) if found else ""


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
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
    api = Api(url, project)
    eventually(api.deployment, "the deployment", START)
    yield api
    for process in reversed(started):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    for left in processes_of(project):
        left.kill()


def test_a_cron_deployment_gets_a_scheduled_run(server: Api) -> None:
    """Two sets of dependencies are known in which it silently does not: fastapi 0.165, sqlalchemy 2.1."""
    eventually(lambda: server.runs("SCHEDULED"), "a scheduled run", 90)
    run = server.runs("SCHEDULED")[0]
    hour = int(DEPLOYMENTS[0].cron.split()[1])
    assert str(run["expected_start_time"])[11:16] == f"{hour:02d}:00"
    assert run["parameters"] == {"request": DEPLOYMENTS[0].request.model_dump()}


def test_the_event_of_new_preferences_reaches_the_server(server: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server.url)
    assert send(PREFERENCES_ADDED, "plumbline.batch.0123", {"rows": 30}) is None

    def arrived() -> list[dict[str, object]]:
        found = server.post("events/filter", {"filter": {"event": {"name": [PREFERENCES_ADDED]}}})
        assert isinstance(found, dict)
        return list(found["events"])

    eventually(arrived, "the event", 30)
    assert arrived()[0]["payload"] == {"rows": 30}


def test_the_request_is_a_form(server: Api) -> None:
    found = server.post("deployments/filter", {"limit": 5})
    assert isinstance(found, list)
    fields = found[0]["parameter_openapi_schema"]["definitions"]["Request"]["properties"]
    assert {"params_file", "settings", "until", "force"} <= set(fields)
    assert found[0]["global_concurrency_limit"]["limit"] == 1


def test_cancelling_in_prefect_leaves_no_process(server: Api) -> None:
    def stages() -> list[object]:
        return [process for process in processes_of(server.root) if "tasks.ppo" in " ".join(process.cmdline())]

    body = {"parameters": {"request": {"settings": ["ppo.updates=4000"], "trigger": "test"}}}
    run = server.post(f"deployments/{server.deployment()}/create_flow_run", body)
    assert isinstance(run, dict)
    eventually(stages, "ppo", 90)
    server.post(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}, "force": True})
    eventually(lambda: not stages(), "the end of ppo", 60)
    eventually(lambda: any(one["id"] == run["id"] for one in server.runs("CANCELLED")), "the state CANCELLED", 60)
