"""`plumbline up`: everything is there, what dies comes back, one is enough, and the end leaves nothing."""

import json
import urllib.request
from pathlib import Path

import pytest

from plumbline.errors import UserError
from plumbline.preferences.batches.arrivals import arrivals
from plumbline.preferences.batches.folders import Folders
from plumbline.preferences.batches.manifest import read_manifest
from plumbline.project.home import Home
from plumbline.service.parts import PORTS, make_parts
from plumbline.service.process import marked
from testing.always_on_project import bring, make_always_on
from testing.fake_project import plumbline
from testing.in_process import command
from testing.running_service import QUICK, Up
from testing.waiting import eventually

pytestmark = [pytest.mark.slow]


def answers(url: object) -> int:
    with urllib.request.urlopen(str(url), timeout=120) as answer:
        return int(answer.status)


def test_everything_is_there(up: Up) -> None:
    parts = up.parts()
    assert set(parts) == {"prefect", "worker", "pages", "mlflow"}
    for name in ("prefect", "pages", "mlflow"):
        assert answers(parts[name]["address"]) == 200
    assert all(str(part["address"]) in up.said() for part in parts.values() if part["address"])
    found = json.loads(command(up.root, "status", "--json").stdout)
    assert found["up"]
    assert found["due"]["needed"] == 5


def test_a_second_one_says_where_the_first_is(up: Up) -> None:
    second = plumbline(up.root, "up")
    assert second.returncode == 2
    assert str(up.parts()["pages"]["address"]) in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.evidence
def test_other_commands_find_the_server(up: Up) -> None:
    done = plumbline(up.root, "run", "--json", "--until", "snapshot", "--set", "snapshot.sources=[simulated]")
    assert done.returncode == 0, done.stderr
    eventually(lambda: any(run["state_type"] == "COMPLETED" for run in up.flow_runs()), "the run on the server", 60)


def test_what_is_killed_comes_back(up: Up) -> None:
    killed = {part: up.kill(part) for part in up.parts()}
    for part in up.parts().values():
        if part["address"]:
            assert answers(part["address"]) == 200, "who comes meanwhile waits"
    eventually(lambda: up.all_are("up") and all(up.parts()[part]["pid"] != pid for part, pid in killed.items()),
               "the return of all parts")
    assert up.said().count("ended by signal 9; starting it again") >= len(killed)


@pytest.mark.evidence
def test_kill_9_of_the_supervisor_leaves_nothing(up: Up) -> None:
    assert up.process is not None
    usual = {f"http://127.0.0.1:{port}/" for port in PORTS.values()} & {part["address"] for part in up.parts().values()}
    up.process.kill()
    up.process.wait()
    up.start()
    assert usual <= {part["address"] for part in up.parts().values()}, "it waits for the ports of the killed one"
    up.process.kill()
    up.process.wait()
    eventually(lambda: marked(up.home) == [], "the end of everything", 40)
    # Nobody believes what it has left behind.
    assert command(up.root, "status").returncode == 1
    assert not json.loads(command(up.root, "status", "--json").stdout)["up"]


@pytest.mark.evidence
def test_detached_with_data_that_came_while_nothing_was_up(service: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    service.stop()
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    arrived = arrivals(Folders(service.root, service.home))
    taken = bring(service.root, 10 * len(arrived))
    assert taken.not_announced == "PREFECT_API_URL is not set"
    before = {record["id"] for record in service.records()}
    started = plumbline(service.root, "up", "--detach", timeout=240, **QUICK)
    assert started.returncode == 0, started.stderr
    eventually(lambda: [record for record in service.records() if record["id"] not in before
                        and record["status"] == "finished"] and service.quiet(), "the run for it")
    assert plumbline(service.root, "down").returncode == 0
    snapshot = read_manifest(service.root / "runs" / str(service.records()[-1]["id"]) / "data/snapshot")
    assert {batch.digest for batch in snapshot.batches} == {one.digest for one in (*arrived, taken.arrival)}


def test_broken_parameters_are_said_before_anything_starts(tmp_path: Path) -> None:
    root = make_always_on(tmp_path / "broken", cron="every night")
    done = plumbline(root, "up")
    assert done.returncode == 2
    assert "`retrain.cron` is 'every night', but must be five fields of cron" in done.stderr
    assert marked(root / ".plumbline") == []


def test_a_taken_port_is_no_obstacle(tmp_path: Path) -> None:
    """Nor are two that start at the same moment."""
    made = [make_parts(Home(tmp_path, tmp_path / name), "127.0.0.1") for name in ("one", "other")]
    listeners = [part.listener for parts in made for part in parts if part.listener]
    addresses = [part.address for parts in made for part in parts if part.address]
    for listener in listeners:
        listener.close()
    assert len(addresses) == len(set(addresses)) == len(listeners) == 6


def test_a_host_that_is_not_this_machine(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Cannot listen on 203\.0\.113\.1"):
        make_parts(Home(tmp_path, tmp_path / "home"), "203.0.113.1")
