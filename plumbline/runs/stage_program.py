"""Run a stage's program: what `python -m tasks.NAME` does.

The program gets a `StageRun`: it reads its inputs from the folders that dvc.yaml names, calls `report` as it
goes, and `finish` with what it measured. Started by the flow, the process writes files and sends what it
measures to the flow; by itself, as under `dvc repro`, it records what it did in MLflow as well.
"""

import json
import math
import os
import platform
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from plumbline.config import Params, load_params
from plumbline.errors import UserError, after, as_user_error
from plumbline.progress import PROGRESS_FILE, Progress
from plumbline.project.digests import combined, digests
from plumbline.project.dvc_yaml import StageSpec, read_stages, stage_params
from plumbline.project.home import Home, enter, find_home
from plumbline.project.locks import try_lock
from plumbline.project.processes import end_group_with
from plumbline.project.run_record import DVC_REPRO
from plumbline.runs.curves import CurvePoint, Curves
from plumbline.tracking.store import broken_store

if TYPE_CHECKING:
    from plumbline.runs.stage_record import StageRecord

Measured = float | int | str | bool | None
FLOW_PID = "PLUMBLINE_FLOW_PID"
GIVEN = "PLUMBLINE_STAGE_GIVEN"
"""Names the JSON file with the digests that the flow's process has computed already, and the run's id."""
PACKAGES = ("plumbline", "torch", "transformers", "tokenizers", "safetensors", "mlflow", "dvc", "prefect",
            "numpy")


class Measurements(Protocol):
    """A sink for what a stage measures."""

    def point(self, name: str, value: float, step: int) -> None:
        """Add a point to a curve."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the stage's MLflow run."""


class StageRun:
    """One execution of a stage, as its program sees it."""

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
        curves = stage.file("curves.jsonl")
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
        known = {name: value for name, value in metrics.items() if value is not None}
        for name, value in known.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"Stage `{self._stage.name}` measured {name} = {value:g} where a finite "
                                "number was expected: a training before it diverged. Lower the learning "
                                "rates, set precision: fp32 where it is bf16, and look for strange rows in "
                                "the data's report.")
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
        """Make and return the folder for resume checkpoints, the same one for equal inputs, parameters and
        code; but no two processes have the same one at the same time.

        Call it before the first report: what a killed process reported is there, too.
        """
        if self._scratch is None:
            self._scratch = self._free_scratch()
            if self._curves:
                self._curves.keep_beside(self._scratch)
        return self._scratch

    def _free_scratch(self) -> Path:
        """Make a folder for resume checkpoints, or take one that no other process holds, and hold it."""
        params = json.dumps(stage_params(self.params, self._stage), sort_keys=True)
        key = combined({**self._inputs, "params": params, "code": self._code})
        for number in count(1):
            name = f"{self._stage.name}-{key}" + (f"-{number}" if number > 1 else "")
            if self._held.enter_context(try_lock(self.home.scratch / name / "lock")):
                break
        return self.home.scratch / name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Give the folder for resume checkpoints back; without an error it has served its purpose."""
        if self._scratch and error is None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        self._held.close()


Program = Callable[[StageRun], None]


def run_as_command(name: str, program: Program) -> int:
    """Run a stage in the current folder, as DVC does; return the exit status."""
    _die_with_the_flow()
    try:
        run_stage(Path.cwd(), name, program)
    except Exception as error:
        problem = as_user_error(error) or broken_store(os.environ.get("MLFLOW_TRACKING_URI", ""), error)
        if problem is None:
            traceback.print_exc()
            _send({"crashed": f"{type(error).__name__}: {error}"})
            return 1
        _send({"error": str(problem), "exit_code": problem.exit_code})
        sys.stderr.write(f"\n{problem}\n")
        return problem.exit_code
    return 0


def run_stage(root: Path, name: str, program: Program) -> None:
    """Run the program of a stage in `root`, and record it unless a flow that has started this process does.

    Raises UserError for a stage that dvc.yaml does not declare, and whatever the program raises.
    """
    home = find_home(root)
    enter(home)
    stages, params = read_stages(root), load_params(root)
    if name not in stages:
        raise UserError(f"dvc.yaml in {root} declares no stage `{name}`; it has {', '.join(stages)}.")
    if GIVEN in os.environ:
        _run_for_the_flow(root, home, stages[name], params, program)
    elif stages[name].receipt is None:
        run_unrecorded(root, home, stages[name], params, program)
    else:
        _run_recorded(root, home, stages, name, params, program)


def run_unrecorded(root: Path, home: Home, stage: StageSpec, params: Params, program: Program) -> None:
    """Run the program of a stage without a receipt: one that pins what is outside, such as the snapshot."""
    program(StageRun(root, home, stage, params, digests(root, stage.inputs), "", None))


def _run_for_the_flow(root: Path, home: Home, stage: StageSpec, params: Params, program: Program) -> None:
    given = json.loads(Path(os.environ[GIVEN]).read_text(encoding="utf-8"))
    with StageRun(root, home, stage, params, given["inputs"], given["code"], _ToTheFlow(),
                  given["pipeline_run"]) as run:
        program(run)
        _send({"host": host_facts()})


def _run_recorded(root: Path, home: Home, stages: Mapping[str, StageSpec], name: str, params: Params,
                  program: Program) -> None:
    from plumbline.runs.stage_record import StageRecord  # a flow's children need not load what records

    record = StageRecord(home, root, stages, name, params)
    try:
        run_in_this_process(record, root, home, stages[name], params, program)
    except BaseException as error:
        with after(error):
            record.recording.end("FAILED")
        raise


def run_in_this_process(record: "StageRecord", root: Path, home: Home, stage: StageSpec, params: Params,
                        program: Program) -> None:
    """Run the program of a stage here and complete its record, which the caller ends after an error."""
    with StageRun(root, home, stage, params, record.inputs, record.code, record.recording,
                  record.pipeline_run) as run:
        program(run)
        record.complete(host_facts())


class _ToTheFlow:
    """Sends what a stage measures to the flow, which records it."""

    def point(self, name: str, value: float, step: int) -> None:
        _send({"point": [name, value, step]})

    def tags(self, values: Mapping[str, str]) -> None:
        _send({"tags": dict(values)})


def host_facts() -> dict[str, str]:
    """Return Python, packages, threads and device of this process, for the receipt."""
    facts = {"python": platform.python_version(), "machine": platform.machine(), "cpus": str(os.cpu_count())}
    for package in PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")  # only where the program used it
    if torch is not None:
        facts["threads"] = str(torch.get_num_threads())
        facts["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return facts


def _send(line: dict[str, object]) -> None:
    """Write a line for the flow, if there is one."""
    file = os.environ.get(PROGRESS_FILE)
    if file:
        with Path(file).open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")


def _die_with_the_flow() -> None:
    """End this process group with the flow that started it: after `kill -9` of the flow nothing else does."""
    flow = int(os.environ.get(FLOW_PID, "0"))
    if flow:
        end_group_with(flow)
