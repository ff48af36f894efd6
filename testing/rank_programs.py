"""What ranks do in tests; see on_ranks.py."""

from plumbline.errors import DiskFull, UserError
from plumbline.lm.ranks.world import world
from testing.trainings import RESUMED, TRAININGS, run, sampled


def sharing(_folder):
    """Call each method of World with rows that do not divide evenly; return what each rank gets."""
    here, rows = world(), list("abcdefg")
    mine = here.mine(rows)
    return {"refused": refusing(), "world": (here.rank, here.size, here.first), "mine": mine,
            "gathered": here.gathered([row.upper() for row in mine]), "nothing": here.gathered(here.mine([])),
            "summed": here.summed({"a": 0.1 * (here.rank + 1), f"only {here.rank}": 1.0}),
            "passes": list(here.passes(mine, "spare")), "agreed": here.agreed(rows, "rows")}


def refusing():
    """Let one of the ranks meet an error, in several ways; return the message that each rank gets."""
    here, found = world(), []

    def damaged():
        if here.rank == 1:
            raise UserError("This file is damaged.")
        return here.rank

    def full():
        if here.rank == 0:
            raise DiskFull("a file")

    for attempt in (lambda: here.together(damaged), lambda: here.together(full),
                    lambda: here.agreed(here.rank // 2, "data"), lambda: here.together(lambda: here.rank)):
        try:
            found.append(attempt())
        except UserError as error:
            found.append(str(error))
    return found


def trainings(folder):
    """Run every training to its end, and kill and resume some; return their reports, metrics and weights, and what a
    PPO training samples.
    """
    found = {name: {"whole": run(name, folder / name / "whole")} for name in TRAININGS}
    for name in RESUMED:
        found[name] |= resumed(name, folder / name)
    return found | {"sampled": sampled(folder / "sampled")}


def resumed(name, folder):
    """Kill a training and resume it; kill it for one process to resume; resume what one process has left, and a
    damaged checkpoint. Return how each ends.
    """
    found = {}
    run(name, folder / "own", killed_after=3)
    found["resumed"] = run(name, folder / "own")
    run(name, folder / "two to one", killed_after=3)
    found["from one"] = run(name, folder / "one to two")
    try:
        run(name, folder / "damaged")
    except UserError as error:
        found["refused"] = str(error)
    return found


def once(folder):
    """Run the trainings that others kill and resume to their ends, once; return how they end."""
    return {name: run(name, folder / name) for name in RESUMED}
