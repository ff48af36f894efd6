"""What the pages show, as JSON: runs, versions, the lineage of anything, also as OpenLineage events. Reading
only.
"""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from plumbline import __version__
from plumbline.history.history import StepStatus
from plumbline.lineage.graph import Filter, Kind, Node, Ref, State, chosen_runs, neighbourhood, newest_first
from plumbline.lineage.openlineage import RunEvent, run_events
from plumbline.project.run_record import Status
from plumbline.web.site import not_found, site_of

router = APIRouter(prefix="/api")
recorded = APIRouter(tags=["lineage"])
MOST = 500
Limit = Annotated[int, Query(ge=1, le=MOST, description="How many at most")]
Offset = Annotated[int, Query(ge=0, description="How many of the newest to leave out")]


class Plain(BaseModel):
    """A part of the recorded history."""

    model_config = ConfigDict(from_attributes=True)


class StepOut(Plain):
    """One stage in one run. For a reused stage everything measured comes from the run that made it."""

    stage: str
    status: StepStatus
    reason: str = Field(description="Why it ran, or since when it was reused")
    seconds: float | None = Field(description="What this run spent on it")
    started: str | None = Field(description="ISO 8601, UTC; null for a stage that was reused or waits")
    version: str | None
    mlflow_run: str | None = Field(description="The MLflow run that really made the result")
    made_by: str | None = Field(description="The pipeline run that really made the result; null for plain "
                                            "`dvc repro`")
    params: dict[str, str]
    metrics: dict[str, float]
    facts: dict[str, str] = Field(description="Results that are words")
    inputs: dict[str, str] = Field(description="DVC's digest of each input, by path")
    outputs: dict[str, str] = Field(description="DVC's digest of each output, by path")
    host: dict[str, str] = Field(description="Machine, packages and processes that made it")


class BatchOut(Plain):
    """A batch of preferences."""

    digest: str
    source: str
    rows: int
    kinds: dict[str, int]
    quarantined: int
    removed: int


class RunSummary(Plain):
    """A pipeline run, in short."""

    id: str
    created: str = Field(description="ISO 8601, UTC")
    ended: str | None
    status: Status
    message: str | None = Field(description="Why a run did not finish")
    trigger: str
    settings: list[str]
    git_commit: str | None
    host: str
    mlflow_run: str
    snapshot: str | None = Field(description="DVC's digest of the data that it learned from")


class RunOut(RunSummary):
    """A pipeline run with everything that is recorded about it."""

    params_file: str | None
    until: str | None
    git_dirty: bool | None
    params: dict[str, str] = Field(description="All parameters, flat: `ppo.kl_coef`")
    steps: dict[str, StepOut] = Field(description="By stage, in the order of the pipeline")
    batches: list[BatchOut] = Field(description="What the snapshot holds")


class RunsOut(BaseModel):
    """A page of runs."""

    total: int = Field(description="How many runs the filters let through")
    runs: list[RunSummary] = Field(description="Newest first")


class VersionOut(Plain):
    """A registered policy."""

    name: str
    number: int
    md5: str = Field(description="DVC's digest of the model")
    run: str = Field(description="The pipeline run that evaluated it last; `dvc repro` where no run did")
    registered_by: str = Field(description="The pipeline run that registered it, or `dvc repro`")
    created: str
    aliases: list[str]
    compared_with: int | None = Field(description="The champion of the time when it was evaluated")
    tags: dict[str, str]


class MoveOut(Plain):
    """An alias that was moved."""

    when: str
    alias: str
    before: int | None
    after: int | None
    reason: str
    by: str


class VersionsOut(BaseModel):
    """The registry."""

    versions: list[VersionOut] = Field(description="Newest first")
    moves: list[MoveOut] = Field(description="Newest first")


class NodeOut(BaseModel):
    """A node of the lineage."""

    kind: Kind
    key: str
    md5: str | None = Field(description="DVC's digest, where it is one file or folder")
    state: State = Field(description="`gate`: it was made, and said that the pipeline must not go on")
    made_by: str | None = Field(description="The run that made it")
    when: str
    runs: list[str] = Field(description="All runs that made or used it, newest first")
    metrics: dict[str, float]
    aliases: list[str]
    reason: str = Field(description="Why it failed")


