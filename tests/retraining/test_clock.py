"""What is shown as the clock's next time, and what is accepted, is what Prefect's server does with it."""

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from prefect.server.schemas.schedules import CronSchedule

from flows.deployments import deployments
from plumbline.config import RetrainParams, load_params
from plumbline.errors import UserError
from plumbline.project.home import Home
from plumbline.retraining.clock import FILE, check_clock, next_scheduled
from testing.fake_project import CHECKOUT, environment

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
FIVE_FIELDS = ("0 0 3 * * *", "0 30 2 * * MON", "* * * *", "every night", "@daily", "", "0 3 * * * * *")
NOT_PREFECTS = ("0 3 LW * *", "0 3 15W * *", "5L * * * *", "0 3 * * 5L", "H 3 * * *", "R 3 * * *", "0 25 * * *",
                "60 3 * * *", "0 3 * * someday", "0-10/0 3 * * *", "a b c d e")


def clock(cron: str | None, zone: str = "UTC") -> RetrainParams:
    return load_params(CHECKOUT).retrain.model_copy(update={"cron": cron, "timezone": zone})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / ".plumbline").mkdir()
    return Home(tmp_path, tmp_path / ".plumbline")


@pytest.mark.parametrize(("cron", "zone", "expected"), [
    ("0 3 * * *", "UTC", "2026-11-22T03:00+00:00"),
    ("0 3 * * *", "Europe/Berlin", "2026-11-22T03:00+01:00"),
    ("30 23 * * 0", "America/New_York", "2026-11-22T23:30-05:00"),
    ("0 3 1 * 1", "UTC", "2026-11-23T03:00+00:00"),  # the first of the month, and each Monday
    ("0 3 * * MON-FRI", "UTC", "2026-11-23T03:00+00:00"),
    ("0 3 L * *", "UTC", "2026-11-30T03:00+00:00"),
    ("0 3 * jan *", "UTC", "2027-01-01T03:00+00:00"),
    ("0 0 29 2 *", "UTC", "2028-02-29T00:00+00:00"),
    (None, "UTC", None),
])
def test_the_next_time(home: Home, cron: str | None, zone: str, expected: str | None) -> None:
    assert next_scheduled(home, clock(cron, zone), NOON) == expected
    assert next_scheduled(home, clock(cron, zone), NOON) == expected  # from what is kept


def test_a_time_is_next_until_it_has_come(home: Home) -> None:
    three = datetime(2026, 11, 22, 3, tzinfo=UTC)
    seen = [next_scheduled(home, clock("0 3 * * *"), three + timedelta(seconds=off)) for off in (-1, 0, 1)]
    assert seen == ["2026-11-22T03:00+00:00", "2026-11-23T03:00+00:00", "2026-11-23T03:00+00:00"]


@pytest.mark.parametrize("begin", [datetime(2027, 3, 27, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)],
                         ids=["spring", "autumn"])
@pytest.mark.parametrize(("cron", "zone"), [("30 2 * * *", "Europe/Berlin"), ("15 1,2,3 * * *", "Europe/Berlin"),
                                            ("0 3 1 * 1", "Europe/Berlin"), ("30 2 * * *", "Europe/London")])
def test_where_the_clocks_change_it_is_shown_as_prefect_schedules_it(home: Home, cron: str, zone: str,
                                                                     begin: datetime) -> None:
    scheduled = asyncio.run(CronSchedule(cron=cron, timezone=zone).get_dates(8, begin))
    shown, now = [], begin
    while len(shown) < 8:
        text = next_scheduled(home, clock(cron, zone), now)
        assert text is not None
        shown.append(now := datetime.fromisoformat(text))
    assert [one.astimezone(UTC) for one in shown] == [one.astimezone(UTC) for one in scheduled]
    assert all(later > earlier for earlier, later in pairwise(shown))


def test_in_autumn_half_past_two_comes_once(home: Home) -> None:
    berlin, now, nights = ZoneInfo("Europe/Berlin"), datetime(2026, 10, 24, 12, tzinfo=UTC), []
    for _ in range(2):
        text = next_scheduled(home, clock("30 2 * * *", "Europe/Berlin"), now)
        assert text is not None
        now = datetime.fromisoformat(text)
        nights.append(now.astimezone(berlin).strftime("%m-%d %H:%M %z"))
    assert nights == ["10-25 02:30 +0200", "10-26 02:30 +0100"]


@pytest.mark.parametrize("cron", FIVE_FIELDS)
def test_other_than_five_fields_are_no_parameter(cron: str) -> None:
    with pytest.raises(UserError, match=r"`retrain.cron` is .* must be five fields of cron"):
        load_params(CHECKOUT, settings=[f"retrain.cron={json.dumps(cron)}"])


@pytest.mark.parametrize("cron", NOT_PREFECTS)
def test_what_prefect_does_not_take_is_refused_wherever_it_is_used(home: Home, cron: str) -> None:
    params = load_params(CHECKOUT, settings=[f"retrain.cron={json.dumps(cron)}"])
    for use in (lambda: next_scheduled(home, params.retrain), lambda: check_clock(params.retrain),
                lambda: deployments(params)):
        with pytest.raises(UserError, match=r"`retrain.cron` is .*Prefect.* does not take") as caught:
            use()
        assert "\n" not in str(caught.value)
    assert not (home.folder / FILE).exists()


def test_a_day_that_never_comes_is_refused(home: Home) -> None:
    with pytest.raises(UserError, match="a time that never comes"):
        next_scheduled(home, clock("0 3 31 2 *"))


@pytest.mark.parametrize("spoil", [b"", b'{"asked": [', b"\xff\xfe", b"[]", b'{"asked": null, "times": 3}'])
def test_what_is_kept_is_made_again_where_it_is_damaged(home: Home, spoil: bytes) -> None:
    next_scheduled(home, clock("0 3 * * *"), NOON)
    (home.folder / FILE).write_bytes(spoil)
    assert next_scheduled(home, clock("0 3 * * *"), NOON) == "2026-11-22T03:00+00:00"
    assert json.loads((home.folder / FILE).read_text())["asked"][0] == "0 3 * * *"


def test_what_is_kept_ends_with_the_schedule_and_when_the_time_goes_back(home: Home) -> None:
    assert next_scheduled(home, clock("0 3 * * *"), NOON) == "2026-11-22T03:00+00:00"
    assert next_scheduled(home, clock("0 4 * * *"), NOON) == "2026-11-22T04:00+00:00"
    assert next_scheduled(home, clock("0 4 * * *"), NOON - timedelta(days=9)) == "2026-11-13T04:00+00:00"
    assert next_scheduled(home, clock("0 4 * * *"), NOON + timedelta(days=999)) == "2029-08-17T04:00+00:00"


def test_a_kept_answer_needs_no_prefect(home: Home) -> None:
    """`plumbline status` asks each time, and importing Prefect takes a second."""
    next_scheduled(home, clock("0 3 * * *"))
    program = ("import sys; from pathlib import Path; from plumbline.config import load_params; "
               "from plumbline.project.home import Home; from plumbline.retraining.clock import next_scheduled; "
               "root = Path(sys.argv[1]); retrain = load_params(Path(sys.argv[2])).retrain; "
               "print(next_scheduled(Home(root, root / '.plumbline'), retrain), 'prefect' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", program, str(home.root), str(CHECKOUT)], text=True, cwd=CHECKOUT,
                          env=environment(PYTHONPATH=str(CHECKOUT)), capture_output=True, check=True)
    assert done.stdout.split() == [next_scheduled(home, clock("0 3 * * *")), "False"]
