"""Stage `ingest`: check the rows of the snapshot and split them by prompt."""

from tasks.stage import Stage, StageRun


def program(run: StageRun) -> None:
    """Check the rows of the snapshot, split them by prompt, and refuse data that are worse than the
    limits."""
    from dataclasses import fields

    from plumbline.errors import GateFailed
    from plumbline.preferences.prepare.prepare import prepare
    from plumbline.preferences.prepare.writer import Splitting
    from plumbline.preferences.report.gates import DataLimits, check_gates
    from plumbline.preferences.report.pages import write_report

    chosen = run.params.ingest
    splitting = Splitting(chosen.validation_fraction, chosen.heldout_fraction,
                          chosen.chosen_as_demonstrations, chosen.near_duplicate, chosen.judge_fraction,
                          chosen.split_salt)
    counts, report = prepare(run.root / "data/snapshot", run.root / "data/prepared", splitting)
    write_report(report, run.root / "reports/data")
    limits = DataLimits(**chosen.model_dump(include={limit.name for limit in fields(DataLimits)}))
    if reasons := check_gates(report, limits):
        raise GateFailed(f"The data were refused before anything was trained: {' '.join(reasons)} The report "
                         f"is {run.root / 'reports/data/report.html'}.")
    run.finish(counts)


ingest = Stage("ingest", program, timeout_minutes=120)

if __name__ == "__main__":
    ingest.main()
