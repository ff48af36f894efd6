"""`StageRun`: what a stage's program gets, and how its run becomes files and MLflow records.

The program reads its inputs from the folders that dvc.yaml names, calls `report` as it goes, and `finish` with what it
measured. Everything else is recorded around it: see `plumbline.runs.stage_program`.
"""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from plumbline.config import Params
from plumbline.errors import UserError
from plumbline.progress import Progress
from plumbline.project.digests import combined
from plumbline.project.dvc_yaml import Declared
from plumbline.project.home import Home

DVC_REPRO = "dvc repro"
"""In place of a run's id where `plumbline run` did not start the stage."""
Measured = float | int | str | bool | None


class Measurements(Protocol):
    """What takes in what a stage measures."""

    def point(self, name: str, value: float, step: int) -> None:
        """Add a point to a curve."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the stage's MLflow run."""


class StageRun:
    """One execution of a stage."""

    def __init__(self, root: Path, home: Home, stage: Declared, params: Params, inputs: Mapping[str, str],
                 code: str, measurements: Measurements | None, pipeline_run: str = DVC_REPRO) -> None:
        self.root = root
        """The workspace, or the checkout under plain `dvc repro`: paths of dvc.yaml start here."""
        self.home = home
        """The project: its root, where relative paths that a user gave start, and its stores."""
        self.params = params
        """All parameters, resolved."""
        self.pipeline_run = pipeline_run
        """The run's id, or `dvc repro`."""
        self.folder = root / stage.folder
        """Where metrics, samples and the receipt go, such as models/sft."""
        self._stage = stage
        self._inputs = inputs
        self._code = code
        self._measurements = measurements
        self._progress = Progress(stage.name)
        curves = stage.file("curves.jsonl")
        self._curves = root / curves if curves else None
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._curves:
            self._curves.write_text("", encoding="utf-8")

    def report(self, step: int, total: int, metrics: Mapping[str, float] | None = None, what: str = "") -> None:
        """Say that `step` of `total` is done; metrics become points of the curves. Never pass timings."""
        self._progress(step, total, metrics, what)
        if not metrics:
            return
        if self._curves:
            # JSON knows no NaN: a curve that diverged has a gap.
            values = {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
            with self._curves.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"what": what, "step": step, **values}) + "\n")
        if self._measurements:
            for name, value in metrics.items():
                if math.isfinite(value):
                    self._measurements.point(f"{what}/{name}" if what else name, float(value), step)

    def finish(self, metrics: Mapping[str, Measured]) -> None:
        """Write metrics.json and log it. What could not be measured is None, and absent from the file.

        Raises UserError for a figure that is infinite or not a number: what it was measured on is of no use.
        """
        known = {name: value for name, value in metrics.items() if value is not None}
        for name, value in known.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"Stage `{self._stage.name}` measured {name} = {value:g} where a finite number was "
                                "expected: a training before it diverged. Lower the learning rates, set precision: "
                                "fp32 where it is bf16, and look for strange rows in the data's report.")
        file = self._stage.file("metrics.json")
        if file:
            text = json.dumps(known, indent=1, sort_keys=True, allow_nan=False)
            (self.root / file).write_text(text + "\n", encoding="utf-8")
        if self._measurements:
            for name, value in known.items():
                if isinstance(value, str):
                    self._measurements.tags({f"result.{name}": value})
                else:
                    self._measurements.point(name, float(value), 0)

    def scratch(self) -> Path:
        """A folder for resume checkpoints; the same inputs, parameters and code find it again after a crash."""
        folder = self._scratch()
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def clear_scratch(self) -> None:
        """Delete the resume checkpoints: the stage succeeded."""
        shutil.rmtree(self._scratch(), ignore_errors=True)

    def _scratch(self) -> Path:
        name = self._stage.name
        used = {"params": json.dumps(stage_params(self.params, self._stage), sort_keys=True), "code": self._code}
        return self.home.scratch / f"{name}-{combined({**self._inputs, **used})}"


def stage_params(params: Params, stage: Declared) -> dict[str, object]:
    """The parameters that dvc.yaml names for a stage, flat: {"seed": 0, "sft.epochs": 2, ...}."""
    flat: dict[str, object] = {}
    values = params.model_dump()
    for key in stage.params:
        value: object = values
        for part in key.split("."):
            assert isinstance(value, dict)
            value = value[part]
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat
