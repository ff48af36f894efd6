"""A run that an event should have started, and did not, is started once."""

import contextlib
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from plumbline.data.intake import take_in_rows
from plumbline.errors import UserError
from plumbline.project.home import Home
from plumbline.retraining.due import Due
from plumbline.service import flow_runs
from plumbline.service.flow_runs import FlowRun, checkout_tag, require_own_deployment, start_missing
from testing.always_on_project import comparisons
from testing.fake_project import CHECKOUT

HOUR = 3600
NOW = time.time()
REMOVED = Due(0, 100, "1", None, True, "3 rows that run 1 learned from were removed since")
ARRIVED = Due(100, 100, "1", None, True, "100 new comparisons")
NOTHING = Due(0, 100, "1", None, False, "nothing new since run 1")
FIRST = Due(0, 100, None, None, True, "there is no champion yet")


def ended(state: str, hours_ago: float, name: str = "") -> FlowRun:
    when = datetime.fromtimestamp(NOW, UTC) - timedelta(hours=hours_ago)
    return FlowRun("1", state, name or state.title(), when, when, False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A project in which something arrived two hours ago."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / "params.yaml").write_bytes((CHECKOUT / "params.yaml").read_bytes())
    found = Home(tmp_path, tmp_path / ".plumbline")
    take_in_rows(found, comparisons(0, 3), "first")
    file, = found.preferences.arrived.glob("*/batch.json")
    os.utime(file, (NOW - 2 * HOUR, NOW - 2 * HOUR))
    return found


def asked_for(home: Home, monkeypatch: pytest.MonkeyPatch, found: Due, *runs: FlowRun) -> int:
    """The number of runs that are started; `runs` are those that Prefect knows."""
    started: list[Mapping[str, object]] = []

    def call(path: str, content: Mapping[str, object]) -> object:
        if path == "deployments/filter":
            return [{"id": "always-on"}]
        started.append(content)
        return {}

    monkeypatch.setattr(flow_runs, "due", lambda _: found)
    monkeypatch.setattr(flow_runs, "call", call)
    monkeypatch.setattr(flow_runs, "flow_runs", lambda states: [run for run in runs if run.state in states])
    said = start_missing(home, 60.0)
    assert len(said) == len(started) and all(found.why in line for line in said)
    return len(started)


@pytest.mark.parametrize(("found", "started"), [(ARRIVED, 1), (REMOVED, 1), (NOTHING, 0), (FIRST, 1)])
def test_what_arrived_gets_its_run_whether_it_brought_rows_or_took_them_away(
        home: Home, monkeypatch: pytest.MonkeyPatch, found: Due, started: int) -> None:
    assert asked_for(home, monkeypatch, found) == started
    assert asked_for(home, monkeypatch, found, ended("COMPLETED", 3)) == started, "it did not know of the arrival"


@pytest.mark.parametrize("found", [ARRIVED, REMOVED])
@pytest.mark.parametrize(("run", "started"), [
    (ended("COMPLETED", 1), 0), (ended("FAILED", 1), 0), (ended("CANCELLED", 1), 0), (ended("CRASHED", 1), 1),
    (ended("COMPLETED", 1, "Skipped"), 1), (ended("RUNNING", 1), 0), (ended("SCHEDULED", 0), 0)])
def test_a_run_since_then_is_not_repeated_unless_it_was_killed(home: Home, monkeypatch: pytest.MonkeyPatch, found: Due,
                                                               run: FlowRun, started: int) -> None:
    assert asked_for(home, monkeypatch, found, run) == started


@pytest.mark.parametrize(("tags", "refused"), [
    (None, False), ([], False), (["mine", "checkout"], False), (["checkout:0123456789abcdef:/here"], False),
    (["mine", "checkout:fedcba9876543210:/srv/other:2"], True)])
def test_the_deployment_of_another_checkout_is_left_to_it(home: Home, monkeypatch: pytest.MonkeyPatch,
                                                          tags: list[str] | None, refused: bool) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect/api")
    monkeypatch.setattr(flow_runs, "call", lambda *_: [] if tags is None else [{"id": "1", "tags": tags}])
    (home.folder / "checkout").write_text("0123456789abcdef")
    with pytest.raises(UserError, match=r"http://prefect/api has the deployment retrain/always-on of another checkout, "
                                        r"/srv/other:2, .* own: unset PREFECT_API_URL"
                       ) if refused else contextlib.nullcontext():
        require_own_deployment(home)


def test_the_tag_of_a_checkout_stays(home: Home, tmp_path: Path) -> None:
    (home.folder / "checkout").unlink(missing_ok=True)
    tag = checkout_tag(home)
    begins, mark, root = tag.split(":", 2)
    assert (begins, len(mark), root) == ("checkout", 16, str(home.root))
    assert checkout_tag(home) == tag
    moved = Home(tmp_path / "moved", home.folder)
    assert checkout_tag(moved) == f"checkout:{mark}:{tmp_path}/moved"


def test_where_nothing_ever_arrived_no_event_was_lost(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    file, = home.preferences.arrived.glob("*/batch.json")
    file.unlink()
    for found in (FIRST, REMOVED):
        assert asked_for(home, monkeypatch, found) == 0
