"""Times, durations and numbers as a person reads them."""

import math
from datetime import UTC, datetime

import pytest

from plumbline.web.drawing.words import NOTHING, ago, clock, duration, moment, number, short
from plumbline.web.site import url

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(("when", "text"), [
    ("2026-11-21T11:59:30+00:00", "just now"), ("2026-11-21T11:55:00+00:00", "5 min ago"),
    ("2026-11-21T09:00:00", "3 h ago"), ("2026-11-20T09:00:00+00:00", "1 day ago"),
    ("2026-11-10T09:00:00+00:00", "11 days ago"), ("2026-01-02T09:00:00+00:00", "2 Jan 2026"),
    ("2026-11-21T12:00:05+00:00", "just now")])
def test_ago(when: str, text: str) -> None:
    assert ago(when, NOW) == text


def test_a_moment_has_the_exact_time_as_its_tooltip() -> None:
    assert 'title="21 Nov 2026, 11:00 UTC"' in moment("2026-11-21T12:00:00+01:00")
    assert moment(None) == NOTHING
    assert clock("2026-11-22T03:00+00:00") == "22 Nov 2026, 03:00 UTC"


@pytest.mark.parametrize(("seconds", "text"), [(0.24, "0.2 s"), (9.97, "10 s"), (59.4, "59 s"), (190, "3 min 10 s"),
                                               (7500, "2 h 5 min"), (None, NOTHING)])
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [
    (0.5881, "0.588"), (1204, "1,204"), (12.345, "12.3"), (0.0000041, "4.1e-06"), (123456.7, "123,457"),
    (-0.25, "-0.250"), (0, "0"), (math.nan, NOTHING), (math.inf, NOTHING), (None, NOTHING), (1e300, "1e+300")])
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_short() -> None:
    assert (short("0123456789"), short(None)) == ("01234567", NOTHING)


@pytest.mark.parametrize(("parts", "query", "address"), [
    (("runs", "a b"), {}, "/runs/a%20b"), (("runs", "../../etc"), {}, "/runs/..%2F..%2Fetc"),
    (("runs", "//example.org"), {}, "/runs/%2F%2Fexample.org"), (("runs", "x?y#z"), {}, "/runs/x%3Fy%23z"),
    (("runs",), {"q": "a&b=c", "page": None}, "/runs?q=a%26b%3Dc"), ((), {}, "/"),
    (("data", "diff"), {"from_": "a", "depth": 2}, "/data/diff?from=a&depth=2")])
def test_addresses_are_quoted(parts: tuple[str, ...], query: dict[str, object], address: str) -> None:
    assert url(*parts, **query) == address
