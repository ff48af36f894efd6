"""Stage `snapshot`: fix which preference data the run learns from."""

import sys

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


snapshot = Stage("snapshot", program, resolver=True, kept_by_retry=True)

if __name__ == "__main__":
    snapshot.main()
