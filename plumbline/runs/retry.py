"""`plumbline retry RUN`: go on from where a run stopped, with its parameters, its code and its data.

A retry is a run of its own that says so in its record. Stages that had been done come from the cache, because nothing
that they depend on has changed: the code is that of the run and not of the checkout, unless the user asks for the
checkout's, and the snapshot is the one that the run took. A stage that was in the middle goes on from its checkpoint.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.config import Params, load_params
from plumbline.errors import UserError
from plumbline.project.digests import restore_folder
from plumbline.project.dvc_objects import Storage
from plumbline.project.home import Home
from plumbline.runs.dvc_stage import lock_entry
from plumbline.runs.restore import put_code
from plumbline.runs.run_files import outputs_of, recorded

if TYPE_CHECKING:
    from plumbline.runs.workspace import Request, Workspace


def retry_request(home: Home, name: str, new_code: bool) -> "Request":
    """What a retry of a run is asked to do. Raises UserError for a run that is going on or has finished."""
    from plumbline.runs.workspace import Request

    with recorded(home, name, begun=False) as found:
        record = found.record
    if record.status in ("running", "finished"):
        advice = "wait for its end, or `plumbline cancel` it" if record.status == "running" else \
            "`plumbline run --force STAGE` repeats a stage"
        raise UserError(f"The run {record.id} {'is going on' if record.status == 'running' else 'has finished'}; "
                        f"expected one that failed, was cancelled or was killed: {advice}.")
    done = {stage for stage, outcome in record.stages.items() if outcome.status != "failed"}
    return Request(params_file=record.params_file, settings=record.settings, until=record.until,
                   force=[stage for stage in record.force if stage not in done], trigger=f"retry of {record.id}",
                   retry_of=record.id, new_code=new_code)


def params_of(home: Home, run: str) -> Params:
    """The parameters that a run had, whatever params.yaml says now; who is told of it is what params.yaml says."""
    with recorded(home, run, begun=False) as found:
        return load_params(found.folder).model_copy(update={"retrain": load_params(home.root).retrain})


def take_code(home: Home, run: str, folder: Path) -> tuple[str | None, bool | None]:
    """Put the code and the pipeline of a run into a workspace; the commit, and whether there were changes to it."""
    with recorded(home, run, begun=False) as found:
        put_code(home, found, folder)
        (folder / "dvc.yaml").write_bytes((found.folder / "dvc.yaml").read_bytes())
        return found.record.git_commit, found.record.git_dirty


def take_outputs(workspace: "Workspace", stage: str) -> bool:
    """Put what a stage left in the run that is retried into the workspace; says whether it had left anything."""
    assert workspace.record.retry_of is not None
    with recorded(workspace.home, workspace.record.retry_of, begun=False) as found:
        if lock_entry(found.folder, stage) is None:
            return False
        outs = outputs_of(found.folder, stage)
    lacking = Storage(workspace.home).fetch(outs.values())
    if lacking:
        return False
    for path, md5 in outs.items():
        restore_folder(workspace.home.cache, md5, workspace.folder / path)
    return True
