"""What DVC does for `many_runs.py`, in milliseconds: decide by content what is still good, keep it, bring it back.

The cache has DVC's layout and dvc.lock has DVC's entries (as JSON, which is YAML), so that whoever reads them finds
what a real run leaves.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from plumbline.project.digests import cached_file, combined, digest, digests, listing, restore_folder
from plumbline.project.dvc_yaml import StageSpec, stage_params
from plumbline.project.run_record import Outcome
from plumbline.runs.outcome import why
from plumbline.runs.workspace import Workspace
from plumbline.tracking.receipts import read_receipt

Lock = dict[str, object]
DONE = "done.json"
"""By stage: the last run that did it anew, and its entry in dvc.lock; by digest of what was given: what came out."""


class SmallDvc:
    """One stage in one workspace."""

    def __init__(self, run: Workspace, stage: StageSpec) -> None:
        self.run, self.stage, self.root = run, stage, run.folder
        self.deps = digests(self.root, stage.deps)
        params = stage_params(run.params, stage)
        self.entry: Lock = {
            "cmd": stage.command,
            "deps": [{"path": path, "hash": "md5", "md5": md5} for path, md5 in self.deps.items()],
            "params": {"params.yaml": _nested(params)}}
        self.key = f"{stage.name} {combined({**self.deps, 'params': json.dumps(params, sort_keys=True)})}"
        self.file = run.home.folder / DONE
        self.known: dict[str, Lock] = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.last = self.known.get(stage.name)

    def restore(self) -> bool:
        """Bring back what the stage left the last time that it was given the same."""
        outs = self.known.get(self.key)
        if outs is None or self.stage.always_changed:
            return False
        for path, md5 in cast(dict[str, str], outs["outs"]).items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            if md5.endswith(".dir"):
                restore_folder(self.run.home.cache, md5, self.root / path)
            else:
                shutil.copyfile(cached_file(self.run.home.cache, md5), self.root / path)
        self._lock(cast(dict[str, str], outs["outs"]))
        return True

    def commit(self) -> None:
        """Keep what the stage left."""
        outs = {path: digest(self.root / path) for path in (*self.stage.outs, *self.stage.metrics)}
        for path, md5 in outs.items():
            _keep(self.run.home.cache, self.root / path, md5)
        self._lock(outs)
        self.known[self.key] = {"outs": outs}

    def outcome(self, seconds: float) -> Outcome:
        """As `plumbline.runs.outcome.describe` has it."""
        seconds, me = round(seconds, 2), self.run.record.id
        receipt = read_receipt(self.root, self.stage)
        mlflow_run = receipt.mlflow_run if receipt else None
        same = self.last and self.last["entry"]["outs"] == self.entry["outs"]  # type: ignore[index]
        maker = receipt.pipeline_run if receipt else cast(str, self.last["run"]) if self.last and same else me
        if maker != me:
            return Outcome(status="reused", seconds=seconds, reason=f"nothing changed since {maker}",
                           mlflow_run=mlflow_run, made_by=maker)
        reason = why(self.entry, cast(Lock, self.last["entry"]) if self.last else None, lambda _: [])
        self.known[self.stage.name] = {"run": me, "entry": self.entry}
        self.file.write_text(json.dumps(self.known))
        return Outcome(status="ran", seconds=seconds, reason=reason, mlflow_run=mlflow_run,
                       made_by=me if receipt else None)

    def _lock(self, outs: Mapping[str, str]) -> None:
        self.entry["outs"] = [{"path": path, "hash": "md5", "md5": md5} for path, md5 in outs.items()]
        file = self.root / "dvc.lock"
        lock = json.loads(file.read_text()) if file.exists() else {"schema": "2.0", "stages": {}}
        lock["stages"][self.stage.name] = self.entry
        file.write_text(json.dumps(lock, indent=1))


def _nested(flat: Mapping[str, object]) -> Lock:
    found: dict[str, dict[str, object]] = {}
    for key, value in flat.items():
        block, _, name = key.partition(".")
        if name:
            found.setdefault(block, {})[name] = value
        else:
            found[block] = value  # type: ignore[assignment]
    return cast(Lock, found)


def _keep(cache: Path, path: Path, md5: str) -> None:
    target = cached_file(cache, md5)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_dir():
        shutil.copyfile(path, target)
        return
    names = listing(path)
    for name, file in names.items():
        _keep(cache, path / name, file)
    target.write_text(json.dumps([{"md5": file, "relpath": name} for name, file in sorted(names.items())]))
