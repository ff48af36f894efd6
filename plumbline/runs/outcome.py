"""What became of a stage, ran or reused, and why.

The reason is the difference between what the stage was given now and what it was given the last time. Both
sides are entries of dvc.lock, so the answer rests on exactly what DVC compared.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

from plumbline.config import Params
from plumbline.errors import UserError
from plumbline.project.digests import combined, digests, listing
from plumbline.project.dvc_yaml import (
    LockEntry,
    StageSpec,
    dependencies_of,
    is_code,
    lock_entry,
    stage_params,
)
from plumbline.project.home import Home
from plumbline.project.run_record import Outcome, earlier_runs, run_folders
from plumbline.runs.workspace import Workspace
from plumbline.tracking.receipts import Receipt, read_receipt

FileNames = Callable[[str], list[str]]
"""The names of the files that differ inside a folder that two runs depend on; empty when unknown."""
COMPARED_RUNS = 20
SHOWN_FILES = 3
NOT_CACHED = "its earlier result is no longer in the cache"
ABSENT = "(absent)"


def describe(workspace: Workspace, stage: str, why_run: str | None, seconds: float) -> Outcome:
    """Return the outcome of a stage that has just been done; `why_run` is the reason unless DVC decided."""
    seconds = round(seconds, 2)
    now = lock_entry(workspace.folder, stage)
    assert now is not None, f"dvc.lock has no entry for {stage} although it has just been done"
    receipt = read_receipt(workspace.folder, workspace.stages[stage])
    if receipt is None:
        return _pinned(workspace, stage, now, seconds)

    # The receipt of a stage that came from the cache names the run that really made the result.
    made = {"mlflow_run": receipt.mlflow_run, "made_by": receipt.pipeline_run}
    if receipt.pipeline_run != workspace.record.id:
        since = receipt.pipeline_run or "`dvc repro`"
        return Outcome(status="reused", seconds=seconds, reason=f"nothing changed since {since}", **made)
    reason = why_run or _why_it_ran(workspace, stage, now)
    return Outcome(status="ran", seconds=seconds, reason=reason, **made)


def would_reuse(home: Home, params: Params, stage: StageSpec) -> Receipt | None:
    """Return the receipt of what a run of the checkout would reuse for a stage without inputs, or None.

    DVC takes what was made last with these parameters and this code.
    """
    used, code = stage_params(params, stage), combined(digests(home.root, stage.code))
    made = [receipt for folder in (home.root, *run_folders(home)) if (receipt := _readable(folder, stage))
            and (receipt.params, receipt.code) == (used, code)]
    return max(made, key=lambda receipt: receipt.started, default=None)


def _readable(folder: Path, stage: StageSpec) -> Receipt | None:
    try:
        return read_receipt(folder, stage)
    except (UserError, FileNotFoundError):  # damaged, or gc deletes it at this moment
        return None


def _why_it_ran(workspace: Workspace, stage: str, now: LockEntry) -> str:
    folder, before = next(_earlier(workspace, stage), (workspace.folder, None))
    return why(now, before, lambda path: changed_files(workspace.folder, folder, path))


def _pinned(workspace: Workspace, stage: str, now: LockEntry, seconds: float) -> Outcome:
    """Return the outcome of a stage that always runs: reused if an earlier run found the same outside world.
    """
    last: LockEntry | None = None
    for folder, before in itertools.islice(_earlier(workspace, stage), COMPARED_RUNS):
        last = last or before
        if now.get("outs") == before.get("outs"):
            return Outcome(status="reused", seconds=seconds, reason=f"nothing changed since {folder.name}",
                           made_by=folder.name)
    reason = why(now, last, lambda _path: [])
    if reason == NOT_CACHED:
        reason = "other data or models than before"
    return Outcome(status="ran", seconds=seconds, reason=reason)


def _earlier(workspace: Workspace, stage: str) -> Iterator[tuple[Path, LockEntry]]:
    """Yield the workspaces of earlier runs that have done the stage, and its entries, newest first."""
    for folder in earlier_runs(workspace.home, workspace.record.id):
        entry = lock_entry(folder, stage)
        if entry:
            yield folder, entry


def changed_files(new: Path, old: Path, path: str) -> list[str]:
    """Return the names of the files in which the folder `path` differs between two workspaces; empty for a
    file, and where gc deletes the older one at this moment.
    """
    try:
        now, before = (listing(root / path) if (root / path).is_dir() else {} for root in (new, old))
    except FileNotFoundError:
        return []
    if not old.exists():
        return []
    return sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))


def why(now: LockEntry, before: LockEntry | None, changed: FileNames) -> str:
    """Return one line such as `parameter ppo.kl_coef 0.05 -> 0.1; input models/sft/model changed`."""
    if before is None:
        return "first run"
    found = [*_parameters(now, before), *_dependencies(now, before, changed)]
    if now.get("cmd") != before.get("cmd"):
        found.append("command changed")
    return "; ".join(found) or NOT_CACHED


def _parameters(now: LockEntry, before: LockEntry) -> Iterator[str]:
    new, old = _flat_params(now), _flat_params(before)
    for key in {**new, **old}:
        if new.get(key, ABSENT) != old.get(key, ABSENT):
            yield f"parameter {key} {_text(old, key)} -> {_text(new, key)}"


def _dependencies(now: LockEntry, before: LockEntry, changed: FileNames) -> Iterator[str]:
    new, old = dependencies_of(now), dependencies_of(before)
    for path in {**new, **old}:
        kind = "code" if is_code(path) else "input"
        if path not in old:
            yield f"{kind} {path} is new"
        elif path not in new:
            yield f"{kind} {path} is no longer used"
        elif new[path] != old[path]:
            yield _changed(kind, path, changed(path))


def _changed(kind: str, path: str, files: list[str]) -> str:
    if not files:
        return f"{kind} {path} changed"
    more = f" and {len(files) - SHOWN_FILES} more" if len(files) > SHOWN_FILES else ""
    if kind == "code":
        return f"code {', '.join(f'{path}/{name}' for name in files[:SHOWN_FILES])}{more} changed"
    return f"input {path} changed ({', '.join(files[:SHOWN_FILES])}{more})"


def _flat_params(entry: LockEntry) -> dict[str, object]:
    """Return {"params.yaml": {"ppo": {"clip": 0.2}}} as {"ppo.clip": 0.2}, without the names of files."""
    flat: dict[str, object] = {}
    for block in cast(Mapping[str, object], entry.get("params") or {}).values():
        flat |= _leaves(block, "")
    return flat


def _leaves(value: object, key: str) -> dict[str, object]:
    if not isinstance(value, Mapping):
        return {key: value}
    flat: dict[str, object] = {}
    for name, inner in value.items():
        flat |= _leaves(inner, f"{key}.{name}" if key else name)
    return flat


def _text(values: Mapping[str, object], key: str) -> str:
    value = values.get(key, ABSENT)
    return "null" if value is None else str(value)
