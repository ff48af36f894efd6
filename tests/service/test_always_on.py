"""Retraining by itself, on a real Prefect server with its default database: by the clock, for a burst, during a run."""

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest

from plumbline.preferences.batches.arrivals import arrivals
from plumbline.preferences.batches.folders import Folders
from plumbline.preferences.batches.manifest import read_manifest
from testing.always_on_project import bring, change_params, make_always_on
from testing.fake_project import plumbline
from testing.running_service import Up
from testing.waiting import eventually
from testing.webhook_receiver import Receiver, receiving

pytestmark = [pytest.mark.slow, pytest.mark.alone]
BURST, BURST_SECONDS = 50, 9.0
PATIENCE = 300
"""Seconds. A first run takes half a minute on an idle machine; tests share theirs."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Up]:
    root = make_always_on(tmp_path_factory.mktemp("always") / "on", debounce_seconds=12.0, webhook=receiver.url)
    service = Up(root, {"FAKE_STEP_SECONDS": "0.3"})
    try:
        service.start()
        yield service
    finally:
        service.stop()


@pytest.fixture(autouse=True)
def announce_to(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in up.client.items():
        monkeypatch.setenv(name, value)


def learned(up: Up) -> list[dict[str, object]]:
    """The runs that took place."""
    return [record for record in up.records() if record["status"] == "finished"]


def snapshot(up: Up, record: dict[str, object]) -> set[str]:
    return {batch.digest for batch in read_manifest(up.root / "runs" / str(record["id"]) / "data/snapshot").batches}


def arrived(up: Up) -> set[str]:
    return {arrival.digest for arrival in arrivals(Folders(up.root, up.home))}


def settled(up: Up, runs: int) -> bool:
    return len(learned(up)) >= runs and up.quiet()


def test_a_burst_of_batches_gives_one_run(up: Up) -> None:
    unheard = 0
    for number in range(BURST):
        unheard += bring(up.root, 10 * number).not_announced is not None
        time.sleep(BURST_SECONDS / BURST)
    eventually(lambda: settled(up, 1), "the run", PATIENCE)
    time.sleep(15)  # nothing comes after it
    # Where the machine is so busy that the server did not answer, one more event is sent later, and starts nothing.
    assert [run["state_name"] for run in up.flow_runs() if run["state_name"] != "Skipped" or not unheard] == [
        "Completed"]
    record = learned(up)[0]
    assert snapshot(up, record) == arrived(up)
    assert len(arrived(up)) == BURST
    assert record["trigger"] == "new preferences: there is no champion yet"


def test_batches_during_a_run_give_exactly_one_more(up: Up) -> None:
    """Three of them, each an event of its own: two runs wait, and the second finds nothing left to learn."""
    change_params(up.root, "retrain", debounce_seconds=2.0)
    log = up.home / "service" / "worker.log"
    eventually(lambda: "holds from now on" in log.read_text(), "the new parameters", 30)
    bring(up.root, 10_000)
    eventually(lambda: any(record["status"] == "running" and "ppo" not in record["stages"]
                           and "reward_eval" in record["stages"] for record in up.records()), "ppo")  # type: ignore
    for number in range(3):
        bring(up.root, 20_000 + 10 * number)
        time.sleep(3)
    assert any(run["state_name"] in ("Running", "AwaitingConcurrencySlot") for run in up.flow_runs())
    eventually(lambda: settled(up, 3), "the run and one more", PATIENCE)
    first, second = learned(up)[1:]
    assert all(record["stages"]["ppo"]["status"] == "ran" for record in (first, second))  # type: ignore[index]
    assert len(snapshot(up, first)) == BURST + 1
    assert snapshot(up, second) == arrived(up)
    names = [run["state_name"] for run in up.flow_runs()]
    assert names.count("Completed") == 3
    assert set(names) == {"Completed", "Skipped"}
    assert second["created"] >= first["ended"]  # type: ignore[operator]


def test_who_should_know_is_told(up: Up, receiver: Receiver) -> None:
    """By the webhook and by events on Prefect's server, once each."""
    posted = [json.loads(body) for _, body in receiver.got]
    finished = [one["data"]["run"] for one in posted if one["type"] == "plumbline.run.finished"]
    assert finished == [record["id"] for record in learned(up)]
    champions = [(one["data"]["before"], one["data"]["version"]) for one in posted
                 if one["type"] == "plumbline.champion.changed"]
    assert champions == [(None, 1), (1, 2), (2, 3)]
    for name, count in (("plumbline.run.finished", 3), ("plumbline.champion.changed", 3)):
        found = up.call("events/filter", {"filter": {"event": {"name": [name]}}})
        assert isinstance(found, dict)
        assert len(found["events"]) == count


