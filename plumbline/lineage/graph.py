"""The lineage graph: which data made which model, and what followed from it.

A node is named by its kind and its content: what a stage left, together with what it was given. So a result
that later runs reused is one node, used by many runs, and it knows the run that made it; while equal bytes
that came of other data are another node, because "which data made this model?" must have one answer. For the
same reason only the run that made a result says what it was made from. What failed, or is still running, is
named by its run. An evaluation's champion is the one that the policy's version was last compared with.

Everything here is a pure function of what a history holds: no files, no MLflow.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from plumbline.errors import UserError
from plumbline.lineage.records import RegisteredVersion, Run, Step
from plumbline.preferences.batches.manifest import Batch

Kind = Literal["batch", "snapshot", "base", "sft", "reward", "examination", "judge", "policy", "candidate",
               "evaluation", "version"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DATA: tuple[Kind, ...] = ("batch", "snapshot")
State = Literal["made", "gate", "failed", "running"]
"""`gate`: it was made, and said that the pipeline must not go on."""
BY_STAGE: Mapping[str, Kind] = {
    "snapshot": "snapshot", "ingest": "snapshot", "base": "base", "sft": "sft", "reward_model": "reward",
    "reward_eval": "examination", "judge": "judge", "ppo": "policy", "preference_eval": "evaluation",
    "promote": "version", "candidate": "candidate", "candidate_eval": "evaluation"}
"""What the stages leave, by the name of the group for those of a candidate; the two that fix and check the
data are about the snapshot."""
SHORTEST_KEY = 6


class Ref(NamedTuple):
    """The name of a node."""

    kind: Kind
    key: str


@dataclass(frozen=True)
class Node:
    """One thing in the lineage."""

    ref: Ref
    state: State
    made_by: str | None
    """The run that made it; None for a batch, for plain `dvc repro`, or when nobody knows."""
    md5: str | None
    """DVC's digest of it, without the mark of a folder; None where there is no single thing."""
    when: str
    """When it was made, or first used; ISO 8601."""
    runs: tuple[str, ...]
    """All runs that made or used it, newest first."""
    step: Step | None = None
    """The stage that made it, as its maker recorded it."""
    batch: Batch | None = None
    version: RegisteredVersion | None = None
    reason: str = ""
    """Why it failed."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """The registry's aliases of it."""
        return self.version.aliases if self.version else ()


@dataclass(frozen=True, eq=False)
class Graph:
    """All nodes and edges; a new graph is another one, whatever it holds."""

    nodes: Mapping[Ref, Node]
    up: Mapping[Ref, tuple[Ref, ...]]
    """The nodes that each was made from, by id."""
    down: Mapping[Ref, tuple[Ref, ...]]
    """The nodes that were made from each, by id."""
    rows: Mapping[str, Mapping[Kind, Ref]]
    """What each run made or used, by kind, without batches and candidates; runs newest first."""
    candidates: Mapping[str, Mapping[str, Ref]]
    """The candidates of each run, and their evaluations, by the name of the stage."""
    runs: Mapping[str, Run]

    def find(self, kind: str, key: str) -> Node:
        """Return the node of a kind whose key or digest begins with `key`; a version also by its alias.

        Of several models with the same bytes, the one made first. Raises UserError where there is no single
        one.
        """
        if kind not in KINDS:
            raise UserError(f"There is no kind {kind[:40]!r} in the lineage; the kinds are "
                            f"{', '.join(KINDS)}.")
        exact = self.nodes.get(Ref(kind, key))
        if exact:
            return exact
        found = [node for ref, node in self.nodes.items() if ref.kind == kind and (
            key in node.aliases or (len(key) >= SHORTEST_KEY and kind != "version" and (
                ref.key.startswith(key) or (node.md5 or "").startswith(short_digest(key)))))]
        if len({node.md5 or node.ref.key for node in found}) == 1:
            return min(found, key=lambda node: node.when)
        many = f"begins {len(found)} of them" if found else "names none of them"
        raise UserError(f"{key[:80]!r} {many}: a {kind} is named by its digest, or by its first "
                        f"{SHORTEST_KEY} digits at least; a version by its number or alias. See /lineage for "
                        "all.")

    def upstream(self, ref: Ref, depth: int | None = None) -> dict[Ref, int]:
        """Return what a node was made from, with the number of steps to each, at most `depth`."""
        return _reach(self.up, ref, depth)

    def downstream(self, ref: Ref, depth: int | None = None) -> dict[Ref, int]:
        """Return what was made from a node, with the number of steps to each, at most `depth`."""
        return _reach(self.down, ref, depth)


