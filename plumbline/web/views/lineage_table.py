"""The whole history as rows: a run a row, a kind a column, and a line along each result from the run that
made it to those that reused it.

That stays readable however many runs there are: a row says at a glance what a run made anew (filled) and what
it reused (hollow), following the line down leads to its maker, and only a page of rows is drawn. Results
whose lines would cross stand beside each other in lanes of their column, and past `LANES` of them they share
the last one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plumbline.history.history import Run
from plumbline.lineage.graph import DATA, Graph, Kind, Ref
from plumbline.web.views.lineage import own_name, tooltip

COLUMNS: tuple[Kind, ...] = ("snapshot", "base", "sft", "reward", "examination", "judge", "policy",
                             "evaluation", "version")
HEADS = ("data", "base", "SFT", "reward", "exam", "judge", "policy", "eval", "version")
LANES = 4
LANE_WIDTH, LETTER_WIDTH, SIDE = 17, 7, 15
ROW_HEIGHT = 34


@dataclass(frozen=True)
class Mark:
    """One result in one run."""

    ref: Ref
    x: float
    look: str
    title: str
    label: str


@dataclass(frozen=True)
class RunRow:
    """One run."""

    run: Run
    marks: tuple[Mark, ...]
    up: tuple[float, ...]
    """Where a line comes from the row above."""
    down: tuple[float, ...]
    """Where a line leads to the row below."""
    out: tuple[float, ...]
    """Where a line leads to a run that is not on the page."""
    start: float
    end: float
    """Where the line through the run's marks begins and ends."""


@dataclass(frozen=True)
class Rows:
    """A page of the history."""

    rows: tuple[RunRow, ...]
    heads: tuple[tuple[float, str], ...]
    width: float
    height: float = ROW_HEIGHT


@dataclass(frozen=True)
class _Life:
    """The rows on the page in which a result is used."""

    first: int
    last: int
    elsewhere: bool
    """Its maker is not on the page."""


def draw_rows(graph: Graph, runs: Sequence[Run]) -> Rows:
    """Draw some runs, newest first."""
    rows = [graph.rows[run.id] for run in runs]
    lives = _lives(graph, runs, rows)
    left, places, heads = 0.0, {}, []
    for kind, head in zip(COLUMNS, HEADS, strict=True):
        lanes = _lanes({ref: life for ref, life in lives.items() if ref.kind == kind})
        used = LANE_WIDTH * max(lanes.values(), default=0)
        width = max(2 * SIDE + used, LETTER_WIDTH * len(head) + SIDE)
        places.update({ref: left + (width - used) / 2 + lane * LANE_WIDTH for ref, lane in lanes.items()})
        heads.append((left + width / 2, head))
        left += width
    drawn = tuple(_row(graph, number, run, row, lives, places)
                  for number, (run, row) in enumerate(zip(runs, rows, strict=True)))
    return Rows(drawn, tuple(heads), left)


def _lives(graph: Graph, runs: Sequence[Run], rows: Sequence[Mapping[Kind, Ref]]) -> dict[Ref, _Life]:
    first: dict[Ref, int] = {}
    last: dict[Ref, int] = {}
    for number, row in enumerate(rows):
        for ref in row.values():
            first.setdefault(ref, number)
            last[ref] = number
    return {ref: _Life(first[ref], last[ref], graph.nodes[ref].made_by != runs[last[ref]].id)
            for ref in first}


def _lanes(lives: Mapping[Ref, _Life]) -> dict[Ref, int]:
    """Return a lane for each result, such that lines in a lane do not meet, except in the last one."""
    free = [-1] * LANES
    lanes = {}
    for ref, life in sorted(lives.items(), key=lambda one: (one[1].first, one[0])):
        lane = next((lane for lane in range(LANES) if free[lane] < life.first), LANES - 1)
        free[lane] = max(free[lane], life.last)
        lanes[ref] = lane
    return lanes


def _row(graph: Graph, number: int, run: Run, row: Mapping[Kind, Ref], lives: Mapping[Ref, _Life],
         places: Mapping[Ref, float]) -> RunRow:
    marks = tuple(_mark(graph, run, row[kind], places[row[kind]]) for kind in COLUMNS if kind in row)
    up = {places[ref] for ref, life in lives.items() if life.first < number <= life.last}
    down = {places[ref] for ref, life in lives.items() if life.first <= number < life.last}
    out = {places[ref] for ref, life in lives.items() if life.last == number and life.elsewhere}
    ends = [mark.x for mark in marks] or [0.0]
    return RunRow(run, marks, tuple(sorted(up)), tuple(sorted(down)), tuple(sorted(out - down)), min(ends),
                  max(ends))


def _mark(graph: Graph, run: Run, ref: Ref, x: float) -> Mark:
    node = graph.nodes[ref]
    made = node.made_by == run.id
    shape = "version" if ref.kind == "version" else "stage"
    looks = ["data" if ref.kind in DATA else shape,
             f"state-{node.state}", "is-made" if made else "is-reused",
             *(f"is-{alias}" for alias in node.aliases if alias == "champion")]
    title = ("" if made else "reused: ") + tooltip(node)
    return Mark(ref, x, " ".join(looks), title, own_name(node))