def test_why_a_run_did_not_take_place_can_be_seen(up: Up) -> None:
    skipped = [run["state"] for run in up.flow_runs() if run["state_name"] == "Skipped"]
    assert "nothing new since run" in skipped[-1]["message"]  # type: ignore[index]
    found = json.loads(plumbline(up.root, "status", "--json").stdout)
    assert found["not_run"]["trigger"] == "new preferences"
    assert found["not_run"]["reason"] == skipped[-1]["message"]  # type: ignore[index]
    assert "Last run that did not take place" in plumbline(up.root, "status").stdout


def test_too_little_is_not_enough(up: Up) -> None:
    bring(up.root, 30_000, count=4)
    before = len(up.flow_runs())
    eventually(lambda: len(up.flow_runs()) > before and up.quiet(), "the run that does not take place", 120)
    state = up.flow_runs()[-1]["state"]
    assert state["name"] == "Skipped"  # type: ignore[index]
    assert state["message"].startswith("4 new comparisons since the champion's snapshot")  # type: ignore[index]
    # What a person starts runs all the same.
    done = plumbline(up.root, "run", "--json")
    assert done.returncode == 0, done.stderr
    assert snapshot(up, learned(up)[-1]) == arrived(up)


def test_the_clock_starts_runs(up: Up) -> None:
    before = len(up.flow_runs())
    change_params(up.root, "retrain", cron="* * * * *")
    eventually(lambda: any(run["auto_scheduled"] for run in up.flow_runs()[before:]) and up.quiet(),
               "a run by the clock", PATIENCE)
    run = next(run for run in up.flow_runs() if run["auto_scheduled"])
    assert run["parameters"] == {"request": {"trigger": "schedule"}}
    assert run["state_name"] == "Skipped"
    change_params(up.root, "retrain", cron=None)


def test_a_run_from_the_form_has_its_own_parameters(up: Up) -> None:
    found = up.call("deployments/filter", {"limit": 5})
    assert isinstance(found, list)
    fields = found[0]["parameter_openapi_schema"]["definitions"]["Request"]["properties"]
    assert {"params_file", "settings", "until", "force"} <= set(fields)
    before = len(learned(up))
    up.call(f"deployments/{found[0]['id']}/create_flow_run",
            {"parameters": {"request": {"settings": ["ppo.clip=0.3"], "trigger": "Prefect"}}})
    eventually(lambda: settled(up, before + 1), "the run", PATIENCE)
    assert learned(up)[-1]["settings"] == ["ppo.clip=0.3"]


def test_nothing_was_missed(up: Up) -> None:
    seen = set().union(*(snapshot(up, record) for record in learned(up)))
    assert seen == arrived(up)


def test_data_that_came_while_nothing_was_up_is_learned_from(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    up.stop()
    monkeypatch.delenv("PREFECT_API_URL")
    assert bring(up.root, 40_000).not_announced == "PREFECT_API_URL is not set"
    before = len(learned(up))
    up.start()
    eventually(lambda: settled(up, before + 1), "its run", PATIENCE)
    assert snapshot(up, learned(up)[-1]) == arrived(up)




def test_a_run_that_stopping_cut_short_goes_on_afterwards(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in up.client.items():
        monkeypatch.setenv(name, value)
    bring(up.root, 50_000)
    eventually(lambda: any(record["status"] == "running" and "sft" in record["stages"] for record in up.records()),
               "a run's middle")
    up.stop()
    assert up.said().rstrip().endswith("Stopped.")
    cut = up.records()[-1]
    assert cut["status"] == "cancelled"
    up.start()
    eventually(lambda: up.records()[-1]["id"] != cut["id"] and up.quiet(), "the run that goes on")
    again = up.records()[-1]
    assert again["status"] == "finished"
    assert again["stages"]["sft"]["status"] == "reused"  # type: ignore[index]
    assert snapshot(up, again) == arrived(up)


def test_a_run_that_was_killed_gives_its_place_to_another(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in up.client.items():
        monkeypatch.setenv(name, value)
    bring(up.root, 60_000)
    eventually(lambda: up.records()[-1]["status"] == "running" and "sft" in up.records()[-1]["stages"],  # type: ignore
               "a run's middle")
    killed = up.records()[-1]
    os.kill(int(str(killed["pid"])), signal.SIGKILL)
    eventually(lambda: up.records()[-1]["id"] != killed["id"] and up.quiet(), "the run after it")
    assert {run["state_name"] for run in up.flow_runs()} == {"Completed", "Skipped", "Crashed"}
    by_id = {record["id"]: record["status"] for record in up.records()}
    assert by_id[killed["id"]] == "killed"
    assert up.records()[-1]["status"] == "finished"
    assert snapshot(up, up.records()[-1]) == arrived(up)
