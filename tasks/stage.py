"""A stage: its program, which dvc.yaml runs, and its versioned Prefect task, which the flow calls.

`python -m tasks.sft` runs the program and records it. `sft(workspace)` runs the stage as a Prefect task:
restored from the cache where nothing changed, otherwise its command in dvc.yaml in a child process. DVC alone
decides which, so Prefect's own caching is off. Importing this module imports neither Prefect nor MLflow: a
stage's process has no use for the first.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from plumbline.project.dvc_yaml import JOIN
from plumbline.runs.stage_program import run_as_command
from plumbline.runs.stage_run import Program, StageRun
from plumbline.runs.workspace import Workspace

__all__ = ["Stage", "StageRun"]


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline, named as in dvc.yaml and params.yaml."""

    name: str
    program: Program
    retries: int = 0
    timeout_minutes: float = 60
    resolver: bool = False
    """It pins what is outside of the files, cheaply: it runs each time, in the flow's own process."""
    in_flow: bool = False
    """Run its program in the flow's process, which has MLflow loaded, and not in a process of its own: for a
    stage that only asks and tells the registry.
    """
    kept_by_retry: bool = False
    """A retry takes what the retried run left instead of running the stage."""
    check_kept: Callable[[Workspace], None] | None = None
    """Called when a retry has taken that; raises UserError if the retry may not go on with it."""
    still_done: Callable[[Workspace], bool] | None = None
    """For a stage with an effect outside of its files: True if that still holds when they come from the
    cache.
    """

    def of(self, item: str) -> Self:
        """Return the stage for one item of its `foreach` in dvc.yaml, such as `candidate@dpo`."""
        return replace(self, name=f"{self.name}{JOIN}{item}")

    def main(self) -> None:
        """Run the program in the current folder: what dvc.yaml's command does."""
        raise SystemExit(run_as_command(self.name, self.program))

    def __call__(self, workspace: Workspace) -> None:
        """Run the stage as a Prefect task, unless the run was asked to stop before it."""
        from tasks.as_prefect_task import run_as_task

        if not workspace.complete:
            run_as_task(self, workspace)
