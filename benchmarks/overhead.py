"""What Plumbline itself costs: a run that reuses everything, a stage that does nothing, and the quick
commands.

    python benchmarks/overhead.py [TIMES]      # 3 times each by default; part of `make bench`

The project is the fake one of the tests: real flow, DVC, MLflow and Prefect around stages of a few lines.
Each figure is the median of seconds on the clock, and of seconds of processor time of all processes together.
The second says more on a busy machine. A stage that runs is measured as a run with six forced stages beside
one that reuses them; real stages also import torch and transformers, which is their own work.
"""

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from testing.fake_project import make_project, plumbline

FORCED = ("base", "sft", "reward_model", "reward_eval", "ppo", "preference_eval")
QUICK = (("--help",), ("runs",), ("data", "list"))
LONGEST_SECONDS = 600.0


def measure(root: Path, command: Sequence[str]) -> tuple[float, float]:
    """Run a command; returns its seconds on the clock, and of processor time."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = plumbline(root, *command, timeout=LONGEST_SECONDS)
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def median(root: Path, command: Sequence[str], times: int) -> tuple[float, float]:
    """Measure a command several times; returns the medians of both."""
    clock, processor = zip(*(measure(root, command) for _ in range(times)), strict=True)
    return statistics.median(clock), statistics.median(processor)


def show(what: str, clock: float, processor: float) -> None:
    """Print one line."""
    print(f"{what:<44} {clock:7.2f} s  {processor:7.2f} s of processor", flush=True)


def main() -> None:
    """Make the project, and measure."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as scratch:
        root = make_project(Path(scratch) / "project")
        show("first run", *measure(root, ["run"]))
        unchanged = median(root, ["run"], times)
        show("unchanged run", *unchanged)
        force = [argument for stage in FORCED for argument in ("--force", stage)]
        forced = median(root, ["run", *force], times)
        clock, processor = ((forced[i] - unchanged[i]) / len(FORCED) for i in (0, 1))
        show("a stage that runs, beyond one that is reused", clock, processor)
        for command in QUICK:
            show(f"plumbline {' '.join(command)}", *median(root, command, times))


if __name__ == "__main__":
    main()
