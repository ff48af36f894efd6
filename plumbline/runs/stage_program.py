"""Run a stage's program: what `python -m tasks.NAME` does.

Started by the flow, it writes files and tells the flow what it measures; by itself, as under `dvc repro`, it records
what it did in MLflow as well.
"""

import json
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from plumbline.config import load_params
from plumbline.errors import UserError, after, as_user_error
from plumbline.progress import PROGRESS_FILE
from plumbline.project.digests import digests
from plumbline.project.dvc_yaml import Declared, read_stage
from plumbline.project.home import Home, enter, find_home
from plumbline.project.run_record import alive
from plumbline.runs.recorder import StageRun
from plumbline.tracking.store import broken_store

Program = Callable[[StageRun], None]
FLOW_PID = "PLUMBLINE_FLOW_PID"
GIVEN = "PLUMBLINE_STAGE_GIVEN"
"""Names the file in which the flow's process tells a stage's process what it has digested already."""
PACKAGES = ("plumbline", "torch", "transformers", "tokenizers", "safetensors", "mlflow", "dvc", "prefect", "numpy")


def run_as_command(name: str, program: Program) -> int:
    """Run a stage in the current folder, as dvc does. Returns the exit status."""
    _die_with_the_flow()
    try:
        run_stage(Path.cwd(), name, program)
    except Exception as error:
        problem = as_user_error(error) or broken_store(os.environ.get("MLFLOW_TRACKING_URI", ""), error)
        if problem is None:
            traceback.print_exc()
            _write_line({"crashed": f"{type(error).__name__}: {error}"})
            return 1
        _tell(problem)
        return problem.exit_code
    return 0


def run_stage(root: Path, name: str, program: Program) -> None:
    """Run the program of a stage in `root` and record it; the flow records for the child that it has started."""
    home = find_home(root)
    enter(home)
    stage = read_stage(root, name)
    if GIVEN in os.environ:
        _run_for_the_flow(root, home, stage, program)
    elif stage.receipt is None:
        program(StageRun(root, home, stage, load_params(root), digests(root, stage.inputs), "", None))
    else:
        _run_recorded(root, home, stage, program)


def _run_for_the_flow(root: Path, home: Home, stage: Declared, program: Program) -> None:
    """Run the program; what it measures goes to the flow's process with its progress."""
    given = json.loads(Path(os.environ[GIVEN]).read_text(encoding="utf-8"))
    run = StageRun(root, home, stage, load_params(root), given["inputs"], given["code"], _ToTheFlow(),
                   given["pipeline_run"])
    program(run)
    _write_line({"host": host_facts()})
    run.clear_scratch()


def _run_recorded(root: Path, home: Home, stage: Declared, program: Program) -> None:
    """Run the program and record it in this process."""
    from plumbline.runs.stage_record import StageRecord  # what records is not for the children of a flow

    record = StageRecord(home, root, stage)
    try:
        run = StageRun(root, home, stage, load_params(root), record.inputs, record.code, record, record.pipeline_run)
        program(run)
        record.complete(host_facts())
    except BaseException as error:
        with after(error):
            record.fail("FAILED")
        raise
    run.clear_scratch()


class _ToTheFlow:
    """Hands what a stage measures to the flow, which records it."""

    def point(self, name: str, value: float, step: int) -> None:
        """Add a point to a curve."""
        _write_line({"point": [name, value, step]})

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the stage's MLflow run."""
        _write_line({"tags": dict(values)})


def host_facts() -> dict[str, str]:
    """Python, packages, threads and device of this process, for the receipt."""
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


def _tell(problem: UserError) -> None:
    if os.environ.get(PROGRESS_FILE):
        _write_line({"error": str(problem), "exit_code": problem.exit_code})
    sys.stderr.write(f"\n{problem}\n")


def _write_line(line: dict[str, object]) -> None:
    file = os.environ.get(PROGRESS_FILE)
    if file:
        with Path(file).open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")


def _die_with_the_flow() -> None:
    """End this process group when the flow that started it is gone, for nobody else would: kill -9 runs no handler."""
    flow = int(os.environ.get(FLOW_PID, "0"))
    if not flow:
        return

    def watch() -> None:
        while alive(flow):
            time.sleep(1.0)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
