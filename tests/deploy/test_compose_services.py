"""The services of `deploy/compose.yaml` with the commands and variables of that file, on real PostgreSQL and S3.

Only the containers are missing: host names become ports of this machine.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from ruamel.yaml import YAML

from plumbline.preferences.types import to_line
from testing.always_on_project import comparisons, make_always_on
from testing.fake_project import CHECKOUT, environment, plumbline
from testing.postgres import start_cluster
from testing.running_service import QUICK
from testing.servers import answers, free_port
from testing.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.evidence]
DEPLOY = CHECKOUT / "deploy"
SECRETS = {"POSTGRES_PASSWORD": "p@ss/w:rd %41#?", "STORAGE_PASSWORD": "s", "PREFECT_KEY": "k/e:y@1"}
"""In addresses the first would have to be escaped."""
SERVICES = YAML(typ="safe").load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]


@dataclass(frozen=True)
class Host:
    """Where the services of the file are here."""

    root: Path
    places: dict[str, str]
    """Host and port in the file, and here."""

    def here(self, text: str) -> str:
        """A value of the file, for this machine."""
        text = re.sub(r"\$\{(\w+)[^}]*\}", lambda found: SECRETS.get(found[1], ""), text)
        for there, here in self.places.items():
            text = text.replace(there, here)
        return text.replace("/plumbline/.plumbline", str(self.root / ".plumbline"))

    def environment(self, service: str) -> dict[str, str]:
        values = {name: self.here(str(value)) for name, value in SERVICES[service]["environment"].items()}
        return environment(self.root, **{**QUICK, **{name: value for name, value in values.items() if value}})

    def start(self, service: str) -> "subprocess.Popen[bytes]":
        command = [self.here(word) for word in shlex.split(SERVICES[service]["command"])]
        program = [sys.executable, "-m", command[0]] \
            if command[0] != "python" else [sys.executable]
        with (self.root / f"{service}.txt").open("wb") as log:
            return subprocess.Popen([*program, *command[1:], *self.port(service)], cwd=self.root, stdout=log,
                                    stderr=log, env=self.environment(service), start_new_session=True)

    def port(self, service: str) -> list[str]:
        """Of a service whose command leaves it to the container."""
        number = {"prefect": "prefect:4200", "pages": "pages:4280", "mlflow": "mlflow:5000"}.get(service)
        return ["--port", self.places[number].rpartition(":")[2]] if number else []

    def url(self, place: str, path: str) -> str:
        return f"http://{self.places[place]}{path}"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    cluster = start_cluster()
    if cluster is None:
        pytest.skip("no PostgreSQL")
    storage = ThreadedMotoServer(port=0)
    storage.start()
    s3 = storage.get_host_and_port()
    places = {"@postgres/": f"@127.0.0.1:{cluster.port}/", "storage:9000": f"127.0.0.1:{s3[1]}",
              **{place: f"127.0.0.1:{free_port()}" for place in ("prefect:4200", "mlflow:5000", "pages:4280")}}
    psql = ["psql", "-q", "-h", "127.0.0.1", "-p", str(cluster.port), "-U", "postgres"]
    subprocess.run([*psql, "-c", f"CREATE ROLE plumbline SUPERUSER LOGIN PASSWORD '{SECRETS['POSTGRES_PASSWORD']}'",
                    "-c", "CREATE DATABASE prefect"], check=True)
    rules = cluster.folder / "data/pg_hba.conf"  # the password is really asked for, as in the container
    rules.write_text(f"host all plumbline 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
    subprocess.run([*psql, "-c", "SELECT pg_reload_conf()"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*psql, "-f", str(DEPLOY / "databases.sql")], check=True)
    started: list[subprocess.Popen[bytes]] = []
    found = Host(make_always_on(tmp_path / "compose"), places)
    try:
        buckets = SERVICES["buckets"]
        subprocess.run([sys.executable, *buckets["command"][1:]], env=found.environment("buckets"), check=True)
        for service, place, path in (("prefect", "prefect:4200", "/api/health"), ("mlflow", "mlflow:5000", "/health"),
                                     ("worker", "", ""), ("pages", "pages:4280", "/api/health")):
            started.append(found.start(service))
            if place:
                eventually(partial(answers, found.url(place, path)), service, 180)
        yield found
    finally:
        for process in reversed(started):
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        storage.stop()
        cluster.stop()


def test_preferences_that_are_posted_become_a_champion(host: Host) -> None:
    token = (host.root / ".plumbline/token").read_text().strip()
    body = "".join(map(to_line, comparisons(0, 6))).encode()
    request = urllib.request.Request(host.url("pages:4280", "/api/preferences"), body, {
        "Content-Type": "application/x-ndjson", "Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.loads(answer.read())["accepted"] == 6

    def records() -> list[dict[str, object]]:
        done = plumbline(host.root, "runs", "--json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, object]] = json.loads(done.stdout)
        return found

    eventually(lambda: any(record["status"] == "finished" for record in records()), "the run")
    version = "/api/2.0/mlflow/registered-models/alias?name=policy&alias=champion"
    with urllib.request.urlopen(host.url("mlflow:5000", version), timeout=30) as answer:
        champion = json.loads(answer.read())["model_version"]
    assert {tag["key"]: tag["value"] for tag in champion["tags"]}["pipeline_run"] == records()[0]["id"]
    count = "import s3fs; print(len(s3fs.S3FileSystem().find('mlflow')))"
    kept = subprocess.run([sys.executable, "-c", count], env=host.environment("worker"), check=True, text=True,
                          capture_output=True)
    assert int(kept.stdout) > 0, "MLflow's files are in the storage"
    # Prefect obeys those alone who have its key, and the worker says that it is well.
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(host.url("prefect:4200", "/api/admin/version"), timeout=30)
    check = shlex.join(SERVICES["worker"]["healthcheck"]["test"][1:]).replace("/plumbline/", f"{host.root}/")
    assert subprocess.run(check.replace("python ", f"{sys.executable} ", 1), shell=True, check=False).returncode == 0
