"""Puts the lineage graph together, run by run, the oldest first; see graph.py for what a node and an edge
mean.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from plumbline.lineage.graph import BY_STAGE, Graph, Kind, Node, Ref, State, short_digest
from plumbline.lineage.records import RegisteredVersion, Run, Step
from plumbline.preferences.batches.manifest import Batch
from plumbline.project.digests import combined
from plumbline.project.dvc_yaml import JOIN
from plumbline.project.run_record import DVC_REPRO

STAGES: Mapping[Kind, str] = {
    "snapshot": "ingest", "base": "base", "sft": "sft", "reward": "reward_model",
    "examination": "reward_eval", "judge": "judge", "policy": "ppo", "evaluation": "preference_eval"}
"""The stage whose record says most about a node."""
ROOMS: Mapping[str, Kind] = {
    "data/snapshot": "snapshot", "data/prepared": "snapshot", "models/base": "base", "models/sft": "sft",
    "models/reward": "reward", "reports/reward": "examination", "models/judge": "judge",
    "models/policy": "policy", "models/candidates": "candidate", "reports/preference": "evaluation"}
USUAL: Mapping[Kind, tuple[Kind, ...]] = {
    "base": (), "sft": ("base", "snapshot"), "reward": ("sft", "snapshot"),
    "examination": ("reward", "snapshot"), "judge": ("sft", "snapshot"),
    "policy": ("sft", "reward", "examination", "judge", "snapshot"),
    "candidate": ("sft", "reward", "examination", "judge", "snapshot"),
    "evaluation": ("policy", "candidate", "sft", "reward", "judge", "snapshot"),
    "version": ("policy", "evaluation")}
"""What a stage reads, for those that left no record of it."""


def build(runs: Mapping[str, Run], versions: Mapping[int, RegisteredVersion],
          others: Mapping[str, Step]) -> Graph:
    """Return the graph of all that is recorded. The mappings are ordered newest first, as a history has
    them.
    """
    drafts = _Drafts(versions)
    for run in reversed(list(runs.values())):
        drafts.add_run(run)
    for step in reversed(list(others.values())):
        drafts.add_alone(step)
    drafts.add_versions()
    return drafts.graph(runs)


def key_of(step: Step) -> str | None:
    """Return the digest that names what a step left, or its MLflow run if no more is known of the step.

    None if the step left nothing.
    """
    if step.status not in ("ran", "reused"):
        return None
    left = _model(step) or step.outputs
    return combined({**step.inputs, **left}) if left else step.mlflow_run


def md5_of(ref: Ref, step: Step | None) -> str | None:
    """Return DVC's digest of a snapshot or a model, without the mark of a folder; None if there is no such
    thing.
    """
    if ref.kind == "snapshot":
        return ref.key
    return model_digest(step) if step else None


def model_digest(step: Step) -> str | None:
    """Return DVC's digest of the model that a step left, without the mark of a folder; None if it left none.
    """
    return next(map(short_digest, _model(step).values()), None)


def _model(step: Step) -> dict[str, str]:
    """Return the path and the digest of the model that a step left; empty if it left none."""
    return {path: md5 for path, md5 in step.outputs.items()
            if path.startswith("models/") and path.endswith("/model")}


@dataclass
class _Draft:
    """A node that is being put together."""

    made_by: str | None
    when: str
    state: State = "made"
    step: Step | None = None
    batch: Batch | None = None
    version: RegisteredVersion | None = None
    reason: str = ""
    runs: list[str] = field(default_factory=list)

    def node(self, ref: Ref) -> Node:
        """Return the finished node."""
        md5 = short_digest(self.version.md5) if self.version else md5_of(ref, self.step)
        return Node(ref, self.state, self.made_by, md5, self.when, tuple(reversed(self.runs)), self.step,
                    self.batch, self.version, self.reason)


class _Drafts:
    """Nodes and edges, gathered run by run, the oldest first."""

    def __init__(self, versions: Mapping[int, RegisteredVersion]) -> None:
        self._versions = versions
        self._by_md5 = {short_digest(version.md5): version for version in versions.values()}
        self._policies: dict[str, list[Ref]] = defaultdict(list)
        self._drafts: dict[Ref, _Draft] = {}
        self._edges: dict[Ref, dict[Ref, None]] = defaultdict(dict)
        self._rows: dict[str, dict[Kind, Ref]] = {}
        self._candidates: dict[str, dict[str, Ref]] = defaultdict(dict)
        self._keys: dict[str, str | None] = {}

    def add_run(self, run: Run) -> None:
        """Add a run: a node for what each of its steps made or used."""
        row = self._rows[run.id] = {}
        if run.snapshot:
            row["snapshot"] = self._snapshot(run, run.snapshot)
        for step in run.steps.values():
            group, _, candidate = step.stage.partition(JOIN)
            kind = BY_STAGE.get(group)
            if kind is None or step.status == "waiting":
                continue
            if candidate:
                self._about_candidate(run, step, kind, candidate)
            elif kind == "snapshot":
                self._about_data(run, step, row)
            elif kind == "version":
                self._registered(run, step, row)
            else:
                row[kind] = self._result(run, step, kind)
                self._connect_maker(run, row[kind], step, row)

    def add_alone(self, step: Step) -> None:
        """Add a stage that no pipeline run has run; what it read is found by its content."""
        kind = BY_STAGE.get(step.stage.partition(JOIN)[0])
        key = key_of(step) if kind and kind in USUAL and kind != "version" else None
        if kind is None or key is None or Ref(kind, key) in self._drafts:
            return
        ref = Ref(kind, key)
        self._drafts[ref] = _Draft(None, step.started or "", _state(step), step)
        if kind == "policy" and (left := md5_of(ref, step)):
            self._policies[left].append(ref)
        for path, md5 in step.inputs.items():
            source = ROOMS.get("/".join(path.split("/")[:2]))
            same = [one for one, draft in self._drafts.items() if one.kind == source and (
                one.key == short_digest(md5) or (draft.step and md5 in draft.step.outputs.values()))]
            self._edges[ref].update(dict.fromkeys(same[-1:]))

    def add_versions(self) -> None:
        """Add the registered versions, with their edges from policies and evaluations."""
        for number, version in sorted(self._versions.items()):
            ref = Ref("version", str(number))
            maker = None if version.registered_by == DVC_REPRO else version.registered_by
            draft = self._drafts.setdefault(ref, _Draft(maker, version.created))
            draft.made_by, draft.when, draft.version = maker, version.created, version
            policy, row = self._policy_of(version), self._rows.get(version.run, {})
            sources = [policy, row.get("evaluation") if policy == row.get("policy") else None]
            self._edges[ref].update(dict.fromkeys(source for source in sources if source))
        for run, row in self._rows.items():
            self._opponent(run, row)

    def graph(self, runs: Mapping[str, Run]) -> Graph:
        """Return the graph of what was added."""
        nodes = {ref: draft.node(ref) for ref, draft in self._drafts.items()}
        down: dict[Ref, list[Ref]] = defaultdict(list)
        for ref, sources in self._edges.items():
            for source in sources:
                down[source].append(ref)
        return Graph(nodes, {ref: tuple(sources) for ref, sources in self._edges.items()},
                     {ref: tuple(refs) for ref, refs in down.items()}, {run: self._rows[run] for run in runs},
                     self._candidates, runs)

    def _snapshot(self, run: Run, digest: str) -> Ref:
        ref = self._use(Ref("snapshot", short_digest(digest)), run, run.id, run.created)
        for batch in run.batches:
            source = self._use(Ref("batch", batch.digest), run, None, run.created)
            self._drafts[source].batch = batch
            self._edges[ref][source] = None
        return ref

    def _about_data(self, run: Run, step: Step, row: dict[Kind, Ref]) -> None:
        """Mark the snapshot with the state of the stage that took or checked it."""
        if "snapshot" not in row:
            if step.status in ("failed", "running"):
                row["snapshot"] = self._use(Ref("snapshot", run.id), run, run.id, run.created)
                self._mark(row["snapshot"], step)
            return
        draft = self._drafts[row["snapshot"]]
        if step.stage == "ingest" and (draft.step is None or draft.state == "failed"):
            self._mark(row["snapshot"], step)

    def _about_candidate(self, run: Run, step: Step, kind: Kind, candidate: str) -> None:
        """Add a candidate or its evaluation, which was not of the run's own policy."""
        of_run = self._candidates[run.id]
        of_run[step.stage] = ref = self._result(run, step, kind)
        near: dict[Kind, Ref] = {other: one for other, one in self._rows[run.id].items() if other != "policy"}
        if kind == "evaluation" and (judged := of_run.get(f"candidate{JOIN}{candidate}")):
            near["candidate"] = judged
        self._connect_maker(run, ref, step, near)

    def _registered(self, run: Run, step: Step, row: dict[Kind, Ref]) -> None:
        number = step.metrics.get("version")
        if number is not None:
            row["version"] = self._use(Ref("version", str(int(number))), run, step.made_by,
                                       step.started or run.created)
        elif step.status in ("failed", "running"):
            row["version"] = self._use(Ref("version", run.id), run, run.id, run.created)
            self._mark(row["version"], step)
            self._connect(row["version"], step, row)

    def _result(self, run: Run, step: Step, kind: Kind) -> Ref:
        name = step.mlflow_run
        if name and name not in self._keys:
            self._keys[name] = key_of(step)
        done = step.status in ("ran", "reused")
        key = self._keys[name] if name and done else None
        ref = self._use(Ref(kind, key or run.id), run, step.made_by if done else run.id,
                        step.started or run.created)
        draft = self._drafts[ref]
        if draft.step is None or step.status == "ran":
            self._mark(ref, step)
        md5 = md5_of(ref, step)
        if kind == "policy" and md5 and ref not in self._policies[md5]:
            self._policies[md5].append(ref)
        return ref

    def _use(self, ref: Ref, run: Run, made_by: str | None, when: str) -> Ref:
        draft = self._drafts.get(ref)
        if draft is None:
            draft = self._drafts[ref] = _Draft(made_by, when)
        if not draft.runs or draft.runs[-1] != run.id:
            draft.runs.append(run.id)
        return ref

    def _mark(self, ref: Ref, step: Step) -> None:
        draft = self._drafts[ref]
        draft.step, draft.state = step, _state(step)
        draft.reason = step.reason if draft.state == "failed" else ""

    def _connect_maker(self, run: Run, ref: Ref, step: Step, row: Mapping[Kind, Ref]) -> None:
        """Add edges if this run made the result, or nobody knows who did."""
        if self._drafts[ref].made_by in (run.id, None) or not self._edges[ref]:
            self._connect(ref, step, row)

    def _connect(self, ref: Ref, step: Step, row: Mapping[Kind, Ref]) -> None:
        """Add edges from what the step read, which stands in the same run."""
        rooms = {ROOMS.get("/".join(path.split("/")[:2])) for path in step.inputs}
        known = step.status in ("ran", "reused") and step.inputs
        for kind in USUAL[ref.kind]:
            if kind in row and (not known or kind in rooms):
                self._edges[ref][row[kind]] = None

    def _policy_of(self, version: RegisteredVersion) -> Ref | None:
        """Return the policy with a version's bytes: the one that its run made or used, otherwise the
        first.
        """
        row = self._rows.get(version.run, {})
        same = [ref for ref in (row.get("policy"), *self._policies.get(short_digest(version.md5), ())) if ref]
        return next((ref for ref in same if md5_of(ref, self._drafts[ref].step) == short_digest(version.md5)),
                    None)

    def _opponent(self, run: str, row: Mapping[Kind, Ref]) -> None:
        """Add the edge from the champion that a run's evaluation compared the policy with."""
        if "evaluation" not in row or "policy" not in row:
            return
        draft, policy = self._drafts[row["evaluation"]], row["policy"]
        if draft.made_by != run or draft.step is None or "win_rate_vs_champion" not in draft.step.metrics:
            return
        version = self._by_md5.get(md5_of(policy, self._drafts[policy].step) or "")
        other = self._versions.get(version.compared_with or 0) if version else None
        source = self._policy_of(other) if other else None
        if source and source != policy:
            self._edges[row["evaluation"]][source] = None


def _state(step: Step) -> State:
    if step.status in ("failed", "running"):
        return "failed" if step.status == "failed" else "running"
    return "gate" if step.metrics.get("passed") == 0.0 else "made"
