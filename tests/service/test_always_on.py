"""Retraining by itself, on a real Prefect server with its default database: by the clock, for a burst, during a run."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from plumbline.preferences.batches.arrivals import arrivals
from plumbline.preferences.batches.folders import Folders
from plumbline.preferences.batches.manifest import read_manifest
from plumbline.service.process import marked
from testing.always_on_project import bring, change_params
from testing.fake_project import holding, plumbline
from testing.going_on import running_in
from testing.in_process import command
from testing.running_service import QUICK, Up
from testing.waiting import eventually
from testing.webhook_receiver import Receiver

pytestmark = [pytest.mark.slow]
BURST, BURST_DEBOUNCE = 50, 10.0
DEBOUNCE = 2.0


@dataclass
class Since:
    """What has happened on a service since the beginning of a test."""

    up: Up
    runs_before: set[object] = field(init=False)
    flow_runs_before: set[object] = field(init=False)

    def __post_init__(self) -> None:
        self.runs_before = {record["id"] for record in self.up.records()}
        self.flow_runs_before = {run["id"] for run in self.up.flow_runs()}

    def learned(self) -> list[dict[str, object]]:
        """Return the records of the runs that have finished, oldest first."""
        return [record for record in self.up.records()
                if record["status"] == "finished" and record["id"] not in self.runs_before]

    def flow_runs(self) -> list[dict[str, object]]:
        return [run for run in self.up.flow_runs() if run["id"] not in self.flow_runs_before]

    def settled(self, runs: int) -> Callable[[], bool]:
        return lambda: len(self.learned()) >= runs and self.up.quiet()


@pytest.fixture
def since(up: Up) -> Since:
    return Since(up)


@pytest.fixture
def champion(up: Up) -> None:
    """The project has a champion, be it of an earlier test."""
    if not any("promote" in record["stages"] for record in up.records()):  # type: ignore[operator]
        before = Since(up)
        bring(up.root, fresh(up))
        eventually(before.settled(1), "a first run")


def fresh(up: Up) -> int:
    """Where comparisons begin that have not arrived yet."""
    return 10 * len(arrived(up))


def snapshot(up: Up, record: dict[str, object]) -> set[str]:
    return {batch.digest for batch in read_manifest(up.root / "runs" / str(record["id"]) / "data/snapshot").batches}


def arrived(up: Up) -> set[str]:
    return {arrival.digest for arrival in arrivals(Folders(up.root, up.home))}


def follow(up: Up, **retrain: object) -> None:
    """Change parameters of the retraining, and wait until the service follows them."""
    log = up.home / "service" / "worker.log"
    before = log.read_text().count("holds from now on")
    change_params(up.root, "retrain", **retrain)
    eventually(lambda: log.read_text().count("holds from now on") > before, "the new parameters", 60)


@pytest.mark.evidence
def test_a_burst_of_batches_gives_one_run(up: Up, since: Since) -> None:
    follow(up, debounce_seconds=BURST_DEBOUNCE)
    try:
        first, began, unheard = fresh(up), time.monotonic(), 0
        for number in range(BURST):
            unheard += bring(up.root, first + 10 * number).not_announced is not None
        swallowed = time.monotonic() - began < BURST_DEBOUNCE
        eventually(since.settled(1), "the run")
        time.sleep(3)  # another event would have started the wait for another run by now
        eventually(up.quiet, "the end of what came after it")
    finally:
        follow(up, debounce_seconds=DEBOUNCE)
    # Where the machine is so busy that the window closes or the server does not answer, one more event is sent later,
    # and starts nothing.
    names = [run["state_name"] for run in since.flow_runs()]
    assert [name for name in names if name != "Skipped" or (swallowed and not unheard)] == ["Completed"]
    [record] = since.learned()
    assert snapshot(up, record) == arrived(up)
    assert len(arrived(up)) >= BURST
    assert str(record["trigger"]).startswith("new preferences: ")


@pytest.mark.usefixtures("champion")
def test_batches_during_a_run_give_exactly_one_more(up: Up, since: Since, receiver: Receiver) -> None:
    """Three of them, each an event of its own: two runs wait, and the second finds nothing left to learn."""
    receiver.got.clear()
    first, count = fresh(up), len(arrived(up))
    with holding(up.root, "ppo"):
        bring(up.root, first)
        eventually(lambda: running_in("ppo", up.root), "ppo")
        for number in range(1, 4):
            bring(up.root, first + 10 * number)
            eventually(lambda asked=number: len(since.flow_runs()) > asked, "a flow run of its own", 60)
            time.sleep(DEBOUNCE)
        assert any(run["state_name"] in ("Running", "AwaitingConcurrencySlot") for run in since.flow_runs())
    eventually(since.settled(2), "the run and one more")
    before, after = since.learned()
    assert all(record["stages"]["ppo"]["status"] == "ran" for record in (before, after))  # type: ignore[index]
    assert len(snapshot(up, before)) == count + 1
    assert snapshot(up, after) == arrived(up)
    assert after["created"] >= before["ended"]  # type: ignore[operator]
    names = [run["state_name"] for run in since.flow_runs()]
    assert names.count("Completed") == 2
    assert set(names) == {"Completed", "Skipped"}
    who_should_know_was_told(since, receiver)
    why_a_run_did_not_take_place_can_be_seen(since)


def who_should_know_was_told(since: Since, receiver: Receiver) -> None:
    """By the webhook and by events on Prefect's server, once each."""
    ids = [record["id"] for record in since.learned()]
    eventually(lambda: len(receiver.got) >= 2 * len(ids), "the webhook's calls", 60)
    posted = [json.loads(body) for _, body in receiver.got]
    assert [one["data"]["run"] for one in posted if one["type"] == "plumbline.run.finished"] == ids
    champions = [(one["data"]["before"], one["data"]["version"]) for one in posted
                 if one["type"] == "plumbline.champion.changed"]
    assert len(champions) == len(ids)
    assert champions[0][1] == champions[1][0]
    versions = [version for _, version in champions]
    eventually(lambda: told(since.up, "plumbline.run.finished", "run", ids) == sorted(ids),
               "the events of the runs", 60)
    eventually(lambda: told(since.up, "plumbline.champion.changed", "version", versions) == sorted(versions),
               "the events of the champions", 60)


