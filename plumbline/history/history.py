"""Everything that has been recorded, as pages, commands and the lineage graph read it: runs, stages, model
versions.

The source is MLflow alone (runs, their tags, inputs and artifacts, the registry), so a run that was started
on another machine appears like any other. What has ended never changes, so it is read once and kept in the
home (see index.py). What has not ended is asked for at each refresh, and read again only when something about
it has changed (see mlflow_reader.py). Workspaces on this machine add what is still going on.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from plumbline.errors import UserError
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
from plumbline.history.index import COMPLETE, REGISTRY, Facts, HistoryIndex
from plumbline.lineage.graph_build import build
from plumbline.lineage.records import Move, Registered, RegisteredVersion, Run, Step, StepStatus, registered
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import RECORD_FILE, Home
from plumbline.project.masking import masked
from plumbline.project.run_record import runs_called
from plumbline.tracking.outbox import pending
from plumbline.tracking.store import NoAnswer, StoreGone, is_there, sqlite_file

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

    from plumbline.history.mlflow_reader import Reader

__all__ = ["History", "Move", "RegisteredVersion", "Run", "Step", "StepStatus", "registered_versions"]

SHOW_EVERY = 10
"""Pages of a long first reading after which readers see what was read so far."""
MOST_FAILURES = 3
"""Runs of which MLflow does not give a file, after which a refresh asks for no others: each may take a
minute.
"""


class History:
    """What is recorded in one project's MLflow store. Reading it is cheap; `refresh` brings it up to date.

    What earlier processes have read is there at once. The mappings are never changed, only replaced, and only
    when something in them is new, so that any thread may read them while one refreshes.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.runs: Mapping[str, Run] = {}
        """By id, newest first."""
        self.versions: Mapping[int, RegisteredVersion] = {}
        """By number, newest first."""
        self.moves: tuple[Move, ...] = ()
        """Newest first."""
        self.others: Mapping[str, Step] = {}
        """Stages that plain `dvc repro` ran, by MLflow run, newest first."""
        self.graph = build({}, {}, {})
        """The lineage graph of all that, with the runs that it was made of."""
        self._one_at_a_time = threading.Lock()
        self._index = HistoryIndex(home.folder, home.tracking_uri)
        self._known = self._index.load()
        self._noted = self._known.complete
        self._going: dict[str, PipelineFacts | StageFacts] = {}
        """What has not ended, by MLflow run."""
        self._marks: dict[str, object] = {}
        """By MLflow run that has not ended, the state by which a change is noticed."""
        self._unread: dict[str, MlflowRun] = {}
        """Runs that have ended and of which MLflow has not given a file; at the end those that were asked for
        last.
        """
        self._failures = 0
        self._problem = ""
        """Of this refresh: how many runs could not be read, and why the last of them could not."""
        self._waiting = False
        self._reader: Reader | None = None
        self._assembly = Assembly(home, self._known, read_stages(home.root))
        self._assembled: dict[str, Run] = {}
        self._registered = registered(self._known.registry) if self._known.registry else Registered()
        self._assemble(self._known.pipelines)
        self._show()

    def run(self, name: str) -> Run:
        """Return the newest run for `latest`, or the one run whose id begins with `name`. Raises
        UserError.
        """
        found = runs_called(name, list(self.runs))
        if not self.runs:
            raise UserError("There are no runs yet. Start one with `plumbline run`.")
        if len(found) != 1:
            raise UserError(f"{len(found) or 'No'} runs have an id that begins with {name!r:.100}. The page "
                            "Runs lists them all; one that was just started appears within seconds.")
        return self.runs[found[0]]

    def version(self, name: str) -> RegisteredVersion | None:
        """Return the version with that number or alias; None if there is none."""
        return next((one for one in self.versions.values() if name in (str(one.number), *one.aliases)), None)

    def refresh(self) -> None:
        """Read what is new. Raises UserError when MLflow's store cannot be read; what was read before
        stays. Raises NoAnswer, after all else was read, where it does not give files of some runs: those are
        left out, and asked for again.
        """
        with self._reading() as reader:
            if reader.experiment is not None:
                self._update(reader)

    def refresh_versions(self) -> None:
        """Read the registry alone, which takes a fraction of a refresh. Raises UserError as `refresh`
        does.
        """
        with self._reading() as reader:
            self._read_registry(reader, again=True)
            self._show()

    @contextmanager
    def _reading(self) -> Iterator["Reader"]:
        """Give one thread at a time the store's reader, and raise UserError for an error of the store."""
        with self._one_at_a_time:
            file = sqlite_file(self.home)
            if file and not is_there(file):
                raise StoreGone(f"There is no MLflow store at {file} yet, so nothing has been recorded. "
                                "Start a run with `plumbline run`.")
            from mlflow.exceptions import MlflowException
            from sqlalchemy.exc import SQLAlchemyError

            from plumbline.history.mlflow_reader import Reader

            try:
                self._reader = self._reader or Reader(self.home)
                yield self._reader
            except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
                self._reader = None
                said = f"MLflow's store {self.home.tracking_uri} cannot be read: {error}."
                raise UserError(f"{masked(said)} See that its server runs, or that no other program locks "
                                "the file.") from error

    def _update(self, reader: "Reader") -> None:
        before, self._failures, self._problem = len(self._known), 0, ""
        # What waited for the store has the times when it happened, so it may be older than all that is known.
        if self._delivered():
            self._set_complete(False)
        self._read_pages(reader.new_runs(self._has) if self._known.complete else reader.all_runs(), reader)
        self._follow(reader)
        self._take(reader.old_runs(), reader)
        self._take(list(self._unread.values()), reader)
        self._set_complete(True)
        self._forget(reader.deleted(self._has))
        self._assemble(self._moved())
        self._read_registry(reader, again=len(self._known) != before)
        self._show()
        if self._problem:
            raise NoAnswer(f"{self._problem.rstrip('.')}. What cannot be read is left out, and asked for "
                           "again.")

    def _read_pages(self, pages: "Iterable[list[MlflowRun]]", reader: "Reader") -> None:
        """Keep the runs of these pages, newest first; where that fails in between, the next refresh reads
        all.
        """
        taken = 0
        try:
            for page in pages:
                self._take(page, reader)
                taken += 1
                if taken % SHOW_EVERY == 0:
                    self._show()
        except BaseException:
            if taken:  # otherwise nobody would look for what is older than these pages
                self._set_complete(False)
                self._show()
            raise
        self._set_complete(True)

    def _set_complete(self, complete: bool) -> None:
        """Note whether all that had ended was read: another process does not know which runs were not."""
        self._known.complete, whole = complete, complete and not self._unread
        if self._noted != whole:
            self._noted = whole
            self._index.note(COMPLETE, whole)

    def _read_registry(self, reader: "Reader", again: bool) -> None:
        found = reader.registry(again)
        if found is not None:
            self._registered = found
            self._index.note(REGISTRY, found.plain())

    def _has(self, run_id: str) -> bool:
        return run_id in self._known or run_id in self._going or run_id in self._unread

    def _delivered(self) -> bool:
        """True if records waited for the store at the last refresh and none does now."""
        before = self._waiting
        self._waiting = bool(pending(self.home))
        return before and not self._waiting

    def _follow(self, reader: "Reader") -> None:
        """Read what had not ended at the last refresh: it may have ended or been deleted."""
        running = reader.running()
        self._take(running, reader)
        for run_id in self._going.keys() - {run.info.run_id for run in running} - self._unread.keys():
            found = reader.run(run_id)
            if found:
                self._take([found], reader)
            else:
                self._forget([run_id])

    def _take(self, runs: "Iterable[MlflowRun]", reader: "Reader") -> None:
        """Keep the facts about these runs that are new, and assemble the pipeline runs that they belong
        to; those that cannot be read are left out.
        """
        ended: list[Facts] = []
        touched: set[str] = set()
        for run in filter(self._is_new, runs):
            found = self._read(run, reader)
            if found is None:
                continue
            facts, manifest = found
            run_id, over = run.info.run_id, run.info.status in STATUS
            # Many runs learn from the same snapshot: its manifest is kept once, under its own digest.
            if manifest and manifest.run_id not in self._known.manifests:
                self._known.add(manifest)
                ended.append(manifest)
            if over:
                ended.append(facts)
                self._known.add(facts)
                for waiting in (self._going, self._marks, self._unread):
                    waiting.pop(run_id, None)
            elif not isinstance(facts, str):
                self._going[run_id] = facts
                self._marks[run_id] = self._mark(run)
            # A stage changes its own pipeline run, and those whose records name it by an id of ours.
            touched.add(run_id)
            if isinstance(facts, StageFacts):
                touched |= {name for name in (facts.parent, facts.ours) if name}
        self._index.keep(ended)
        self._assemble(touched)

    def _read(self, run: "MlflowRun", reader: "Reader"
              ) -> tuple[PipelineFacts | StageFacts | str, ManifestFacts | None] | None:
        """Return what `_facts` does; None for a run of which MLflow does not give a file. One that has ended
        is then asked for again, after all others that wait; one that goes on comes by itself.
        """
        run_id, over = run.info.run_id, run.info.status in STATUS
        if self._failures < MOST_FAILURES:
            try:
                return self._facts(run, reader)
            except (NoAnswer, OSError) as error:
                self._failures += 1
                self._problem = str(error) if isinstance(error, NoAnswer) else (
                    f"A file of MLflow's run {run_id} cannot be read now: {error}")
                self._unread.pop(run_id, None)
        if over:
            self._unread.setdefault(run_id, run)
        return None

    def _is_new(self, run: "MlflowRun") -> bool:
        """Return whether something about a run may not be known yet."""
        if run.info.run_id in self._known:
            return False
        return run.info.status in STATUS or self._marks.get(run.info.run_id) != self._mark(run)

    def _facts(self, run: "MlflowRun",
               reader: "Reader") -> tuple[PipelineFacts | StageFacts | str, ManifestFacts | None]:
        """Return the facts of a run and its snapshot's; the bare id of a run that another program logged
        here.
        """
        if is_pipeline_run(run):
            return pipeline_facts(run, self.home, reader.artifacts)
        return (stage_facts(run, reader.artifacts) if is_stage(run) else str(run.info.run_id)), None

    def _mark(self, run: "MlflowRun") -> object:
        """Return what differs as soon as the facts about a run that goes on differ."""
        if not is_pipeline_run(run):
            return run.info.status
        record = self.home.runs / run.data.tags[PIPELINE_RUN] / RECORD_FILE
        return dict(run.data.tags), record.stat().st_mtime_ns if record.exists() else None

    def _forget(self, run_ids: Iterable[str]) -> None:
        gone = list(run_ids)
        for run_id in gone:
            self._known.remove(run_id)
            for known in (self._assembled, self._going, self._marks, self._unread):
                known.pop(run_id, None)
        if gone:
            self._index.forget(gone)

    def _assemble(self, touched: Iterable[str]) -> None:
        """Assemble again the pipeline runs among `touched`, those with a stage among them, and those that go
        on.
        """
        changed = set(touched)
        if not changed and not self._going:
            return
        for run_id, facts in self._pipelines().items():
            if run_id in changed or run_id in self._going or not changed.isdisjoint(facts.stage_runs()):
                stages = {one.stage: one for one in self._going.values()
                          if isinstance(one, StageFacts) and one.parent == run_id}
                self._assembled[run_id] = self._assembly.run(facts, stages)

    def _moved(self) -> list[str]:
        """Return the pipeline runs whose workspace was made or deleted since they were assembled, as
        `plumbline restore` and gc do; their MLflow runs stay as they are.
        """
        here = {folder.name for folder in self.home.runs.glob("*") if folder.is_dir()}
        return [name for name, run in self._assembled.items() if (run.folder is None) == (run.id in here)]

    def _pipelines(self) -> dict[str, PipelineFacts]:
        going = {one: facts for one, facts in self._going.items() if isinstance(facts, PipelineFacts)}
        return {**self._known.pipelines, **going}

    def _show(self) -> None:
        """Replace what readers see with what has been read, where something differs."""
        started = {run_id: facts.started for run_id, facts in self._pipelines().items()}
        newest = sorted(self._assembled.values(), key=lambda run: -started[run.mlflow_run])
        runs = {run.id: run for run in newest}
        versions = {version.number: version for version in self._registered.versions}
        others = self._others()
        self.moves = self._registered.moves
        if (runs, versions, others) != (self.runs, self.versions,
                                        self.others) or list(runs) != list(self.runs):
            self.graph = build(runs, versions, others)
            self.runs, self.versions, self.others = runs, versions, others

    def _others(self) -> dict[str, Step]:
        """Return the stages that plain `dvc repro` ran, by MLflow run, newest first."""
        facts = [one for one in (*self._known.stages.values(), *self._going.values())
                 if isinstance(one, StageFacts) and one.pipeline_run is None]
        return {one.run_id: self._assembly.alone(one) for one in sorted(facts, key=lambda one: -one.started)}


def registered_versions(home: Home) -> tuple[Mapping[int, RegisteredVersion], str]:
    """Return the registered versions by number, newest first, and what kept MLflow from being asked now, or
    "".

    Where MLflow is away they are those of the last reading, perhaps none. A store that was never made has no
    versions.
    """
    history = History(home)
    problem = ""
    try:
        history.refresh_versions()
    except UserError as error:
        problem = "" if isinstance(error, StoreGone) else str(error)
    return history.versions, problem
