"""When the clock starts the next run: what Prefect makes of `retrain.cron`, because Prefect's server starts
the runs.

No other reader of cron is used here: each treats names, `L` and the days on which clocks change in its own
way. Importing Prefect takes a second, so its answer is kept in the home for as long as it holds.
"""

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.config import RetrainParams
from plumbline.errors import UserError
from plumbline.project.home import Home
from plumbline.whole_file import write_whole

if TYPE_CHECKING:
    from prefect.server.schemas.schedules import CronSchedule

FILE = "clock.json"
KEPT = 100
"""Times that are worked out at once."""
NEVER = datetime.max.replace(tzinfo=UTC)


def next_scheduled(home: Home, retrain: RetrainParams, now: datetime | None = None) -> str | None:
    """Return the first scheduled time after `now`, as ISO 8601 with the zone's offset; None without a
    schedule.

    Raises UserError for a cron text that Prefect refuses, and for a day that never comes.
    """
    if retrain.cron is None:
        return None
    now = now or datetime.now(UTC)
    asked = [retrain.cron, retrain.timezone, metadata.version("prefect")]
    since, times = _kept(home.folder / FILE, asked)
    following = [one for one in times if one > now]
    if not following or now < since:
        following = _ask_prefect(retrain, now)
        _keep(home.folder / FILE, asked, now, following)
    return following[0].isoformat(timespec="minutes")


def check_clock(retrain: RetrainParams) -> None:
    """Raise UserError where Prefect would never start a run by `retrain.cron`."""
    if retrain.cron is not None:
        _ask_prefect(retrain, datetime.now(UTC))


def _ask_prefect(retrain: RetrainParams, now: datetime) -> list[datetime]:
    from prefect.server.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    assert retrain.cron is not None
    try:
        schedule = CronSchedule(cron=retrain.cron, timezone=retrain.timezone)
    except ValidationError:
        raise UserError(f"`retrain.cron` is {retrain.cron!r}, which Prefect, who would run by it, does not "
                        "take: expected minute, hour, day of the month, month, day of the week, such as `0 3 "
                        "* * *` for 3 o'clock every night. Change it in params.yaml; null never runs by the "
                        "clock.") from None
    try:
        return _times(schedule, now)
    except ValueError:  # it gives up looking after some decades
        raise UserError(f"`retrain.cron` is {retrain.cron!r}, a time that never comes. Change it in "
                        "params.yaml; null never runs by the clock.") from None


def _times(schedule: "CronSchedule", now: datetime) -> list[datetime]:
    import asyncio

    # In a thread of its own: where this is called from a flow, an event loop may be running already.
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(asyncio.run, schedule.get_dates(KEPT, now)).result()
    return [one for one in found if one > now]


def _kept(file: Path, asked: list[str]) -> tuple[datetime, list[datetime]]:
    """Return when the kept times were worked out, and the times; NEVER and none without them."""
    try:
        return _read(file, tuple(asked), file.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: Prefect is asked again
        return NEVER, []


@lru_cache(maxsize=4)
def _read(file: Path, asked: tuple[str, ...], _when: int) -> tuple[datetime, list[datetime]]:
    values = json.loads(file.read_text(encoding="utf-8"))
    if values["asked"] != list(asked):
        return NEVER, []
    return datetime.fromisoformat(values["since"]), [datetime.fromisoformat(one) for one in values["times"]]


def _keep(file: Path, asked: list[str], since: datetime, times: list[datetime]) -> None:
    values = {"asked": asked, "since": since.isoformat(), "times": [one.isoformat() for one in times]}
    with contextlib.suppress(OSError):  # it is asked again next time
        write_whole(file, json.dumps(values) + "\n")
