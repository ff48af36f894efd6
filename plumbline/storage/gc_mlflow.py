"""The part of `plumbline gc` that frees MLflow: runs that nothing refers to.

Records are small, and lineage is made of them. So the records of a run that goes stay if it registered a
version, or if a run that stays reuses one of its stages, or again one of such a run. What is left, mostly
runs that failed or that were tried and given up, is deleted with its artifacts, unless a server keeps the
store: there it is marked as deleted, and `mlflow gc` on the server's machine frees it.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.config import registered_name
from plumbline.project.home import Home
from plumbline.project.run_record import raw_record
from plumbline.tracking.outbox import pending
from plumbline.tracking.recording import TRIGGER
from plumbline.tracking.store import MlflowStore, sqlite_file
from plumbline.tracking.writes import PARENT

if TYPE_CHECKING:
    from mlflow.entities import Run

PAGE = 100
PIPELINE_RUN = "plumbline.pipeline_run"


@dataclass(frozen=True)
class UnreferencedRecords:
    """MLflow runs, and their models, that nothing refers to."""

    whole: set[str] = field(default_factory=set)
    """Pipeline runs."""
    stages: set[str] = field(default_factory=set)
    models: set[str] = field(default_factory=set)

    @property
    def runs(self) -> set[str]:
        """Pipeline runs and runs of stages."""
        return self.whole | self.stages

    def folders(self, home: Home) -> list[Path]:
        """Return the folders of their artifacts on this machine."""
        return [folder for run in self.runs if (folder := home.artifacts / run).is_dir()]


def unreferenced(home: Home, going: Sequence[Path]) -> UnreferencedRecords:
    """Return the records of `going` workspaces that nothing refers to; none while the outbox has some."""
    parents = {record.mlflow_run for folder in going if (record := raw_record(folder)).mlflow_run}
    if not parents or pending(home):
        return UnreferencedRecords()
    store = MlflowStore(home)
    pipeline_runs = _pages(store, f"tags.`{TRIGGER}` != ''")
    whole: dict[str, Run] = {run.info.run_id: run for run in pipeline_runs}
    stages: dict[str, list[Run]] = {}
    for run in _pages(store, f"tags.`{PARENT}` != ''"):
        stages.setdefault(run.data.tags[PARENT], []).append(run)
    belongs = {stage.info.run_id: parent for parent, found in stages.items() for stage in found}
    registered = _registered(home, store)
    stays = {parent for parent, run in whole.items() if parent not in parents
             or run.data.tags.get(PIPELINE_RUN) in registered}
    waits = list(stays)
    # What a run that stays has reused was made by other runs: their records stay as well, and so on.
    while waits:
        tags = whole[waits.pop()].data.tags
        for name, value in tags.items():
            made_by = belongs.get(value) if name.startswith("stage.") else None
            if made_by in whole and made_by not in stays:
                stays.add(made_by)
                waits.append(made_by)
    goes = {parent for parent in parents if parent in whole and parent not in stays}
    found = [stage for parent in goes for stage in stages.get(parent, [])]
    models = {output.model_id for stage in found for output in stage.outputs.model_outputs}
    return UnreferencedRecords(goes, {stage.info.run_id for stage in found}, models)


def delete(home: Home, records: UnreferencedRecords) -> None:
    """Delete models, then runs of stages, then pipeline runs: by those an interrupted gc finds the rest."""
    store = MlflowStore(home)
    if sqlite_file(home):
        # What `mlflow gc` does; the command would also purge whatever else the user has in MLflow's trash.
        backend = store.client._tracking_client.store
        purge_model, purge_run = backend._hard_delete_logged_model, backend._hard_delete_run
    else:
        purge_model = purge_run = _nothing
    for model in records.models:
        store.client.delete_logged_model(model)
        purge_model(model)
    for run in (*records.stages, *records.whole):
        store.client.delete_run(run)
        shutil.rmtree(home.artifacts / run, ignore_errors=True)
        purge_run(run)


def _nothing(_name: str) -> None:
    """Purge nothing: on a server's store, `mlflow gc` on its machine purges what is marked as deleted."""


def _registered(home: Home, store: MlflowStore) -> set[str]:
    """Return the ids of the pipeline runs that registered a version."""
    from plumbline.tracking.registry import Registry

    registry = Registry(store, registered_name(home.root))
    return {run for _, run, _ in registry.versions()}


def _pages(store: MlflowStore, query: str) -> "Iterator[Run]":
    token: str | None = None
    while True:
        page = store.client.search_runs([store.experiment], query, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
