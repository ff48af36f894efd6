"""Stage `snapshot`: fix which preference data the run learns from."""

from tasks.stage import Stage, StageRun


def program(run: StageRun) -> None:
    """Fix which preference data the run learns from."""
    from plumbline.preferences.folders import Folders
    from plumbline.preferences.snapshot import Simulation, fix_snapshot

    chosen = run.params.snapshot
    simulation = Simulation(run.params.seed, chosen.simulated_demonstrations, chosen.simulated_comparisons,
                            chosen.simulated_rankings)
    fix_snapshot(chosen.sources, simulation, Folders(run.home.root, run.home.folder), run.folder)


snapshot = Stage("snapshot", program, resolver=True)

if __name__ == "__main__":
    snapshot.main()
