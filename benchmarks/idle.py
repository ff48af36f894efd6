"""What `plumbline up` costs while nothing happens: memory and processor time of all its processes.

    python benchmarks/idle.py              # ten minutes
    python benchmarks/idle.py --seconds 60

A project with quick stages, one batch and one finished run. Memory is the proportional set size (PSS): a page that
several processes share counts once. The first two minutes, when everything starts, are not counted. Needs Linux.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from plumbline.service.process import marked  # noqa: E402
from plumbline.service.state import read_state  # noqa: E402
from testing.always_on_project import bring, make_always_on  # noqa: E402
from testing.fake_project import plumbline  # noqa: E402

SETTLE_SECONDS = 120
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        root = make_always_on(Path(folder) / "project", debounce_seconds=60.0)
        bring(root, 0)
        command(root, "run", "--json")
        try:
            command(root, "up", "--detach")
            time.sleep(SETTLE_SECONDS)
            measure(root / ".plumbline", seconds)
        finally:
            command(root, "down")


def command(root: Path, *arguments: str) -> None:
    done = plumbline(root, *arguments, timeout=400)
    if done.returncode:
        raise SystemExit(done.stderr)


def measure(home: Path, seconds: int) -> None:
    """Print a line for each part, and for all together."""
    state = read_state(home)
    assert state is not None, "plumbline up writes its state before it returns"
    parts = {int(part.pid): part.name for part in state.parts if part.pid} | {state.pid: "supervisor"}
    processes = [psutil.Process(pid) for pid in {*marked(home), *parts}]
    before = {one.pid: used(one) for one in processes}
    time.sleep(seconds)
    print(f"{'':<12} {'PSS MiB':>8} {'% of a core':>12}    over {seconds} s")
    memory = core = 0.0
    for one in processes:
        name = parts.get(one.pid, one.name())
        pss, share = one.memory_full_info().pss / MIB, 100 * (used(one) - before[one.pid]) / seconds
        memory, core = memory + pss, core + share
        print(f"{name:<12} {pss:>8.0f} {share:>12.2f}")
    print(f"{'all':<12} {memory:>8.0f} {core:>12.2f}    at most 1,024 and 2 are wanted")


def used(process: psutil.Process) -> float:
    """Seconds of processor time of a process and of the children that it has waited for."""
    times = process.cpu_times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
