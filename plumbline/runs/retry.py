"""`plumbline retry RUN`: go on from where a run stopped, with its parameters, its code and its data.

A retry is a run of its own that says so in its record. Stages that had been done come from the cache, because
nothing that they depend on has changed: the code is that of the run and not of the checkout, unless the user
asks for the checkout's, and the snapshot is the one that the run took. A stage that was in the middle goes on
from its checkpoint.
"""

from pathlib import Path
from typing import Self

from pydantic import ConfigDict

from plumbline.config import Params, ParamsBlock, check_params, load_params, read_yaml
from plumbline.errors import UserError
from plumbline.project.digests import restore_folder
from plumbline.project.dvc_objects import Storage
from plumbline.project.dvc_yaml import outputs_of
from plumbline.project.home import Home
from plumbline.runs.restore import put_code
from plumbline.runs.run_files import recorded
from plumbline.runs.workspace import GitState, Request, Workspace


class OtherVersionParams(Params):
    """The parameters of a run that another version of Plumbline made, as they stand in its file.

    What this version does not know is kept, and what it asks for may be absent: they are for the run's own
    code, which checks them, and here they are only passed on.
    """

    model_config = ConfigDict(extra="allow")

    @classmethod
    def read(cls, root: Path) -> Self:
        """Read `params.yaml` in `root`. Raises UserError for a missing or broken file."""
        values = read_yaml(root / "params.yaml")
        for name, field in Params.model_fields.items():
            below, block = values.get(name), field.annotation
            if isinstance(below, dict) and isinstance(block, type) and issubclass(block, ParamsBlock):
                as_it_is: type[ParamsBlock] = type(block.__name__, (block,), {
                    "model_config": ConfigDict(extra="allow"), "__module__": block.__module__})
                values[name] = as_it_is.model_construct(**below)
        return cls.model_construct(**values)  # type: ignore[arg-type]

    def completed(self, root: Path) -> Params:
        """Return parameters of this version: where the run's own are missing, those of `params.yaml` in
        `root`.

        Raises UserError if the two together cannot be used.
        """
        values, own = load_params(root).model_dump(), self.model_dump()
        for name, now in values.items():
            had = own.get(name, now)
            if isinstance(now, dict) and isinstance(had, dict):
                values[name] = now | {key: value for key, value in had.items() if key in now}
            else:
                values[name] = had
        return check_params(values, "params.yaml of the run that is retried")

    def model_dump(self) -> dict[str, object]:  # type: ignore[override]
        """Return plain values, those that this version does not know included."""
        return super().model_dump(serialize_as_any=True, warnings=False)


def retry_request(home: Home, name: str, new_code: bool) -> Request:
    """Return the request for a retry of a run. Raises UserError for a run that is going on or has finished.
    """
    with recorded(home, name, begun=False) as found:
        record = found.record
    if record.status in ("running", "finished"):
        running = record.status == "running"
        state = "is going on" if running else "has finished"
        end = "wait for its end, or `plumbline cancel` it"
        advice = end if running else "`plumbline run --force STAGE` repeats a stage"
        raise UserError(f"The run {record.id} {state}; expected one that failed, was cancelled or was "
                        f"killed: {advice}.")
    done = {stage for stage, outcome in record.stages.items() if outcome.status != "failed"}
    force = [stage for stage in record.force if stage not in done]
    return Request(params_file=record.params_file, settings=record.settings, until=record.until, force=force,
                   compare=record.compare, trigger=f"retry of {record.id}", retry_of=record.id,
                   new_code=new_code)


def params_of(home: Home, run: str, own_code: bool) -> Params:
    """Return the parameters that a run had; what concerns the project alone, such as webhooks, is that of
    now.

    They are OtherVersionParams if this version has other parameters and `own_code` will read them; otherwise
    UserError is raised.
    """
    now = load_params(home.root).retrain
    with recorded(home, run, begun=False) as found:
        try:
            params = load_params(found.folder)
        except UserError:
            if not own_code:
                raise
            params = OtherVersionParams.read(found.folder)
    return params.model_copy(update={"retrain": now})


def take_code(home: Home, run: str, folder: Path) -> GitState:
    """Put the code and dvc.yaml of a run into a workspace. Raises UserError if its code is nowhere."""
    with recorded(home, run, begun=False) as found:
        if not put_code(home, found, folder):
            commit = found.record.git_commit or "which nobody has written down"
            raise UserError(f"The code of the run {found.record.id} is not here: MLflow has no copy of it, "
                            f"and git in {home.root} does not have its commit, {commit}. Fetch that (`git "
                            "fetch`), or retry with the code of the checkout: `plumbline retry "
                            f"{found.record.id} --new-code`.")
        (folder / "dvc.yaml").write_bytes((found.folder / "dvc.yaml").read_bytes())
        return found.record.git_commit, found.record.git_dirty


def take_outputs(workspace: Workspace, stage: str) -> bool:
    """Copy the outputs that a stage left in the run that is retried, or in the one that this one retried, and
    so on; False if none of them did the stage.

    Raises UserError if they are gone: the stage would find another world outside than that run did.
    """
    outs: dict[str, str] = {}
    run = earlier = workspace.record.retry_of
    while earlier and not outs:
        with recorded(workspace.home, earlier, begun=False) as found:
            outs, run, earlier = outputs_of(found.folder, stage), earlier, found.record.retry_of
    storage = Storage(workspace.home)
    storage.drop_damaged(outs.values())
    gone = storage.fetch(outs.values()) if outs else ()
    if gone:
        raise UserError(f"What stage `{stage}` left in the run {run} is gone: {len(gone)} of its files, such "
                        f"as {min(gone)}. A retry must not go on with anything else. Looked in "
                        f"{storage.where()}. Start a new run: `plumbline run`.")
    for path, md5 in outs.items():
        restore_folder(workspace.home.cache, md5, workspace.folder / path)
    return bool(outs)