def short_digest(md5: str) -> str:
    """Return a digest without DVC's mark of a folder."""
    return md5.removesuffix(".dir")


def _reach(edges: Mapping[Ref, tuple[Ref, ...]], start: Ref, depth: int | None) -> dict[Ref, int]:
    found, edge, steps = {}, [start], 0
    while edge and (depth is None or steps < depth):
        steps += 1
        edge = list(dict.fromkeys(far for near in edge for far in edges.get(near, ()) if far not in found))
        found.update(dict.fromkeys(edge, steps))
    found.pop(start, None)
    return found


@dataclass(frozen=True)
class Neighbourhood:
    """A node with what is near it."""

    centre: Ref
    nodes: tuple[Ref, ...]
    edges: tuple[tuple[Ref, Ref], ...]
    """From what was read to what was made of it."""
    hidden: Mapping[tuple[Literal["up", "down"], Kind], int]
    """How many nodes are left out, because a column would not be readable."""


def neighbourhood(graph: Graph, centre: Ref, depth: int, first: Collection[Ref] = (),
                  most: int = 9) -> Neighbourhood:
    """Return what is at most `depth` steps up or down from a node.

    Of a kind and direction at most `most` nodes are shown: those of `first`, then the newest.
    """
    shown, hidden = {centre}, {}
    sides: tuple[tuple[Literal["up", "down"], dict[Ref, int]], ...] = (
        ("up", graph.upstream(centre, depth)), ("down", graph.downstream(centre, depth)))
    for side, reached in sides:
        for kind in KINDS:
            near = [ref for ref in newest_first(graph, reached) if ref.kind == kind]
            near.sort(key=lambda ref: (ref not in first, reached[ref]))
            shown.update(near[:most])
            if len(near) > most:
                hidden[side, kind] = len(near) - most
    ordered = tuple(newest_first(graph, shown))
    edges = tuple((source, ref) for ref in ordered for source in graph.up.get(ref, ()) if source in shown)
    return Neighbourhood(centre, ordered, edges, hidden)


def newest_first(graph: Graph, refs: Iterable[Ref]) -> list[Ref]:
    """Sort nodes by the time when they were made."""
    return sorted(refs, key=lambda ref: (graph.nodes[ref].when, ref.key), reverse=True)


@dataclass(frozen=True)
class Filter:
    """Which runs the whole history shows."""

    since: str = ""
    """A day, such as 2026-11-21, or any beginning of a time."""
    status: str = ""
    promoted: bool = False
    """Only runs whose policy became champion."""
    made: str = ""
    """A kind: only runs that made a new one."""
    text: str = ""
    """A part of the run's id, trigger, settings or message."""


def chosen_runs(graph: Graph, wanted: Filter) -> Iterator[Run]:
    """Yield the runs that pass a filter, newest first."""
    for run in graph.runs.values():
        if run.created < wanted.since or (wanted.status and run.status != wanted.status):
            continue
        if wanted.promoted and not was_promoted(run):
            continue
        row = graph.rows[run.id]
        if wanted.made and not any(ref.kind == wanted.made and graph.nodes[ref].made_by == run.id
                                   for ref in row.values()):
            continue
        if wanted.text and wanted.text.lower() not in " ".join(
                (run.id, run.trigger, run.message or "", *run.settings)).lower():
            continue
        yield run


def was_promoted(run: Run) -> bool:
    """True if the run itself made its policy champion."""
    step = run.steps.get("promote")
    return step is not None and step.status == "ran" and step.metrics.get("promoted") == 1.0
