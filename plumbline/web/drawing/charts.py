"""Charts as SVG, made on the server: no script, no style attributes, readable by a screen reader.

Positions across are percentages, so that a chart fills any width while its text and strokes keep their size.
Every text is escaped; the look is in `static/style.css` under "charts". `label` says in words what the chart
shows: it is the text alternative, to which each function adds the figures that matter.

    lines([Series("KL", [(1, 0.0), (2, 0.3)])], "KL to the reference", x="update")
    intervals([Bar("against SFT", 0.59, 0.52, 0.65, "n = 193")], "Win rates")
    timeline([Span("sft", 0, 117, "ran", "117 s")], "Stages of the run")
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from plumbline.web.drawing.words import number

COLOURS = 5
"""Classes `series-1` to `series-5` in style.css; more series repeat them with dashes."""
LINES_HEIGHT = 200
SPAN_HEIGHT = 26
MOST_POINTS = 300
"""A line with more points is thinned: a screen shows no more."""
MOST_DOTS = 60
TIME_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 240, 480, 1000, 2000, 5000, math.inf)
GRID_LINES = 4
LARGEST = 1e100
"""What diverged beyond that is a gap."""

Point = tuple[float, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Series:
    """One line; a value that is not finite is a gap."""

    name: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()
    """Where it is uncertain: (x, low, high)."""


@dataclass(frozen=True)
class Bar:
    """A value with its interval, where it has one."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    """Such as `n = 193`."""


@dataclass(frozen=True)
class Span:
    """A piece of time, in seconds from the beginning; a reused one is drawn hollow."""

    label: str
    start: float
    end: float
    status: str
    """ran, reused, failed, running or waiting."""
    note: str = ""


def lines(series: Sequence[Series], label: str, x: str = "", reference: float | None = None,
          at: tuple[float, str] | None = None) -> Markup:
    """Draw lines over a common pair of axes, with a legend if there are several.

    `x` names what runs across, `reference` is a dashed line at that height, `at` a place across with its
    name.
    """
    known = [(one, [point for point in one.points if all(map(_drawable, point))]) for one in series]
    known = [(one, points) for one, points in known if points]
    if not known:
        return Markup('<p class="nothing">{}</p>').format(f"{label}: nothing was recorded.")
    across, down, ticks = _axes(known, reference)
    xs = sorted(point[0] for _, points in known for point in points)
    marks = [*_y_ticks(ticks, down)] + [_x_tick(value, across) for value in sorted({xs[0], xs[-1]})]
    marks += [] if reference is None else [_rule(down(reference), "reference")]
    marks += [] if at is None or not xs[0] <= at[0] <= xs[-1] else [_place(across(at[0]), at[1])]
    for i, (one, points) in enumerate(known):
        marks += [_band(one, across, down, i), _path(_gaps(one.points), across, down, _series_class(i)),
                  _dots(one.name, points, across, down, i, x)]
    if x:
        name = Markup('<text class="axis" x="50%" y="{}" text-anchor="middle">{}</text>')
        marks.append(name.format(LINES_HEIGHT + 18, x))
    text = "; ".join(f"{one.name} from {number(points[0][1])} to "
                     f"{number(points[-1][1])}" for one, points in known)
    plot = _svg("plot", LINES_HEIGHT, f"{label}: {text}", Markup("").join(marks))
    return _figure("lines", label, plot, [one.name for one, _ in known])


def intervals(bars: Sequence[Bar], label: str, reference: float | None = 0.5, low: float = 0.0,
              high: float = 1.0) -> Markup:
    """Draw values, if any, with their intervals on a scale from `low` to `high`, with a line at `reference`.
    """
    if not bars:
        return Markup("")
    across = _scale(low, high)
    rows = Markup("").join(_interval_row(bar, across, reference) for bar in bars)
    return Markup('<ul class="chart intervals" aria-label="{}">{}</ul>').format(label, rows)


def timeline(spans: Sequence[Span], label: str) -> Markup:
    """Draw spans below each other, on one axis from zero to the last end."""
    end = max((span.end for span in spans), default=0.0) or 1.0
    across = _scale(0.0, end)
    rows = [_span_row(span, i * SPAN_HEIGHT, across) for i, span in enumerate(spans)]
    height = SPAN_HEIGHT * len(spans)
    tick = Markup('<line class="grid" x1="{0}" x2="{0}" y1="0" y2="{1}"/><text class="tick" x="{0}" y="{2}" '
                  'text-anchor="{3}">{4}</text>')
    grid = [tick.format(_percent(across(at)), height, height + 16, "middle" if at else "start", text)
            for at, text in _time_ticks(end)]
    text = "; ".join(f"{span.label} {span.status} {span.note}".strip() for span in spans)
    plot = _svg("plot", height, f"{label}: {text}", Markup("").join([*grid, *rows]))
    return Markup('<div class="chart timeline">{}</div>').format(plot)


def _svg(kind: str, height: float, text: str, inside: Markup) -> Markup:
    svg = Markup('<svg class="chart-{}" role="img" aria-label="{}" width="100%" height="{:g}">{}</svg>')
    return svg.format(kind, text, height, inside)


def _figure(kind: str, caption: str, plot: Markup, names: Sequence[str]) -> Markup:
    legend = Markup("")
    if len(names) > 1:
        item = Markup('<li class="{}">{}</li>')
        items = (item.format(_series_class(i), name) for i, name in enumerate(names))
        legend = Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))
    return Markup('<figure class="chart {}"><figcaption>{}</figcaption>{}'
                  '<div class="plot">{}</div></figure>').format(kind, caption, legend, plot)


def _series_class(i: int) -> str:
    return f"series-{i % COLOURS + 1}" + (" dashed" if i >= COLOURS else "")


def _path(points: Sequence[Point], across: "Scale", down: "Scale", kind: str) -> Markup:
    """Draw a line in a box of 1,000 by 1,000 that is stretched to the chart; its stroke is not."""
    parts, pen = [], "M"
    for x, y in _thinned(points):
        if not _drawable(y):
            pen = "M"
            continue
        parts.append(f"{pen}{1000 * across(x):.1f} {1000 * down(y):.1f}")
        pen = "L"
    return _stretched(Markup('<path class="line {}" d="{}"/>').format(kind, " ".join(parts)))


def _stretched(inside: Markup) -> Markup:
    return Markup('<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" width="100%" height="100%">'
                  '{}</svg>').format(inside)


def _axes(known: Sequence[tuple[Series, Sequence[Point]]],
          reference: float | None) -> "tuple[Scale, Scale, list[float]]":
    """Return the scales across and down, and the ticks of the scale down."""
    xs = [point[0] for _, points in known for point in points]
    ys = [point[1] for _, points in known for point in points] + ([] if reference is None else [reference])
    ys += [y for one, _ in known for _, *interval in one.band for y in interval if _drawable(y)]
    low, high = _bounds(ys)
    ticks = _ticks(low, high)
    return _scale(min(xs), max(xs)), _scale(min(low, ticks[0]), max(high, ticks[-1]), flip=True), ticks


def _band(series: Series, across: "Scale", down: "Scale", i: int) -> Markup:
    """Draw the area between low and high."""
    known = _thinned([point for point in series.band if all(map(_drawable, point))])
    if len(known) < 2:
        return Markup("")
    upper = [f"{1000 * across(x):.1f} {1000 * down(high):.1f}" for x, _, high in known]
    lower = [f"{1000 * across(x):.1f} {1000 * down(low):.1f}" for x, low, _ in reversed(known)]
    outline = "L".join(upper + lower)
    return _stretched(Markup('<path class="band {}" d="M{}z"/>').format(_series_class(i), outline))


def _place(share: float, name: str) -> Markup:
    return Markup('<line class="place" x1="{0}" x2="{0}" y1="0" y2="100%"><title>{1}</title></line>'
                  '<text class="tick" x="{0}" y="-4" text-anchor="{2}">{1}</text>').format(
        _percent(share), name, _anchor(share, 0.4))


def _anchor(share: float, edge: float) -> str:
    """Return where a text is held so that it stays in the picture: at its start near the left edge."""
    if share < edge:
        return "start"
    return "end" if share > 1 - edge else "middle"


def _dots(name: str, points: Sequence[Point], across: "Scale", down: "Scale", i: int, unit: str) -> Markup:
    """Draw points with their figures as tooltips; of more than MOST_DOTS only some, which appear under the
    pointer.
    """
    kind = "dot" if len(points) <= 30 else "dot faint"
    return Markup("").join(
        Markup('<circle class="{} {}" cx="{}" cy="{}" r="3"><title>{}</title></circle>').format(
            kind, _series_class(i), _percent(across(x)), _percent(down(y)),
            f"{name} {number(y)} at {unit} {number(x)}".replace("  ", " "))
        for x, y in _thinned(points, MOST_DOTS))


def _thinned(points: Sequence[T], most: int = MOST_POINTS) -> list[T]:
    """Return at most `most` evenly chosen points, among them the last."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _gaps(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if _drawable(x)]


