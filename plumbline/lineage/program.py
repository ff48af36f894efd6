"""Run a stage's program and record it: MLflow run, inputs, the program, outputs, receipt.

This is what `python -m tasks.NAME` does, whether dvc runs it for `plumbline run` or by itself.
"""

import json
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from plumbline.config import load_params
from plumbline.errors import UserError, after, as_user_error
from plumbline.lineage import tracking
from plumbline.lineage.declared import Declared, read_stage
from plumbline.lineage.digests import combined, digest, digests
from plumbline.lineage.home import RECORD_FILE, Home, enter, find_home
from plumbline.lineage.journal import deliver
from plumbline.lineage.receipts import Output, Receipt, model_of
from plumbline.lineage.recorder import DVC_REPRO, StageRun, stage_params
from plumbline.lineage.records import RunRecord, alive, read_record
from plumbline.lineage.waiting import broken_store
from plumbline.lineage.workspace import git_state
from plumbline.progress import PROGRESS_FILE

Program = Callable[[StageRun], None]
FLOW_PID = "PLUMBLINE_FLOW_PID"
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
    """Run the program of a stage in `root` and record it."""
    home = find_home(root)
    enter(home)
    stage = read_stage(root, name)
    if stage.receipt is None:
        _run_unrecorded(root, home, stage, program)
    else:
        _run_recorded(root, home, stage, program)


def _run_unrecorded(root: Path, home: Home, stage: Declared, program: Program) -> None:
    run = StageRun(root, home, stage, load_params(root), digests(root, stage.inputs), "", None)
    program(run)


def _run_recorded(root: Path, home: Home, stage: Declared, program: Program) -> None:
    started, clock = datetime.now(UTC), time.monotonic()
    params = load_params(root)
    inputs, code = digests(root, stage.inputs), combined(digests(root, stage.code))
    record = read_record(root) if (root / RECORD_FILE).exists() else None
    commit, dirty = (record.git_commit, record.git_dirty) if record else git_state(root)
    if record is None:
        tracking.prepare(home)  # otherwise the run has done that
    deliver(home)  # what a stage before this one could not
    recording = tracking.Recording(home, stage.name, _tags(stage, record, commit, dirty))
    _announce(recording.run_id)
    used = stage_params(params, stage)
    version = str(used[f"{stage.name}.version"])
    try:
        recording.params(used)
        recording.inputs({path: md5 for path, md5 in inputs.items() if not path.startswith("models/")},
                         [model for path in inputs if (model := model_of(root, path))])
        run = StageRun(root, home, stage, params, inputs, code, recording, record.id if record else DVC_REPRO)
        program(run)
        host = _host()
        outputs = _record_outputs(root, stage, recording)
        receipt = Receipt(stage=stage.name, version=version, mlflow_run=recording.run_id,
                          pipeline_run=record.id if record else None, git_commit=commit, git_dirty=dirty, inputs=inputs,
                          outputs=outputs, code=code, params=used, seed=params.seed,
                          started=started.isoformat(timespec="seconds"),
                          seconds=round(time.monotonic() - clock, 2), host=host)
        assert stage.receipt is not None
        (root / stage.receipt).write_text(receipt.model_dump_json(indent=1) + "\n", encoding="utf-8")
        recording.tags({f"host.{name}": value for name, value in host.items()})
        recording.files(run.folder)
        for path in stage.outs:
            if path.startswith("reports/") and not path.startswith(f"{stage.folder}/"):
                recording.files(root / path)
    except BaseException as error:
        with after(error):
            recording.end("FAILED")
        raise
    recording.end("FINISHED")
    run.clear_scratch()


def _record_outputs(root: Path, stage: Declared, recording: tracking.Recording) -> dict[str, Output]:
    outputs = {}
    for path in stage.outputs:
        if not (root / path).exists():
            raise UserError(f"Stage `{stage.name}` ended without leaving {path}, which dvc.yaml declares.")
        md5 = digest(root / path)
        is_model = path.startswith("models/") and path.endswith("/model")
        model = recording.model(stage.folder.split("/")[-1], {"dvc.md5": md5, "dvc.path": path}) if is_model else None
        outputs[path] = Output(md5=md5, model_id=model)
    recording.tags({f"output.{path}": output.md5 for path, output in outputs.items()})
    return outputs


def _tags(stage: Declared, record: RunRecord | None, commit: str | None, dirty: bool | None) -> dict[str, str]:
    tags = {"plumbline.stage": stage.name, "plumbline.pipeline_run": record.id if record else DVC_REPRO}
    if record and record.mlflow_run:
        tags[tracking.PARENT] = record.mlflow_run
    if commit:
        tags |= {"mlflow.source.git.commit": commit, "git.dirty": str(dirty).lower()}
    return tags


def _host() -> dict[str, str]:
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


def _announce(mlflow_run: str) -> None:
    _write_line({"mlflow_run": mlflow_run})


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
