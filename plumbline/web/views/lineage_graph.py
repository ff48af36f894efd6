"""The picture of a neighbourhood: boxes with their links, and the lines between them, ready for the
template.
"""

from collections.abc import Collection
from dataclasses import dataclass

from plumbline.lineage.graph import DATA, KINDS, Graph, Kind, Neighbourhood, Node, Ref
from plumbline.web.drawing.graph_layout import Sizes, layout
from plumbline.web.views.lineage import NAMES, STATES, cut, figure_of, own_name, run_name, tooltip

SIZES = Sizes(width=110, height=58, across=24, apart=12)
"""All eight columns fit beside the details on a screen of 1,440 pixels."""
NAME_LETTERS, FIGURE_LETTERS = 14, 17
"""So many fit into a box."""
HEADER = 26
"""The height of the line with the names of the columns."""
COLUMN: dict[Kind, int] = {"batch": 0, "snapshot": 1, "base": 1, "sft": 2, "reward": 3, "judge": 3,
                           "examination": 4, "policy": 5, "candidate": 5, "evaluation": 6, "version": 7}
HEADS = ("batches", "snapshot, base", "SFT", "reward, judge", "examination", "policy, candidate",
         "evaluation", "version")


@dataclass(frozen=True)
class Box:
    """One node of the picture."""

    ref: Ref
    x: float
    y: float
    look: str
    """CSS classes."""
    name: str
    figure: str
    title: str
    maker: str | None
    """The run to point at, of a reused result."""
    maker_name: str
    champion: bool


@dataclass(frozen=True)
class EdgeLine:
    """One line of the picture."""

    path: str
    look: str


@dataclass(frozen=True)
class Picture:
    """A neighbourhood, drawn."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    lines: tuple[EdgeLine, ...]
    heads: tuple[tuple[float, str], ...]
    """The middle of each column, and what stands in it."""
    sizes: Sizes = SIZES


def draw(graph: Graph, near: Neighbourhood, run: str | None) -> Picture:
    """Draw a neighbourhood as the run `run` sees it: what it made, what it reused, and what belongs to other
    runs.
    """
    ids = {ref: f"{ref.kind}/{ref.key}" for ref in near.nodes}
    columns = {ids[ref]: COLUMN[ref.kind] for ref in near.nodes}
    edges = [(ids[source], ids[target]) for source, target in near.edges]
    picture = layout(columns, edges, SIZES)
    refs = {name: ref for ref, name in ids.items()}
    own = {ref for ref in near.nodes if run in graph.nodes[ref].runs}
    boxes = tuple(_box(graph.nodes[ref], picture.places[ids[ref]].x, picture.places[ids[ref]].y + HEADER,
                       near.centre, run) for ref in near.nodes)
    lines = tuple(EdgeLine(edge.path,
                           _line_look(refs[edge.source], [refs[name] for name in edge.targets], own))
                  for edge in picture.edges)
    tops = sorted({(box.x, COLUMN[box.ref.kind]) for box in boxes})
    heads = tuple((x + SIZES.width / 2, _head(column, near.nodes)) for x, column in tops)
    return Picture(picture.width, picture.height + HEADER, boxes, lines, heads)


def _head(column: int, refs: Collection[Ref]) -> str:
    kinds = {ref.kind for ref in refs if COLUMN[ref.kind] == column}
    return NAMES[kinds.pop()] if len(kinds) == 1 and column else HEADS[column]


def _box(node: Node, x: float, y: float, centre: Ref, run: str | None) -> Box:
    used, made = run in node.runs, node.made_by == run
    own = "is-made" if made else "is-reused"
    looks = ["data" if node.ref.kind in DATA else "stage", f"state-{node.state}", own if used else "is-other"]
    if node.ref == centre:
        looks.append("is-centre")
    maker = node.made_by if used and not made and not node.batch else None
    name = f"version {own_name(node)}" if node.version else own_name(node)
    return Box(node.ref, x, y, " ".join(looks), cut(name, NAME_LETTERS),
               cut(STATES[node.state] or figure_of(node), FIGURE_LETTERS), tooltip(node), maker,
               f"from {run_name(maker)}" if maker else "", "champion" in node.aliases)


def _line_look(source: Ref, targets: list[Ref], own: Collection[Ref]) -> str:
    looks = ["from-data" if source.kind in DATA else "from-stage"]
    if source in own and any(target in own for target in targets):
        looks.append("is-own")
    return " ".join(looks)


def ordered_kinds(refs: Collection[Ref]) -> list[Kind]:
    """Return the kinds among some nodes, in the order of the pipeline."""
    present = {ref.kind for ref in refs}
    return [kind for kind in KINDS if kind in present]
