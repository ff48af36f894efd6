"""Charts: every value finds its place, every text is escaped, and each says in words what it shows."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from plumbline.web.drawing.charts import Bar, Series, Span, intervals, lines, timeline
from testing.hostile import TEXTS, active_in

FLOATS = st.floats(allow_nan=True, allow_infinity=True)


def parsed(chart: Markup) -> ElementTree.Element:
    """The chart as XML, which it must be."""
    return ElementTree.fromstring(f"<div>{chart}</div>")


def shares(chart: Markup) -> list[float]:
    return [float(value) for value in re.findall(r'"(-?[0-9.]+)%"', str(chart))]


@given(st.lists(st.tuples(FLOATS, FLOATS), max_size=30), st.floats(-1e6, 1e6))
def test_lines_stay_inside_their_frame(points: list[tuple[float, float]], reference: float) -> None:
    chart = lines([Series("loss", points)], "Loss", "step", reference)
    parsed(chart)
    assert all(0 <= share <= 100 for share in shares(chart))
    assert "nan" not in str(chart).lower().replace("–", "")


def test_a_line_says_where_it_begins_and_ends() -> None:
    both = [Series("KL", [(1, 0.0), (2, 1.5), (3, 4.25)]), Series("limit", [(1, 5.0), (3, 5.0)])]
    chart = lines(both, "KL", "update")
    assert 'aria-label="KL: KL from 0 to 4.25; limit from 5 to 5"' in chart
    assert "<title>KL 1.5 at update 2</title>" in chart
    assert str(chart).count("<li ") == 2  # a legend, as there are two


def test_a_gap_is_a_gap() -> None:
    chart = lines([Series("loss", [(1, 1.0), (2, math.nan), (3, 2.0), (4, 3.0)])], "Loss")
    path = re.findall(r' d="([^"]*)"', str(chart))[0]
    assert path.count("M") == 2


def test_nothing_recorded_is_said() -> None:
    assert "nothing was recorded" in lines([Series("loss", [])], "Loss")
    assert intervals([], "x") == ""


def test_a_long_line_is_thinned_and_keeps_its_end() -> None:
    chart = str(lines([Series("loss", [(float(i), float(i)) for i in range(100_000)])], "Loss"))
    assert len(chart) < 60_000
    assert "1000.0 0.0" in chart


def test_a_win_rate_carries_its_interval_and_its_number() -> None:
    chart = str(intervals([Bar("against SFT", 0.588, 0.521, 0.653, "n = 193"), Bar("alone", 0.5)], "Win rates"))
    assert "0.588 [0.521, 0.653], n = 193" in chart
    assert "<title>0.500</title>" in chart  # the line that matters
    assert 'x1="52.10%" x2="65.30%"' in chart


def test_a_time_line_shows_what_ran_and_what_was_reused() -> None:
    chart = timeline([Span("base", 0, 0, "reused"), Span("sft", 0, 90, "ran", "90 s"), Span("ppo", 90, 120, "running")],
                     "Stages")
    found = parsed(chart)
    classes = [one.get("class") for one in found.iter("rect")]
    assert classes == ["span span-reused", "span span-ran", "span span-running"]
    assert ticks(chart) == ["0", "0.5 min", "1 min", "1.5 min", "2 min"]
    assert all(0 <= share <= 100 for share in shares(chart))


def ticks(chart: Markup) -> list[str | None]:
    return [text.text for text in parsed(chart).iter("text") if text.get("class") == "tick"]


@pytest.mark.parametrize(("end", "last", "most"), [(0.05, "0", 1), (0.35, "0.3 s", 5), (6.1, "6 s", 5), (95, "90 s", 5),
                                                   (200, "3 min", 5), (5000, "60 min", 5), (90_000, "20 h", 5),
                                                   (1e7, "2000 h", 5)])
def test_a_time_line_has_round_times(end: float, last: str, most: int) -> None:
    found = ticks(timeline([Span("base", 0, end, "ran")], "Stages"))
    assert found[-1] == last
    assert 1 <= len(found) <= most


@pytest.mark.parametrize("text", TEXTS)
def test_hostile_names_stay_text(text: str) -> None:
    charts = [lines([Series(text, [(1, 1), (2, 2)]), Series("b", [(1, 1)])], text, text, at=(1.5, text)),
              intervals([Bar(text, 0.5, 0.4, 0.6, text)], text), timeline([Span(text, 0, 1, "ran", text)], text)]
    for chart in charts:
        assert not active_in(str(chart))
