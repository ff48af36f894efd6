"""The facts that a history is made of, and how they are brought up to date.

What has ended is kept in the index; what has not is asked for again each time, and read again only when something about
it has changed.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from plumbline.history.assembly import Assembly
from plumbline.history.facts import (
    PIPELINE_RUN,
    STATUS,
    ManifestFacts,
    PipelineFacts,
    StageFacts,
    is_pipeline_run,
    is_stage,
    pipeline_facts,
    stage_facts,
)
from plumbline.history.index import COMPLETE, REGISTRY, Facts, Index
from plumbline.lineage.records import Registered, Run, Step, registered
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import RECORD_FILE, Home
from plumbline.tracking.outbox import waiting

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

    from plumbline.history.mlflow_reader import Reader

Manifest = ManifestFacts | None
SHOW_EVERY = 10
"""So many pages of a long first reading become visible at once."""


class Collection:
    """The runs and versions of one project; used by one thread at a time."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._index = Index(home.folder, home.tracking_uri)
        self._known = self._index.load()
        self._going: dict[str, PipelineFacts | StageFacts] = {}
        self._marks: dict[str, object] = {}
        """What told, the last time, whether a run that is going on has changed."""
        self._waiting = False
        self._reader: Reader | None = None
        self._assembly = Assembly(home, self._known, read_stages(home.root))
        self._assembled: dict[str, Run] = {}
        self.registered = registered(self._known.registry) if self._known.registry else Registered()
        self._assemble(self._known.pipelines)

    def runs(self) -> dict[str, Run]:
        """Every pipeline run by its id, newest first."""
        started = {**{one: facts.started for one, facts in self._known.pipelines.items()},
                   **{one: facts.started for one, facts in self._going.items()}}
        return {run.id: run for run in sorted(self._assembled.values(), key=lambda run: -started[run.mlflow_run])}

    def others(self) -> dict[str, Step]:
        """The stages that plain `dvc repro` ran, newest first."""
        facts = [one for one in (*self._known.stages.values(), *self._going.values())
                 if isinstance(one, StageFacts) and one.pipeline_run is None]
        return {one.run_id: self._assembly.alone(one) for one in sorted(facts, key=lambda one: -one.started)}

    def update(self, show: Callable[[], None]) -> None:
        """Read what is new; `show` is called when there is something to see, and at the end."""
        from plumbline.history.mlflow_reader import Reader

        reader = self._reader = self._reader or Reader(self._home)
        if reader.experiment is None:
            return
        before = len(self._known)
        if not self._known.complete:
            for number, page in enumerate(reader.all_runs(), 1):
                self._take(page, reader)
                if number % SHOW_EVERY == 0:
                    show()
            self._known.complete = True
            self._index.note(COMPLETE, True)
        for page in reader.all_runs() if self._delivered() else reader.new_runs(self._has):
            self._take(page, reader)
        self._take(reader.old_runs(), reader)
        self._follow(reader)
        self._forget(reader.deleted(self._has))
        found = reader.registry(again=len(self._known) != before)
        if found is not None:
            self.registered = found
            self._index.note(REGISTRY, found.plain())
        show()

    def reconnect(self) -> None:
        """Begin with a new connection the next time."""
        self._reader = None

    def _has(self, run_id: str) -> bool:
        return run_id in self._known or run_id in self._going

    def _delivered(self) -> bool:
        """Whether something that waited for the store has reached it, with the times when it happened."""
        before, self._waiting = self._waiting, bool(waiting(self._home))
        return before and not self._waiting

    def _follow(self, reader: "Reader") -> None:
        """Look after what had not ended the last time."""
        running = reader.running()
        self._take(running, reader)
        for run_id in self._going.keys() - {run.info.run_id for run in running}:
            found = reader.run(run_id)
            if found:
                self._take([found], reader)
            else:
                self._forget([run_id])

    def _take(self, runs: "Iterable[MlflowRun]", reader: "Reader") -> None:
        """Take in what is new about these runs, and put together again what that touches."""
        ended: list[Facts] = []
        touched: set[str] = set()
        for run in runs:
            run_id, over = run.info.run_id, run.info.status in STATUS
            if run_id in self._known or (not over and self._marks.get(run_id) == self._mark(run)):
                continue
            facts, manifest = self._facts(run, reader)
            if manifest and manifest.run_id not in self._known.manifests:
                self._known.add(manifest)
                ended.append(manifest)
            if over:
                ended.append(facts)
                self._known.add(facts)
                self._going.pop(run_id, None)
                self._marks.pop(run_id, None)
            elif not isinstance(facts, str):
                self._going[run_id], self._marks[run_id] = facts, self._mark(run)
            touched.add(run_id)
            if isinstance(facts, StageFacts):
                touched |= {name for name in (facts.parent, facts.ours) if name}
        self._index.keep(ended)
        self._assemble(touched)

    def _facts(self, run: "MlflowRun", reader: "Reader") -> tuple[PipelineFacts | StageFacts | str, Manifest]:
        """What a run says, and its snapshot; the bare id of one that somebody else logged here."""
        if is_pipeline_run(run):
            return pipeline_facts(run, self._home, reader.artifacts)
        return (stage_facts(run, reader.artifacts) if is_stage(run) else str(run.info.run_id)), None

    def _mark(self, run: "MlflowRun") -> object:
        if not is_pipeline_run(run):
            return run.info.status
        record = self._home.runs / run.data.tags[PIPELINE_RUN] / RECORD_FILE
        return dict(run.data.tags), record.stat().st_mtime_ns if record.exists() else None

    def _forget(self, run_ids: Iterable[str]) -> None:
        gone = list(run_ids)
        for run_id in gone:
            self._known.remove(run_id)
            self._assembled.pop(run_id, None)
            self._going.pop(run_id, None)
            self._marks.pop(run_id, None)
        if gone:
            self._index.forget(gone)

    def _assemble(self, touched: Iterable[str]) -> None:
        """Put together again the pipeline runs that are among `touched`, use a stage among them, or go on."""
        changed = set(touched)
        if not changed and not self._going:
            return
        pipelines: dict[str, PipelineFacts] = {**self._known.pipelines}
        pipelines |= {one: facts for one, facts in self._going.items() if isinstance(facts, PipelineFacts)}
        for run_id, facts in pipelines.items():
            if run_id in changed or run_id in self._going or not changed.isdisjoint(facts.stage_runs()):
                self._assembled[run_id] = self._assembly.run(facts, self._stages_going(run_id))

    def _stages_going(self, parent: str) -> Mapping[str, StageFacts]:
        return {one.stage: one for one in self._going.values()
                if isinstance(one, StageFacts) and one.parent == parent}
