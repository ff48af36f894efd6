"""Where the nodes of a layered graph stand and how its edges run, so that a person can follow them.

A node's column is known. The order within a column follows the barycentres of the neighbours (Sugiyama et al.
1981); then each node comes as near to the middle of its neighbours as the others let it (isotonic regression
by pooling adjacent violators). An edge across several columns gets a lane through each of them, which all
edges of the same source share, so that no edge runs over a node. Pure and deterministic.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

ORDER_SWEEPS = 6
PLACE_SWEEPS = 4


@dataclass(frozen=True)
class Sizes:
    """Lengths in pixels."""

    width: float = 132
    height: float = 46
    across: float = 44
    """Between columns."""
    apart: float = 14
    """Between the nodes of a column."""
    lane: float = 4
    """The height of a lane."""
    margin: float = 6


@dataclass(frozen=True)
class Corner:
    """The upper left corner of a node."""

    x: float
    y: float


@dataclass(frozen=True)
class Edge:
    """One line of the picture: the part of one or more edges between two columns, or through one."""

    source: str
    """The node that it begins at, perhaps some columns before."""
    targets: tuple[str, ...]
    """The nodes that it leads to."""
    path: str
    """SVG's path."""


@dataclass(frozen=True)
class Layout:
    """A picture."""

    places: Mapping[str, Corner]
    edges: tuple[Edge, ...]
    width: float
    height: float
    sizes: Sizes


@dataclass(frozen=True)
class _Lane:
    """A way through a column for the edges of a source."""

    source: str
    column: int


Item = str | _Lane
Hops = dict[tuple[Item, Item], list[str]]
"""Steps from one column to the next, each with the nodes that it leads to."""


def layout(columns: Mapping[str, int], edges: Sequence[tuple[str, str]], sizes: Sizes = Sizes()) -> Layout:
    """Place nodes, given their columns and edges that lead to a later column. Columns without nodes vanish.

    Raises ValueError for an edge that does not lead to the right.
    """
    for source, target in edges:
        if columns[source] >= columns[target]:
            raise ValueError(f"the edge from {source} to {target} does not lead to a later column")
    ranks = {column: rank for rank, column in enumerate(sorted(set(columns.values())))}
    rank_of: dict[Item, int] = {name: ranks[column] for name, column in columns.items()}
    hops = _with_lanes(rank_of, edges)
    rows = _ordered(rank_of, hops)
    middles = _placed(rows, hops, sizes)
    bottom = max((middle + _height(item, sizes) / 2 for item, middle in middles.items()), default=0)
    top = min((middle - _height(item, sizes) / 2 for item, middle in middles.items()), default=0)
    step = sizes.width + sizes.across
    left = {item: sizes.margin + rank * step for item, rank in rank_of.items()}
    shift = sizes.margin - top
    places = {name: Corner(left[name], round(middles[name] - sizes.height / 2 + shift, 1))
              for name in columns}
    lines = _lines(hops, left, {item: middle + shift for item, middle in middles.items()}, sizes)
    width = 2 * sizes.margin + max(len(ranks) * step - sizes.across, 0)
    return Layout(places, lines, width, round(bottom - top + 2 * sizes.margin, 1), sizes)


def _with_lanes(rank_of: dict[Item, int], edges: Sequence[tuple[str, str]]) -> Hops:
    """Return the edges in steps of one column, and add the lanes that they need to `rank_of`."""
    hops: Hops = defaultdict(list)
    for source, target in dict.fromkeys(edges):
        here: Item = source
        for rank in range(rank_of[source] + 1, rank_of[target]):
            lane = _Lane(source, rank)
            rank_of[lane] = rank
            hops[here, lane].append(target)
            here = lane
        hops[here, target].append(target)
    return hops


def _ordered(rank_of: Mapping[Item, int], hops: Hops) -> list[list[Item]]:
    """Return the items of each column from top to bottom, ordered to cross few edges."""
    rows: list[list[Item]] = [[] for _ in range(max(rank_of.values(), default=-1) + 1)]
    for item, rank in rank_of.items():
        rows[rank].append(item)
    before, after = _neighbours(hops)
    for sweep in range(ORDER_SWEEPS):
        forward = sweep % 2 == 0
        for row in rows if forward else reversed(rows):
            near = before if forward else after
            place = {item: (at + 0.5) / len(other) for other in rows for at, item in enumerate(other)}
            wanted = {item: _mean([place[one] for one in near[item]], place[item]) for item in row}
            row.sort(key=wanted.__getitem__)
    return rows


def _placed(rows: Sequence[Sequence[Item]], hops: Hops, sizes: Sizes) -> dict[Item, float]:
    """Return the height of each item's middle, in pixels."""
    before, after = _neighbours(hops)
    middles: dict[Item, float] = {}
    for row in rows:
        middles |= zip(row, _spread([0.0] * len(row), row, sizes), strict=True)
    for sweep in range(PLACE_SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            near = {item: [middles[one] for one in (*before[item], *after[item])] for item in row}
            wanted = [_mean(near[item], middles[item]) for item in row]
            middles |= zip(row, _spread(wanted, row, sizes), strict=True)
    return middles


def _spread(wanted: Sequence[float], row: Sequence[Item], sizes: Sizes) -> list[float]:
    """Return the middles nearest to the wanted ones (least squares) that keep the order and the distances."""
    offsets = [0.0]
    for above, below in pairwise(row):
        offsets.append(offsets[-1] + (_height(above, sizes) + _height(below, sizes)) / 2 + sizes.apart)
    blocks: list[tuple[float, int]] = []  # sum of the wanted places, and how many stand together
    for want, offset in zip(wanted, offsets, strict=False):
        total, count = want - offset, 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / count:
            more, others = blocks.pop()
            total, count = total + more, count + others
        blocks.append((total, count))
    bases = [total / count for total, count in blocks for _ in range(count)]
    return [base + offset for base, offset in zip(bases, offsets, strict=False)]


def _lines(hops: Hops, left: Mapping[Item, float], middle: Mapping[Item, float],
           sizes: Sizes) -> tuple[Edge, ...]:
    lines = []
    for (start, end), targets in hops.items():
        x0, x1, y0, y1 = left[start] + sizes.width, left[end], middle[start], middle[end]
        bend = (x1 - x0) / 2
        path = f"M{x0:.1f} {y0:.1f}C{x0 + bend:.1f} {y0:.1f} {x1 - bend:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
        if isinstance(end, _Lane):
            path += f"H{x1 + sizes.width:.1f}"
        lines.append(Edge(start.source if isinstance(start, _Lane) else start, tuple(targets), path))
    return tuple(lines)


def _neighbours(hops: Hops) -> tuple[dict[Item, list[Item]], dict[Item, list[Item]]]:
    before: dict[Item, list[Item]] = defaultdict(list)
    after: dict[Item, list[Item]] = defaultdict(list)
    for start, end in hops:
        before[end].append(start)
        after[start].append(end)
    return before, after


def _height(item: Item, sizes: Sizes) -> float:
    return sizes.lane if isinstance(item, _Lane) else sizes.height


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
