"""Announce how a run ended, that a gate said no, that another policy is champion or awaits approval."""

import contextlib
import json
from pathlib import Path

from plumbline.errors import GateFailed
from plumbline.notify.notices import notify
from plumbline.notify.prefect_events import (
    APPROVAL_AWAITED,
    CHAMPION_CHANGED,
    GATE_FAILED,
    RUN_FAILED,
    RUN_FINISHED,
)
from plumbline.project.home import Home
from plumbline.project.locks import file_lock
from plumbline.runs.workspace import Workspace
from plumbline.tracking.curves import findings
from plumbline.tracking.registry import AWAITING, CHAMPION, Registry
from plumbline.tracking.store import require_store, sqlite_file
from plumbline.whole_file import write_whole

NOTICED = "champion.json"
"""The champion that was announced last, and the version that awaits approval."""


def run_ended(workspace: Workspace, error: BaseException | None) -> None:
    """Announce how a run ended. Never raises."""
    record, webhook = workspace.record, workspace.params.retrain.webhook
    event = RUN_FINISHED
    if error is not None:
        event = GATE_FAILED if isinstance(error, GateFailed) else RUN_FAILED
    stages = {name: outcome.status for name, outcome in record.stages.items()}
    payload = {"run": record.id, "status": record.status, "message": record.message,
               "trigger": record.trigger, "host": record.host, "stages": stages,
               "diagnosis": _diagnosis(workspace.folder)}
    notify(workspace.home, webhook, event, f"plumbline.run.{record.id}", payload)
    with contextlib.suppress(Exception):  # a store that does not answer has been reported by the run itself
        champion_changed(workspace.home, workspace.params.promote.model_name, webhook)


def _diagnosis(workspace: Path) -> dict[str, list[str]]:
    """Return what is wrong with the trainings of a run, a sentence each, by stage."""
    with contextlib.suppress(Exception):  # of a run that failed before it had all its files
        return {stage: [f"{one.name}: {one.seen}" for one in found]
                for stage, found in findings(workspace).items() if found}
    return {}


def champion_changed(home: Home, model: str, webhook: str | None) -> None:
    """Announce the champion, and the version that awaits approval, unless they are those announced last.

    It does not matter who moved the alias.
    """
    if sqlite_file(home) and not home.artifacts.exists():
        return  # no run has been recorded; the files of a server are not in the home
    require_store(home)
    _announce(home, model, model, CHAMPION, CHAMPION_CHANGED, webhook)
    _announce(home, model, f"{model}:{AWAITING}", AWAITING, APPROVAL_AWAITED, webhook)


def _announce(home: Home, model: str, key: str, alias: str, event: str, webhook: str | None) -> None:
    """Announce the version behind an alias if it is another than the one noticed under `key`.

    That nothing awaits approval any more is noticed, and no news.
    """
    file = home.folder / NOTICED
    with file_lock(file.with_suffix(".lock")):  # the run and `plumbline up` may look at the same moment
        found = Registry.open(home, model).aliased(alias)
        before = _noticed(file)
        now = found.version if found else None
        if before.get(key) == now:
            return
        write_whole(file, json.dumps({**before, key: now}) + "\n")
    if now is not None or alias == CHAMPION:
        notify(home, webhook, event, f"plumbline.model.{model}",
               {"model": model, "version": now, "before": before.get(key)})


def _noticed(file: Path) -> dict[str, int | None]:
    """Return the versions that were announced last, by model; empty if the file is lost or damaged."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
