"""Times, durations, numbers and digests as a person reads them; the filters of the templates."""

import math
from collections.abc import Callable
from datetime import UTC, datetime

from markupsafe import Markup

NOTHING = "–"


def parsed(when: str) -> datetime:
    """Parse a recorded time; one without a zone is UTC."""
    time = datetime.fromisoformat(when)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def ago(when: str, now: datetime | None = None) -> str:
    """Return `just now`, `5 min ago`, `3 h ago`, `2 days ago`, or the day if it is longer ago than a
    month.
    """
    time = parsed(when)
    seconds = ((now or datetime.now(UTC)) - time).total_seconds()
    if seconds < 60:
        return "just now"
    for unit, length, most in (("min", 60, 60), ("h", 3600, 24), ("day", 86400, 31)):
        count = int(seconds // length)
        if count < most:
            return f"{count} {unit}{'s' if unit == 'day' and count > 1 else ''} ago"
    return f"{time.day} {time:%b %Y}"


def moment(when: str | None) -> Markup | str:
    """Return a time element that says how long ago, with the exact time as its tooltip."""
    if not when:
        return NOTHING
    return Markup('<time datetime="{}" title="{}">{}</time>').format(when, clock(when), ago(when))


def clock(when: str) -> str:
    """Return the exact time: `21 Nov 2026, 11:04 UTC`."""
    time = parsed(when).astimezone(UTC)
    return f"{time.day} {time:%b %Y, %H:%M} UTC"


def duration(seconds: float | None) -> str:
    """Return `0.4 s`, `12 s`, `3 min 10 s`, `2 h 5 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def number(value: float | None) -> str:
    """Return three significant digits, thousands separated: `0.588`, `1,204`, `12.3`, `4.1e-06`."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if abs(value) >= 1e15:
        return f"{value:.3g}"
    if value == int(value):
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 0.001 or abs(value) >= 1 else f"{value:.3f}"


def rate(value: float) -> str:
    """Return a share of one with three decimals."""
    return f"{value:.3f}"


def short(digest: str | None) -> str:
    """Return the first eight digits of a digest or a commit."""
    return digest[:8] if digest else NOTHING


def title(name: str) -> str:
    """Return a stage or a metric as words: `reward_model` -> `reward model`."""
    return name.replace("_", " ").replace("@", " ")


FILTERS: dict[str, Callable[..., str]] = {"ago": ago, "moment": moment, "clock": clock, "duration": duration,
                                          "number": number, "rate": rate,
                                          "short": short, "words": title}
