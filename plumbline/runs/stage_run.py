"""One execution of a stage, as its program sees it: it reads its inputs from the folders that dvc.yaml names,
calls `report` as it goes, and `finish` with what it measured.

Where a stage runs on several ranks (`compute/`), all of them run the same program, and rank 0 alone writes:
the others have a `SilentRun`.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Protocol, Self

from plumbline.compute.rank import ranks
from plumbline.config import Params
from plumbline.errors import UserError
from plumbline.progress import Progress
from plumbline.project.digests import combined
from plumbline.project.dvc_yaml import StageSpec, stage_params
from plumbline.project.home import Home
from plumbline.project.locks import try_lock
from plumbline.project.run_record import DVC_REPRO
from plumbline.tracking.curves import CurvePoint, Curves

Measured = float | int | str | bool | None
SCRATCH_LOCK = "lock"


class Measurements(Protocol):
    """A sink for what a stage measures."""

    def point(self, name: str, value: float, step: int) -> None:
        """Add a point to a curve."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the stage's MLflow run."""


class StageRun:
    """One execution of a stage, as its program sees it."""

    silent = False
    """True on ranks other than 0, which leave nothing."""

    def __init__(self, root: Path, home: Home, stage: StageSpec, params: Params, inputs: Mapping[str, str],
                 code: str, measurements: Measurements | None, pipeline_run: str = DVC_REPRO) -> None:
        self.root = root
        """The workspace, or the checkout under plain `dvc repro`: paths of dvc.yaml start here."""
        self.home = home
        """The project: its root, where relative paths that a user gave start, and its stores."""
        self.params = params
        """All parameters, resolved."""
        self.pipeline_run = pipeline_run
        """The run's id, or `dvc repro`."""
        self.item = stage.item
        """What the stage is done for, such as `dpo` of `candidate@dpo`; empty without `foreach`."""
        self.folder = root / stage.folder
        """Where metrics, samples and the receipt go, such as models/sft."""
        self._stage = stage
        self._inputs = inputs
        self._code = code
        self._measurements = measurements
        self._progress = Progress(stage.name)
        curves = None if self.silent else stage.file("curves.jsonl")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._curves = Curves(root / curves) if curves else None
        self._scratch: Path | None = None
        self._held = ExitStack()

    def report(self, step: int, total: int, metrics: Mapping[str, float] | None = None,
               what: str = "") -> None:
        """Report that `step` of `total` is done; metrics become points of the curves. Never pass timings."""
        self._progress(step, total, metrics, what)
        if not metrics:
            return
        values = {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
        point = CurvePoint(what, step, values)
        for added in self._curves.add(point) if self._curves else [point]:
            self._record(added)

    def _record(self, point: CurvePoint) -> None:
        for name, value in point.values.items():
            if self._measurements and value is not None:
                named = f"{point.what}/{name}" if point.what else name
                self._measurements.point(named, value, point.step)

    def finish(self, metrics: Mapping[str, Measured]) -> None:
        """Write metrics.json and log the metrics; those that are None were not measured and are left out.

        Raises UserError for a figure that is infinite or not a number: what it was measured on is of no use.
        """
        known = self._finite(metrics)
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

    def _finite(self, metrics: Mapping[str, Measured]) -> dict[str, float | int | str | bool]:
        """Return the metrics that were measured. Raises UserError for one that is no finite number."""
        known = {name: value for name, value in metrics.items() if value is not None}
        for name, value in known.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"Stage `{self._stage.name}` measured {name} = {value:g} where a finite "
                                "number was expected: a training before it diverged. Lower the learning "
                                "rates, set precision: fp32 where it is bf16, and look for strange rows in "
                                "the data's report.")
        return known

    def write(self, name: str, text: str) -> None:
        """Write a file into the stage's folder."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def scratch(self) -> Path:
        """Make and return the folder for resume checkpoints, the same one for equal inputs, parameters and
        code; but no two processes have the same one at the same time, except for the ranks of a stage, who
        all have to call this.

        Call it before the first report: what a killed process reported is there, too.
        """
        if self._scratch is None:
            self._scratch = Path(_of_rank_0(str(self._free_scratch())))
            if self._curves:
                self._curves.keep_beside(self._scratch)
        return self._scratch

    def hand_over_scratch(self) -> str | None:
        """Return the folder for resume checkpoints, if there is one, for whoever keeps what the stage leaves
        to delete after that: until then a retry goes on from it.
        """
        folder, self._scratch = self._scratch, None
        return str(folder) if folder else None

    def shared_file(self, kind: str, inputs: Sequence[str], others: Mapping[str, str]) -> Path | None:
        """Return the file, be it there or not, for what stages of the same code and parameters share if these
        `inputs` and `others` are the same.

        None for a program that was started without a digest of its code: nobody could tell what it makes.
        """
        if not self._code:
            return None
        key = self._key({**others, **{path: self._inputs[path] for path in inputs}})
        return self.home.folder / kind / f"{key}.json"

    def _key(self, depends_on: Mapping[str, str]) -> str:
        """Return a name that stands for the stage's code and parameters and for these digests."""
        params = json.dumps(stage_params(self.params, self._stage), sort_keys=True)
        return combined({**depends_on, "params": params, "code": self._code})

    def _free_scratch(self) -> Path:
        """Make a folder for resume checkpoints, or take one that no other process holds, and hold it."""
        key = self._key(self._inputs)
        for number in count(1):
            name = f"{self._stage.name}-{key}" + (f"-{number}" if number > 1 else "")
            if self._held.enter_context(try_lock(self.home.scratch / name / SCRATCH_LOCK)):
                break
        return self.home.scratch / name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Give the folder for resume checkpoints back; without an error it has served its purpose."""
        if self._scratch and error is None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        self._held.close()


class SilentRun(StageRun):
    """The same on a rank other than 0, which works as much and writes nothing."""

    silent = True

    def __init__(self, root: Path, home: Home, stage: StageSpec, params: Params) -> None:
        super().__init__(root, home, stage, params, {}, "", None)

    def report(self, step: int, total: int, metrics: Mapping[str, float] | None = None,
               what: str = "") -> None:
        """Leave reports to rank 0."""

    def finish(self, metrics: Mapping[str, Measured]) -> None:
        """Check the metrics. Raises UserError for a figure that is infinite or not a number."""
        self._finite(metrics)

    def write(self, name: str, text: str) -> None:
        """Leave files to rank 0."""

    def scratch(self) -> Path:
        """Return the folder for resume checkpoints that rank 0 has made and holds."""
        if self._scratch is None:
            self._scratch = Path(_of_rank_0(""))
        return self._scratch

    def __exit__(self, *_: object) -> None:
        """Leave the folder for resume checkpoints to rank 0."""


def _of_rank_0(value: str) -> str:
    """Return what rank 0 has given; all ranks have to call this."""
    if ranks() == 1:
        return value
    from plumbline.lm.ranks.world import world

    return world().gathered([value])[0]


def drop_scratch(folder: Path) -> None:
    """Delete a folder for resume checkpoints that was handed over, unless another process has taken it."""
    if folder.is_dir():
        with try_lock(folder / SCRATCH_LOCK) as free:
            if free:
                shutil.rmtree(folder, ignore_errors=True)


Program = Callable[[StageRun], None]
