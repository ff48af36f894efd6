"""Run a stage's program: what `python -m tasks.NAME` does.

The program gets a `StageRun`: it reads its inputs from the folders that dvc.yaml names, calls `report` as it
goes, and `finish` with what it measured. Started by the flow, the process writes files and sends what it
measures to the flow; by itself, as under `dvc repro`, it records what it did in MLflow as well.
"""

import json
import os
import platform
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING

from plumbline.compute.rank import compute_facts, end_with_who_started_this, rank, ranks, speak_as_rank
from plumbline.compute.start import started_on_ranks
from plumbline.config import Params, load_params
from plumbline.errors import UserError, after, as_user_error
from plumbline.progress import tell
from plumbline.project.digests import digests
from plumbline.project.dvc_yaml import StageSpec, read_stages
from plumbline.project.home import Home, enter, find_home
from plumbline.runs.stage_run import Program, SilentRun, StageRun
from plumbline.tracking.store import broken_store

if TYPE_CHECKING:
    from plumbline.runs.stage_record import StageRecord

GIVEN = "PLUMBLINE_STAGE_GIVEN"
"""Names the JSON file with the digests that the flow's process has computed already, and the run's id."""
LOST = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "Broken pipe",
        "Connection was likely closed", "remote process exit")
"""How torch says that another rank has gone."""
LOST_SECONDS = 3.0
"""From another rank's end to that of this one, so that the other's is the first that the agent sees."""
PACKAGES = ("plumbline", "torch", "transformers", "tokenizers", "safetensors", "mlflow", "dvc", "prefect",
            "numpy")


def run_as_command(name: str, program: Program) -> int:
    """Run a stage in the current folder, as DVC does; return the exit status.

    Where compute.yaml asks for it, the stage runs on ranks instead, and they come back to here.
    """
    try:
        status = started_on_ranks(find_home(), name)
        if status is not None:
            return status
        end_with_who_started_this()
        speak_as_rank()
        with _joined():
            run_stage(Path.cwd(), name, program)
    except Exception as error:
        return _told(error)
    return 0


def _told(error: Exception) -> int:
    """Tell the flow and the user what went wrong; return the exit status."""
    problem = as_user_error(error) or broken_store(os.environ.get("MLFLOW_TRACKING_URI", ""), error)
    if problem is not None:
        tell({"error": str(problem), "exit_code": problem.exit_code})
        sys.stderr.write(f"\n{problem}\n")
        return problem.exit_code
    traceback.print_exc()
    if ranks() > 1 and any(text in str(error) for text in LOST):
        sleep(LOST_SECONDS)  # whoever went has said why, or was killed
    else:
        tell({"crashed": f"{type(error).__name__}: {error}"})
    return 1


@contextmanager
def _joined() -> Iterator[None]:
    """Join the other ranks for a while, if there are any; a process that is alone does without torch."""
    if ranks() == 1:
        yield
        return
    from plumbline.lm.ranks.world import started

    with started():
        yield


def run_stage(root: Path, name: str, program: Program) -> None:
    """Run the program of a stage in `root`, and record it unless a flow that has started this process does.

    Raises UserError for a stage that dvc.yaml does not declare, and whatever the program raises.
    """
    home = find_home(root)
    enter(home)
    stages, params = read_stages(root), load_params(root)
    if name not in stages:
        raise UserError(f"dvc.yaml in {root} declares no stage `{name}`; it has {', '.join(stages)}.")
    if rank():
        with SilentRun(root, home, stages[name], params) as run:
            program(run)
    elif GIVEN in os.environ:
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
        tell({"host": host_facts(), "scratch": run.hand_over_scratch()})


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
        tell({"point": [name, value, step]})

    def tags(self, values: Mapping[str, str]) -> None:
        tell({"tags": dict(values)})


def host_facts() -> dict[str, str]:
    """Return Python, packages, threads, device and ranks of this process, for the receipt."""
    facts = {"python": platform.python_version(), "machine": platform.machine(), "cpus": str(os.cpu_count()),
             **compute_facts()}
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
