"""Stage `ingest`: check the rows of the snapshot and split them by prompt."""

from tasks.stage import Stage, StageRun


def program(run: StageRun) -> None:
    """Check the rows of the snapshot and split them by prompt."""
    from plumbline.preferences.prepare import Splitting, prepare

    chosen = run.params.ingest
    splitting = Splitting(chosen.validation_fraction, chosen.heldout_fraction, chosen.chosen_as_demonstrations)
    run.finish(prepare(run.root / "data/snapshot", run.root / "data/prepared", splitting))


ingest = Stage("ingest", program, timeout_minutes=120)

if __name__ == "__main__":
    ingest.main()