def told(up: Up, event: str, key: str, about: list[object]) -> list[object]:
    """Return what Prefect's events of this name say of these runs or versions: each as often as it was said."""
    found = up.call("events/filter", {"filter": {"event": {"name": [event]}}})
    assert isinstance(found, dict)
    return sorted(one["payload"][key] for one in found["events"] if one["payload"][key] in about)


def why_a_run_did_not_take_place_can_be_seen(since: Since) -> None:
    skipped = [run["state"] for run in since.flow_runs() if run["state_name"] == "Skipped"]
    assert "nothing new since run" in skipped[-1]["message"]  # type: ignore[index]
    root = since.up.root
    found = json.loads(command(root, "status", "--json").stdout)
    assert found["not_run"]["trigger"] == "new preferences"
    assert found["not_run"]["reason"] == skipped[-1]["message"]  # type: ignore[index]
    assert "Last run that did not take place" in command(root, "status").stdout


@pytest.mark.evidence
@pytest.mark.usefixtures("champion")
def test_too_little_is_not_enough_but_for_a_person(up: Up, since: Since) -> None:
    bring(up.root, fresh(up), count=4)
    eventually(lambda: since.flow_runs() and up.quiet(), "the run that does not take place", 120)
    [run] = since.flow_runs()
    assert run["state_name"] == "Skipped"
    assert run["state"]["message"].startswith("4 new comparisons since the champion's snapshot")  # type: ignore[index]
    # What a person starts runs all the same: by Prefect's form, with parameters of its own.
    [deployment] = up.call("deployments/filter", {"limit": 5})  # type: ignore[misc]
    up.call(f"deployments/{deployment['id']}/create_flow_run",
            {"parameters": {"request": {"settings": ["ppo.clip=0.3"], "trigger": "Prefect"}}})
    eventually(since.settled(1), "the run")
    [record] = since.learned()
    assert record["settings"] == ["ppo.clip=0.3"]
    assert snapshot(up, record) == arrived(up)


