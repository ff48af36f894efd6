"""Run a function of a module of `testing` on several ranks, in processes that torchrun starts."""

import os
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import torch

from plumbline.lm.ranks.world import started, world

ROOT = Path(__file__).resolve().parents[1]


def on_ranks(function, folder, ranks=2, nodes=1):
    """Return what `function(folder)` returns on each rank. `nodes` agents of torchrun have `ranks` ranks together.

    Raises RuntimeError with what was written to stderr if a rank failed. No process is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = [f"--nnodes={nodes}", f"--nproc-per-node={ranks // nodes}", f"--rdzv-endpoint=127.0.0.1:{port}",
               "--rdzv-backend=c10d", "--rdzv-id=test"]
    command = [sys.executable, "-m", "torch.distributed.run", *meeting, "-m", "testing.on_ranks",
               f"{function.__module__}:{function.__name__}", str(folder)]
    agents = [subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(nodes)]
    try:
        written = [agent.communicate(timeout=300)[1] for agent in agents]
    finally:
        for agent in agents:
            agent.terminate()  # torchrun ends its ranks before itself
            agent.wait()
    if any(agent.returncode for agent in agents):
        raise RuntimeError("\n".join(written))
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(ranks)]


def main():
    """A rank: run the function and keep what it returns."""
    module, _, name = sys.argv[1].partition(":")
    with started():
        found = getattr(import_module(module), name)(Path(sys.argv[2]))
        torch.save(found, Path(sys.argv[2], f"rank-{world().rank}.pt"))


if __name__ == "__main__":
    main()
