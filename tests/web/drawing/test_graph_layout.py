"""Pictures that can be read, whatever the graph."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.web.drawing.graph_layout import Layout, Sizes, layout


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Nodes in columns, and edges to the right."""
    drawn = draw(st.lists(st.integers(0, 8), min_size=1, max_size=40))
    columns = {f"node {number}": column for number, column in enumerate(drawn)}
    pairs = [(a, b) for a in columns for b in columns if columns[a] < columns[b]]
    edges = draw(st.lists(st.sampled_from(pairs), max_size=60)) if pairs else []
    return columns, edges


@given(graphs())
def test_no_two_nodes_overlap_and_all_are_inside(graph):
    columns, edges = graph
    picture = layout(columns, edges)
    sizes = picture.sizes
    for place in picture.places.values():
        assert 0 <= place.x <= picture.width - sizes.width
        assert 0 <= place.y <= picture.height - sizes.height
    for one, other in combinations(picture.places.values(), 2):
        assert abs(one.x - other.x) >= sizes.width or abs(one.y - other.y) >= sizes.height + sizes.apart - 0.2


@given(graphs())
def test_every_edge_leads_to_the_right_and_reaches_its_target(graph):
    columns, edges = graph
    picture = layout(columns, edges)
    for source, target in edges:
        assert picture.places[source].x + picture.sizes.width < picture.places[target].x
        parts = [edge for edge in picture.edges if edge.source == source and target in edge.targets]
        assert _start(parts[0]) == pytest.approx(_right(picture, source), abs=0.11)
        assert _end(parts[-1]) == pytest.approx(_left(picture, target), abs=0.11)
        for one, following in pairwise(parts):
            assert _end(one) == pytest.approx(_start(following), abs=0.11)


@given(graphs())
def test_no_edge_runs_over_a_node(graph):
    columns, edges = graph
    picture = layout(columns, edges)
    sizes = picture.sizes
    for edge in picture.edges:
        if "H" not in edge.path:
            continue
        x, y = _end(edge)
        for place in picture.places.values():
            if place.x < x - 1 <= place.x + sizes.width:
                assert not place.y < y < place.y + sizes.height


@given(graphs())
def test_the_same_graph_gives_the_same_picture(graph):
    assert layout(*graph) == layout(*graph)


def test_a_chain_is_a_straight_line():
    picture = layout({"a": 0, "b": 3, "c": 7}, [("a", "b"), ("b", "c")])
    assert len({place.y for place in picture.places.values()}) == 1
    assert picture.width == 3 * Sizes().width + 2 * Sizes().across + 2 * Sizes().margin


def test_crossings_are_untangled():
    picture = layout({"a": 0, "b": 0, "x": 1, "y": 1}, [("a", "y"), ("b", "x")])
    above = picture.places["a"].y < picture.places["b"].y
    assert (picture.places["y"].y < picture.places["x"].y) == above


def test_edges_of_one_source_share_their_lane():
    columns = {"data": 0, "sft": 1, "reward": 2, "policy": 3}
    picture = layout(columns, [("data", "sft"), ("data", "reward"), ("data", "policy"), ("sft", "reward")])
    through = [edge for edge in picture.edges if "H" in edge.path]
    assert [(edge.source, edge.targets) for edge in through] == [("data", ("reward", "policy")), ("data", ("policy",))]


def test_an_edge_to_the_left_is_refused():
    with pytest.raises(ValueError, match="later column"):
        layout({"a": 1, "b": 0}, [("a", "b")])


def test_nothing_is_an_empty_picture():
    picture = layout({}, [])
    assert (picture.places, picture.edges) == ({}, ())


def _numbers(path: str) -> list[float]:
    return [float(part) for part in path.replace("M", " ").replace("C", " ").replace("H", " ").split()]


def _start(edge) -> tuple[float, float]:
    x, y, *_ = _numbers(edge.path)
    return x, y


def _end(edge) -> tuple[float, float]:
    numbers = _numbers(edge.path)
    return (numbers[-1], numbers[-2]) if "H" in edge.path else (numbers[-2], numbers[-1])


def _right(picture: Layout, name) -> tuple[float, float]:
    place = picture.places[name]
    return place.x + picture.sizes.width, place.y + picture.sizes.height / 2


def _left(picture: Layout, name) -> tuple[float, float]:
    place = picture.places[name]
    return place.x, place.y + picture.sizes.height / 2
