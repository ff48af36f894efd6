"""What is announced: another champion, and a version that awaits a person's approval, each once; how runs ended."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.project.home import Home
from plumbline.project.run_record import RunRecord, read_record
from plumbline.runs import announce
from plumbline.runs.announce import champion_changed, run_ended
from plumbline.runs.not_run import could_not_start, not_run
from plumbline.runs.pipeline import _end
from plumbline.runs.run_files import recorded
from plumbline.runs.workspace import Request
from plumbline.tracking.recording import Recording
from plumbline.tracking.registry import Registry
from testing.fake_project import CHECKOUT
from testing.servers import free_port

Told = list[tuple[str, object, object]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """The events that were sent, with the version now and the one before."""
    found: Told = []

    def note(_home: Home, _webhook: str | None, event: str, _resource: str, payload: Mapping[str, object]) -> None:
        found.append((event, payload["version"], payload["before"]))

    monkeypatch.setattr(announce, "notify", note)
    return found


@pytest.mark.parametrize("server", [False, True])
def test_each_is_announced_once(recording_home: Home, told: Told, monkeypatch: pytest.MonkeyPatch,
                                server: bool) -> None:
    registry = Registry.open(recording_home, "policy")
    for md5 in ("a.dir", "b.dir"):
        run = Recording(recording_home, "ppo", {})
        registry.register(md5, run.model("policy", {"dvc.md5": md5}), run.run_id, None, {})
    if server:  # which answers as this store does, and keeps the files of runs elsewhere
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org")
        monkeypatch.setattr(Registry, "open", lambda *_: registry)
    else:
        recording_home.artifacts.mkdir(parents=True)

    registry.make_champion(1, "better", "run 1")
    registry.make_awaiting(2, "better", "run 2")
    champion_changed(recording_home, "policy", None)
    champion_changed(recording_home, "policy", None)
    assert told == [("plumbline.champion.changed", 1, None), ("plumbline.approval.awaited", 2, None)]

    registry.make_champion(2, "read it", "Ada")  # nothing awaits now, which is no news of its own
    champion_changed(recording_home, "policy", None)
    assert told[2:] == [("plumbline.champion.changed", 2, 1)]

    registry.make_awaiting(1, "better after all", "run 3")
    champion_changed(recording_home, "policy", None)
    assert told[3:] == [("plumbline.approval.awaited", 1, None)]


def test_before_the_first_run_nothing_is_announced_and_no_store_is_missed(home: Home, told: Told) -> None:
    champion_changed(home, "policy", None)
    assert told == []


def test_the_end_of_a_run_says_what_went_wrong_with_its_trainings(
        home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a run whose workspace cannot be read is announced, too."""
    payloads: list[Mapping[str, object]] = []
    monkeypatch.setattr(announce, "notify", lambda *given: payloads.append(given[-1]))
    (tmp_path / "models/sft").mkdir(parents=True)
    (tmp_path / "models/sft/curves.jsonl").write_text("".join(
        json.dumps({"what": "", "step": step, "loss": 1.0 + step}) + "\n" for step in range(20)))
    record = SimpleNamespace(id="one", status="finished", message=None, trigger="", host="", stages={})
    params = SimpleNamespace(retrain=SimpleNamespace(webhook=None), promote=SimpleNamespace(model_name="policy"))
    workspace = SimpleNamespace(home=home, folder=tmp_path, record=record, params=params)
    run_ended(workspace, None)  # type: ignore[arg-type]
    (tmp_path / "dvc.yaml").write_text("stages: {sft: {cmd: none, outs: [models/sft/curves.jsonl, "
                                       "models/sft/receipt.json]}}")
    run_ended(workspace, None)  # type: ignore[arg-type]
    assert payloads[0]["diagnosis"] == {}
    assert payloads[1]["diagnosis"] == {"sft": ["loss does not fall: The loss is 2 at steps 0 to 2, and 18.5 at "
                                                "steps 16 to 19."]}


SAID = "MLflow at http://ann:open-sesame@host/ said no."
SHOWN = "MLflow at http://***@host/ said no."


def test_a_run_that_could_not_start_is_told_without_passwords(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    payloads: list[Mapping[str, object]] = []
    monkeypatch.setattr("plumbline.runs.not_run.notify", lambda *given: payloads.append(given[-1]))
    monkeypatch.setattr("plumbline.runs.not_run.load_params", lambda _: load_params(CHECKOUT))
    could_not_start(home, Request(trigger="schedule"), UserError(SAID))
    assert [one.reason for one in not_run(home)] == [payloads[0]["message"]] == [SHOWN]


def test_how_a_run_ended_is_recorded_without_passwords(home: Home, tmp_path: Path) -> None:
    record = RunRecord(id="20260101-000000-abcdef", created="", project="", pid=1, host="")
    parent = SimpleNamespace(tags=lambda _: None, file=lambda *_: None, end=lambda _: None)
    workspace = SimpleNamespace(home=home, folder=tmp_path, record=record)
    _end(workspace, parent, "failed", SAID)  # type: ignore[arg-type]
    assert read_record(tmp_path).message == SHOWN
    _end(workspace, parent, "finished", None)  # type: ignore[arg-type]
    assert read_record(tmp_path).message is None


def test_a_store_that_cannot_be_read_is_named_without_its_password(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:open-sesame@127.0.0.1:{port}")
    with pytest.raises(UserError, match=rf"MLflow at http://\*\*\*@127.0.0.1:{port}") as refused, \
            recorded(home, "2026"):
        pass
    assert "open-sesame" not in str(refused.value)