def _y_ticks(ticks: Sequence[float], down: "Scale") -> Iterator[Markup]:
    """Yield lines across with their values, which have as many decimals as tell them apart."""
    decimals = max(0, 1 - math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    texts = [f"{tick:,.{decimals}f}" if decimals < 6 else number(tick) for tick in ticks]
    if all(text.endswith("0") and "." in text for text in texts):
        texts = [text[:-1].rstrip(".") for text in texts]
    label = Markup('<text class="tick" x="-8" y="{}" dy="4" text-anchor="end">{}</text>')
    for tick, text in zip(ticks, texts, strict=True):
        yield _rule(down(tick), "grid") + label.format(_percent(down(tick)), text)


def _x_tick(value: float, across: "Scale") -> Markup:
    share = across(value)
    return Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        _percent(share), LINES_HEIGHT + 18, _anchor(share, 0.05), number(value))


def _rule(share: float, kind: str) -> Markup:
    return Markup('<line class="{0}" x1="0" x2="100%" y1="{1}" y2="{1}"/>').format(kind, _percent(share))


def _interval_row(bar: Bar, across: "Scale", reference: float | None) -> Markup:
    """Draw one value with its interval below its words, which wrap where the page is narrow."""
    marks = Markup('<line class="track" x1="0" x2="100%" y1="8" y2="8"/>')
    if reference is not None:
        line = Markup('<line class="reference" x1="{0}" x2="{0}" y1="0" y2="16"><title>{1}</title></line>')
        marks += line.format(_percent(across(reference)), number(reference))
    if bar.low is not None and bar.high is not None:
        marks += Markup('<line class="interval" x1="{}" x2="{}" y1="8" y2="8"/>').format(
            _percent(across(bar.low)), _percent(across(bar.high)))
    marks += Markup('<circle class="dot" cx="{}" cy="8" r="5"/>').format(_percent(across(bar.value)))
    return Markup('<li><div class="spread"><span>{}</span><span class="small soft">{}</span></div>'
                  '<svg aria-hidden="true" width="100%" height="16">{}</svg></li>'
                  ).format(bar.label, _said(bar), marks)