@pytest.mark.usefixtures("champion")
def test_the_clock_starts_runs(up: Up, since: Since) -> None:
    follow(up, cron="0 3 * * *")
    try:
        waiting: list[dict[str, object]] = []

        def scheduled() -> bool:
            waiting[:] = up.call("flow_runs/filter", {  # type: ignore[assignment]
                "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}, "sort": "EXPECTED_START_TIME_ASC"})
            return bool(waiting)

        eventually(scheduled, "a run that waits for the clock", 90)
        assert waiting[0]["auto_scheduled"]
        assert str(waiting[0]["expected_start_time"])[11:16] == "03:00"
        # It is three o'clock now.
        now = {"scheduled_time": datetime.now(UTC).isoformat()}
        up.call(f"flow_runs/{waiting[0]['id']}/set_state",
                {"state": {"type": "SCHEDULED", "name": "Scheduled", "state_details": now}, "force": True})
        eventually(lambda: since.flow_runs() and up.quiet(), "a run by the clock")
    finally:
        follow(up, cron=None)
    [run] = since.flow_runs()
    assert run["id"] == waiting[0]["id"]
    assert run["parameters"] == {"request": {"trigger": "schedule"}}
    assert run["state_name"] == "Skipped"


@pytest.mark.evidence
@pytest.mark.usefixtures("champion")
def test_a_run_that_was_killed_gives_its_place_to_another(up: Up, since: Since) -> None:
    with holding(up.root, "ppo"):
        bring(up.root, fresh(up))
        eventually(lambda: running_in("ppo", up.root), "a run's middle")
        bring(up.root, fresh(up))
        eventually(lambda: len(since.flow_runs()) == 2, "a flow run that waits", 60)
        killed = up.records()[-1]
        os.kill(int(str(killed["pid"])), signal.SIGKILL)
    eventually(since.settled(1), "the run after it")
    assert [run["state_name"] for run in since.flow_runs()] == ["Crashed", "Completed"]
    by_id = {record["id"]: record["status"] for record in up.records()}
    assert by_id[killed["id"]] == "killed"
    assert up.records()[-1]["status"] == "finished"
    assert snapshot(up, up.records()[-1]) == arrived(up)


@pytest.mark.evidence
@pytest.mark.usefixtures("champion")
def test_a_run_that_stopping_cuts_short_goes_on_afterwards(up: Up, since: Since) -> None:
    """Stopped by Ctrl-C, started again in the background, stopped by `plumbline down`."""
    with holding(up.root, "ppo"):
        bring(up.root, fresh(up))
        eventually(lambda: running_in("ppo", up.root), "a run's middle")
        assert up.process is not None
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(60) == 0
    assert up.said().rstrip().endswith("Stopped.")
    assert marked(up.home) == []
    assert command(up.root, "status").returncode == 1
    cut = up.records()[-1]
    assert cut["status"] == "cancelled"
    started = plumbline(up.root, "up", "--detach", timeout=240, **QUICK)
    assert started.returncode == 0, started.stderr
    assert "Up since" in started.stdout
    assert {part["status"] for part in up.parts().values()} == {"up"}
    eventually(since.settled(1), "the run that goes on, a minute after its data came")
    [again] = since.learned()
    assert again["stages"]["sft"]["status"] == "reused"  # type: ignore[index]
    assert snapshot(up, again) == arrived(up)
    stopped = command(up.root, "down")
    assert (stopped.returncode, stopped.stdout) == (0, "Stopped.\n")
    assert marked(up.home) == []
    assert command(up.root, "down").stdout == "Nothing is up for this project.\n"
