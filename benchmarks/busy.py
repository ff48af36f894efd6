"""What a training loses to another one on the same cores, by how long its threads spin while they wait.

    python benchmarks/busy.py [STEPS]      # 30 steps each; a minute or two; part of `make bench`

Between two operations the threads of OpenMP wait for each other. They spin, because that is quicker than to
sleep and be woken; but where another process wants the core, a thread spins in the place of the one that it
waits for. `plumbline/__init__.py` sets how often. Each figure is the median of a step of the embedded default's
pretraining, with as many threads as there are cores, alone and beside another training of the same kind.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SPINS = {"libgomp's default": "300000", "Plumbline's": "1000", "none": "0"}
TIMES = 2


def main() -> None:
    """Measure every setting in turn, several times, and print a table."""
    if sys.argv[1:2] == ["--train"]:
        print(train(int(sys.argv[2])))
        return
    steps = int(sys.argv[1]) if sys.argv[1:] else 30
    print("| spins | alone, ms a step | beside another, ms a step | times slower |\n|---|---|---|---|")
    for name, spins in [*SPINS.items()] * TIMES:
        alone, (one, other) = together(spins, steps, 1)[0], together(spins, steps, 2)
        beside = (one + other) / 2
        print(f"| {name}, {spins} | {alone:.0f} | {beside:.0f} | {beside / alone:.1f} |", flush=True)


def together(spins: str, steps: int, trainings: int) -> list[float]:
    """Train several models at once; returns the milliseconds of a step of each."""
    command = [sys.executable, __file__, "--train", str(steps)]
    environment = {**os.environ, "GOMP_SPINCOUNT": spins}
    processes = [subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
                 for _ in range(trainings)]
    return [float(process.communicate()[0].splitlines()[-1]) for process in processes]


def train(steps: int) -> float:
    """Pretrain for some steps; returns the median of their milliseconds, without those of the first fifth."""
    from plumbline.config import load_params
    from plumbline.lm.pretrain import pretrain
    from plumbline.preferences.simulated.corpus import documents

    moments: list[float] = []
    base = load_params(ROOT).base
    base = base.model_copy(update={"tokens": steps * base.context * base.batch_size})
    with tempfile.TemporaryDirectory() as folder:
        pretrain(base, 0, documents(0), lambda *_: moments.append(time.monotonic()), Path(folder))
    taken = [after - before for before, after in pairwise(moments)]
    return 1000 * statistics.median(taken[steps // 5:])


if __name__ == "__main__":
    main()