def _said(bar: Bar) -> str:
    known = bar.low is not None and bar.high is not None
    interval = f" [{bar.low:.3f}, {bar.high:.3f}]" if known else ""
    return f"{bar.value:.3f}{interval}" + (f", {bar.note}" if bar.note else "")


def _span_row(span: Span, top: float, across: "Scale") -> Markup:
    left, right = across(span.start), across(span.end)
    # What took no time can still be seen.
    width = max(right - left, 0.006)
    return Markup('<g><title>{}</title><text class="name" x="-10" y="{}" text-anchor="end">{}</text>'
                  '<rect class="span {}" x="{}" y="{}" width="{}" height="14" rx="3"/></g>').format(
        f"{span.label}: {span.status} {span.note}".strip(), top + 17, span.label, f"span-{span.status}",
        _percent(min(left, 1 - width)), top + 6, _percent(width))


Scale = Callable[[float], float]


def _scale(low: float, high: float, flip: bool = False) -> Scale:
    """Return a function from values to shares of the width (of the height, from above, with `flip`), kept in
    [0, 1].
    """
    span = high - low

    def place(value: float) -> float:
        share = 0.5 if not span else min(1.0, max(0.0, (value - low) / span))
        return 1.0 - share if flip else share

    return place


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-90):
        low, high = low - (abs(low) or 1.0) * 0.1, high + (abs(high) or 1.0) * 0.1
    return low, high


def _ticks(low: float, high: float) -> list[float]:
    """Return round values from below `low` to above `high`."""
    rough = (high - low) / GRID_LINES
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def _drawable(value: float) -> bool:
    return abs(value) < LARGEST  # false for NaN, too


def _time_ticks(end: float) -> list[tuple[float, str]]:
    """Return at most five round times up to `end` seconds, with their names."""
    units = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
    unit, name = next((one for one in units if end >= 2 * one[0]), units[-1])
    step = next(step for step in TIME_STEPS if end / (step * unit) < 4.5)
    count = int(end / (step * unit) + 1e-9)
    return [(i * step * unit, f"{i * step:g} {name}" if i else "0") for i in range(count + 1)]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"
