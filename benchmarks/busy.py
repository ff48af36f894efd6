"""What a training loses to other work on the same cores, by how long its threads spin while they wait.

    python benchmarks/busy.py [STEPS]      # 20 steps each; some minutes; part of `make bench`

Between two operations the threads of OpenMP wait for each other. They spin, because that is quicker than to
sleep and be woken; but where another process wants the core, a thread spins in the place of the one that it
waits for. `plumbline/__init__.py` sets how often. Each figure is the median of a step of the embedded default's
pretraining, with as many threads as there are cores: alone, beside another training of the same kind, and
beside large matrix products, as a larger model has them.
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
HEAD_START = 12.0
"""Seconds for the other work to load torch."""


def main() -> None:
    """Measure every setting in turn, several times, and print a table."""
    if sys.argv[1:2] == ["--train"]:
        print(train(int(sys.argv[2])))
        return
    if sys.argv[1:2] == ["--multiply"]:
        multiply()
    steps = int(sys.argv[1]) if sys.argv[1:] else 20
    print("| spins | alone, ms a step | beside its like | beside large products |\n|---|---|---|---|")
    for name, spins in [*SPINS.items()] * TIMES:
        alone = beside(spins, steps)
        others = [beside(spins, steps, *work) for work in (("--train", "1000000"), ("--multiply",))]
        cells = [f"{other:.0f} ({other / alone:.1f} times)" for other in others]
        print(f"| {name}, {spins} | {alone:.0f} | {' | '.join(cells)} |", flush=True)


def beside(spins: str, steps: int, *work: str) -> float:
    """Train beside some work, or alone; returns the milliseconds of a step."""
    environment = {**os.environ, "GOMP_SPINCOUNT": spins}
    other = subprocess.Popen([sys.executable, __file__, *work], env=environment, cwd=ROOT) if work else None
    try:
        time.sleep(HEAD_START if work else 0)
        done = subprocess.run([sys.executable, __file__, "--train", str(steps)], env=environment, cwd=ROOT,
                              capture_output=True, text=True, check=True)
    finally:
        if other:
            other.kill()
            other.wait()
    return float(done.stdout.splitlines()[-1])


def multiply() -> None:
    """Multiply matrices of 2048 x 2048 until the process is killed."""
    import torch

    one = torch.randn(2048, 2048)
    while True:
        one @ one


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
