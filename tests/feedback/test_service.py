"""What the server does by itself: verdicts that have settled become a batch, pairs are made when few are left."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from plumbline.feedback import service as service_module
from plumbline.feedback.collect import Uncollected, uncollected
from plumbline.feedback.service import FeedbackService, has_settled
from plumbline.preferences.batches.arrivals import arrivals
from plumbline.project.home import Home
from testing.verdict_makers import pair_number, say, verdict

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def service(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[FeedbackService]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    one = FeedbackService(home)
    yield one
    one.close()


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(("oldest", "newest", "settled"), [(30, 5, False), (300, 5, False), (300, 61, True),
                                                           (901, 1, True), (61, 61, True)])
def test_verdicts_settle_a_minute_after_the_last_one_and_after_a_quarter_of_an_hour_at_the_latest(
        oldest: float, newest: float, settled: bool) -> None:
    assert has_settled(Uncollected(3, ago(oldest), ago(newest), 3), NOW) == settled
    assert not has_settled(Uncollected(0, None, None, 0), NOW)


def test_the_housekeeping_collects_what_has_settled_and_nothing_before(
        service: FeedbackService, monkeypatch: pytest.MonkeyPatch) -> None:
    service.store().add_pairs([pair_number(1)])
    say(service.store(), verdict(pair_number(1)))
    monkeypatch.setattr(service_module, "track_apart", lambda _: None)
    service.look_once()
    assert arrivals(service.home.preferences) == []
    monkeypatch.setattr(service_module, "SETTLED_SECONDS", 0.0)
    service.look_once()
    assert [arrival.batch.rows for arrival in arrivals(service.home.preferences)] == [1]
    assert uncollected(service.store()).count == 0


def test_the_housekeeping_goes_on_after_something_went_wrong(
        service: FeedbackService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    looked: list[str] = []

    def fail(_: object) -> str:
        looked.append("x")
        raise OSError("no disk")

    monkeypatch.setattr(service_module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(service_module, "announce_missed", fail)
    monkeypatch.setattr(service_module, "track_apart", lambda _: looked.append("tracked"))
    service.open()
    deadline = time.monotonic() + 10
    while looked.count("tracked") < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert looked[:6] == ["x", "tracked"] * 3
    assert caplog.text.count("Traceback") == 1, "said once, and not each time"


def test_pairs_and_rankings_are_made_when_few_of_their_own_kind_are_left(
        service: FeedbackService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "want_pairs", lambda: True)
    service.store().add_pairs([pair_number(n) for n in range(11)] + [pair_number(n, answers=3) for n in range(3)])
    assert service.keep_stock(ranking=False)
    assert service.keep_stock(ranking=True)
    service.store().add_pairs([pair_number(11), pair_number(3, answers=3)])
    assert not service.keep_stock(ranking=False)
    assert not service.keep_stock(ranking=True)


@pytest.mark.slow
def test_where_no_pairs_can_be_made_the_reason_is_kept_and_it_is_not_tried_at_once_again(
        service: FeedbackService) -> None:
    assert service.want_pairs()
    deadline = time.monotonic() + 60
    while service.want_pairs() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "plumbline run" in service.problem
    assert not service.want_pairs()
