"""The lineage pages: the whole history, and one node with what it was made from and what was made of it."""

from collections.abc import Iterable

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from plumbline.lineage.graph import (
    KINDS,
    Filter,
    Graph,
    Kind,
    Neighbourhood,
    Node,
    Ref,
    chosen_runs,
    neighbourhood,
    newest_first,
)
from plumbline.web.drawing.words import number
from plumbline.web.site import not_found, site_of, url
from plumbline.web.views.lineage import (
    NAMES,
    PLURALS,
    WHAT,
    counted,
    figure_of,
    first_upper,
    maker_of,
    name_of,
    outcome_of,
    run_name,
    short_time,
    tooltip,
)
from plumbline.web.views.lineage_graph import draw, ordered_kinds
from plumbline.web.views.lineage_table import COLUMNS, draw_rows

router = APIRouter(include_in_schema=False)
PAGE = 50
STATUSES = ("running", "finished", "failed", "cancelled", "killed")
DEPTHS = (1, 2, 3, 5)
LISTED, ALL_LISTED = 10, 500
RUNS_SHOWN = 8
Group = tuple[Kind, list[Node], int]


@router.get("/lineage")
def whole_history(request: Request, since: str = "", status: str = "", made: str = "", promoted: bool = False,
                  q: str = "", page: int = 1) -> HTMLResponse:
    """Show every run with what it made and reused, newest first."""
    site, wanted = site_of(request), Filter(since, status, promoted, made, q)
    graph = site.history.graph
    found = list(chosen_runs(graph, wanted))
    pages = max(1, -(-len(found) // PAGE))
    page = min(max(1, page), pages)

    def page_link(number: int) -> str:
        return url("lineage", since=since or None, status=status or None, made=made or None,
                   promoted="1" if promoted else None, q=q or None, page=number)

    return site.page("lineage.html", picture=draw_rows(graph, found[(page - 1) * PAGE:page * PAGE]),
                     wanted=wanted, filtered=wanted != Filter(), found=len(found), total=len(graph.runs),
                     page=page, pages=pages, page_link=page_link, statuses=STATUSES, kinds=COLUMNS,
                     names=NAMES, outcome=outcome_of, run_name=run_name, short_time=short_time)


@router.get("/lineage/{kind}/{key}")
def one_node(request: Request, kind: str, key: str, depth: int = 2, run: str = "", up: str = "",
             down: str = "") -> Response:
    """Show one node in the centre; `up` and `down` name a kind of which all are listed."""
    site = site_of(request)
    graph = site.history.graph
    with not_found():
        node = graph.find(kind, key)
    if node.ref.key != key:
        return RedirectResponse(url("lineage", node.ref.kind, node.ref.key, depth=depth), status_code=307)
    depth = min(max(depth, 1), DEPTHS[-1])
    focus = run if run in node.runs else _usual_focus(node)

    def here(**changed: object) -> str:
        return url("lineage", kind, key, **{"depth": depth, "run": focus, **changed})

    def link(ref: Ref) -> str:
        kept = focus if focus in graph.nodes[ref].runs else None
        return url("lineage", ref.kind, ref.key, depth=depth, run=kept)

    near = neighbourhood(graph, node.ref, depth, set(graph.rows.get(focus or "", {}).values()))
    return site.page(
        "lineage_node.html", node=node, name=name_of(node), maker=maker_of(node), known=graph.runs,
        what=WHAT[node.ref.kind], names=NAMES, plurals=PLURALS, picture=draw(graph, near, focus),
        hidden=_hidden(near), depth=depth, depths=DEPTHS, focus=focus, here=here, link=link,
        more=lambda side, kind: here(**{side: kind}) + f"#{side}",
        runs=_some_runs(node, focus), facts=_facts(node), links=_links(node),
        metrics=sorted(node.step.metrics.items()) if node.step else [],
        upstream=_groups(graph, graph.upstream(node.ref), up), name_of=name_of, figure_of=figure_of,
        tooltip=tooltip, downstream=_groups(graph, graph.downstream(node.ref), down), run_name=run_name,
        first_upper=first_upper)


def _usual_focus(node: Node) -> str | None:
    """Return the run that made a node, or the newest that used it."""
    return node.made_by if node.made_by in node.runs else next(iter(node.runs), None)


def _some_runs(node: Node, focus: str | None) -> list[str]:
    """Return the newest runs that used a node, with the run `focus` and its maker among them."""
    also = {run for run in (focus, node.made_by) if run in node.runs}
    newest = [run for run in node.runs if run not in also][: RUNS_SHOWN - len(also)]
    return [run for run in node.runs if run in also or run in newest]


def _groups(graph: Graph, refs: Iterable[Ref], whole: str) -> list[Group]:
    """Group nodes by kind, newest first, with more of the kind `whole`, and the number of each kind."""
    refs = newest_first(graph, refs)
    groups: list[Group] = []
    for kind in ordered_kinds(refs):
        nodes = [graph.nodes[ref] for ref in refs if ref.kind == kind]
        groups.append((kind, nodes[:ALL_LISTED if kind == whole else LISTED], len(nodes)))
    return groups


def _hidden(near: Neighbourhood) -> str:
    counts: dict[Kind, int] = {}
    for (_, kind), count in near.hidden.items():
        counts[kind] = counts.get(kind, 0) + count
    return ", ".join(counted(counts[kind], kind) for kind in KINDS if kind in counts)


def _facts(node: Node) -> list[tuple[str, str]]:
    found = []
    if node.batch:
        found += [("Source", node.batch.source), ("Rows", number(node.batch.rows)),
                  ("Kinds",
                   ", ".join(f"{number(count)} {kind}s" for kind, count in node.batch.kinds.items()))]
        found += [("Set aside", number(node.batch.quarantined))] if node.batch.quarantined else []
        found += [("Removed since", number(node.batch.removed))] if node.batch.removed else []
    if node.version:
        compared = node.version.compared_with
        found += [("Name", f"{node.version.name}, version {node.version.number}"),
                  ("Compared with", f"version {compared}" if compared else "no champion")]
    if node.step and node.step.version:
        found.append(("Stage", f"{node.step.stage.replace('_', ' ')}, version {node.step.version}"))
    return found


def _links(node: Node) -> list[tuple[str, str]]:
    """Return the labels and addresses of pages that say more."""
    is_here = node.ref.kind in ("batch", "snapshot") and node.state == "made"
    return [("Its rows", url("data", node.ref.key))] if is_here else []
