"""Stage `snapshot`: fix which preference data the run learns from."""

import sys

from plumbline.errors import UserError
from plumbline.runs.workspace import Workspace
from tasks.stage import Stage, StageRun


def program(run: StageRun) -> None:
    """Collect the verdicts that people have given, then fix which preference data the run learns from."""
    from plumbline.data.dvc_tracking import track_apart
    from plumbline.feedback.collect import collect
    from plumbline.preferences.batches.snapshot import Simulation, fix_snapshot

    collect(run.home)
    fix_snapshot(run.params.snapshot.sources, Simulation.of(run.params), run.home.preferences, run.folder)
    problem = track_apart(run.home)
    if problem:
        sys.stderr.write(f"{problem}. They count all the same; the next run tries again.\n")


def check_kept(workspace: Workspace) -> None:
    """Raise UserError if rows of the snapshot that a retry has taken were removed since."""
    from plumbline.preferences.batches.snapshot import removed_since

    count = removed_since(workspace.home.preferences, workspace.folder / "data/snapshot")
    if count:
        raise UserError(f"A retry learns from the snapshot of run {workspace.record.retry_of}, of which "
                        f"{count:,} rows were removed since. Start a new run instead, with `plumbline run`: "
                        "its snapshot is without them.")


snapshot = Stage("snapshot", program, resolver=True, kept_by_retry=True, check_kept=check_kept)

if __name__ == "__main__":
    snapshot.main()