class Named(BaseModel):
    """The name of a node."""

    kind: Kind
    key: str


class LinkOut(BaseModel):
    """`target` was made from `source`."""

    source: Named
    target: Named


class LineageOut(BaseModel):
    """A node with what is near it."""

    centre: NodeOut
    nodes: list[NodeOut] = Field(description="The centre and what is at most `depth` steps up or down, "
                                             "newest first")
    links: list[LinkOut]
    left_out: int = Field(description="Nodes past the limit of a kind and direction")


@recorded.get("/runs", summary="Pipeline runs")
def runs(request: Request, since: str = "", status: str = "", made: str = "", promoted: bool = False,
         q: str = "", limit: Limit = 50, offset: Offset = 0) -> RunsOut:
    """Pipeline runs, newest first, with the filters of the page Lineage."""
    graph = site_of(request).history.graph
    found = list(chosen_runs(graph, Filter(since, status, promoted, made, q)))
    shown = [RunSummary.model_validate(run) for run in found[offset:offset + limit]]
    return RunsOut(total=len(found), runs=shown)


@recorded.get("/runs/{id}", summary="One pipeline run")
def run(request: Request, id: str) -> RunOut:
    """One run by its id, the beginning of it, or `latest`."""
    with not_found():
        return RunOut.model_validate(site_of(request).history.run(id))


@recorded.get("/versions", summary="The registry")
def versions(request: Request) -> VersionsOut:
    """The versions of the policy with their aliases, and how the aliases moved."""
    history = site_of(request).history
    return VersionsOut(versions=[VersionOut.model_validate(one) for one in history.versions.values()],
                       moves=[MoveOut.model_validate(one) for one in history.moves])


@recorded.get("/lineage/openlineage", summary="Lineage as OpenLineage events")
def openlineage(request: Request, run: str = "", since: str = "", limit: Limit = 50, offset: Offset = 0
                ) -> list[RunEvent]:
    """The run events (OpenLineage 2-0-2) of the stages that ran in one run, or in a page of runs, newest run
    first.
    """
    site = site_of(request)
    with not_found():
        found = [site.history.run(run)] if run else list(chosen_runs(site.history.graph, Filter(since)))
    return list(run_events(found[offset:offset + limit], site.home.root.name))


@recorded.get("/lineage/{kind}/{key}", summary="The lineage of one thing")
def lineage(request: Request, kind: str, key: str, depth: Annotated[int, Query(ge=1, le=10)] = 2,
            limit: Limit = 100) -> LineageOut:
    """Return the ancestors and the descendants of a batch, snapshot, model, report or version.

    The key is a digest or its beginning; for a version its number or an alias.
    """
    graph = site_of(request).history.graph
    with not_found():
        centre = graph.find(kind, key)
    near = neighbourhood(graph, centre.ref, depth, most=limit)
    nodes = [_node(graph.nodes[ref]) for ref in newest_first(graph, near.nodes)]
    links = [LinkOut(source=_named(source), target=_named(target)) for source, target in near.edges]
    return LineageOut(centre=_node(centre), nodes=nodes, links=links, left_out=sum(near.hidden.values()))


def _node(node: Node) -> NodeOut:
    return NodeOut(kind=node.ref.kind, key=node.ref.key, md5=node.md5, state=node.state, made_by=node.made_by,
                   when=node.when, runs=list(node.runs), metrics=dict(node.step.metrics) if node.step else {},
                   aliases=list(node.aliases), reason=node.reason)


def _named(ref: Ref) -> Named:
    return Named(kind=ref.kind, key=ref.key)


@router.get("/health", summary="Whether the server is up")
def health() -> dict[str, str]:
    """Answers as soon as the history has been read."""
    return {"status": "ok", "version": __version__}


router.include_router(recorded)
