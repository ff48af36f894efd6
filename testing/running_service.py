"""A `plumbline up` of a project, with short pauses, as tests and the chaos benchmark handle it."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from plumbline.project.home import Home
from plumbline.project.run_record import read_record, run_folders
from plumbline.service.housekeeping import ALIVE
from plumbline.service.process import marked
from testing.fake_project import environment
from testing.prefect_api import ask
from testing.waiting import eventually

QUICK = {
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
}
START = 400


@dataclass
class Up:
    """A `plumbline up` of a project."""

    root: Path
    more: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[str] | None" = None

    @property
    def home(self) -> Path:
        return self.root / ".plumbline"

    def start(self) -> None:
        """Start it in front, in a process of its own, and wait until it is up and its worker serves."""
        for file in ("service/state.json", ALIVE):  # a killed one's
            (self.home / file).unlink(missing_ok=True)
        with (self.root / "up.txt").open("a") as out:
            ours = environment(self.root, **{**QUICK, **self.more})
            self.process = subprocess.Popen([sys.executable, "-m", "plumbline", "up"], cwd=self.root, text=True,
                                            env=ours, stdout=out, stderr=out, start_new_session=True)
        try:
            eventually(lambda: self.all_are("up") and (self.home / ALIVE).exists(), "up", START)
            eventually(lambda: self.call("deployments/filter", {}), "the deployment", START)
        except AssertionError:
            raise AssertionError(self.said()) from None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def said(self) -> str:
        return (self.root / "up.txt").read_text()

    def parts(self) -> dict[str, dict[str, object]]:
        file = self.home / "service" / "state.json"
        return {part["name"]: part for part in json.loads(file.read_text())["parts"]} if file.exists() else {}

    def all_are(self, status: str) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        parts = self.parts()
        return bool(parts) and all(part["status"] == status for part in parts.values())

    def kill(self, part: str) -> int:
        pid = int(str(self.parts()[part]["pid"]))
        os.kill(pid, signal.SIGKILL)
        return pid

    def stop(self) -> None:
        if self.process and self.running:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(120)
        for pid in marked(self.home):
            os.kill(pid, signal.SIGKILL)

    @property
    def client(self) -> dict[str, str]:
        """The variables by which a program talks to its Prefect server."""
        return {"PREFECT_API_URL": f"{self.parts()['prefect']['address']}api", "PREFECT_API_AUTH_STRING": self.key}

    @property
    def key(self) -> str:
        return (self.home / "service/prefect_key").read_text().strip()

    def call(self, path: str, body: object) -> object:
        return ask(f"{self.client['PREFECT_API_URL']}/{path}", body, self.key)

    def flow_runs(self) -> list[dict[str, object]]:
        """The last 200 that do not only wait for the clock, oldest first."""
        found = self.call("flow_runs/filter", {"limit": 200, "sort": "EXPECTED_START_TIME_DESC"})
        assert isinstance(found, list)
        return [run for run in reversed(found) if not (run["auto_scheduled"] and run["state_type"] == "SCHEDULED")]

    def quiet(self) -> bool:
        """True if no flow run is going on, scheduled or waiting."""
        return all(run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") for run in self.flow_runs())

    def records(self) -> list[dict[str, object]]:
        """The records of all runs, oldest first."""
        return [read_record(folder).model_dump() for folder in run_folders(Home(self.root, self.home))]
