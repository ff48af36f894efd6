"""The ranks of a training: processes of `torchrun` that run the same program, each on its share of the rows.

    torchrun --nproc-per-node 2 -m tasks.sft

All ranks draw the same random numbers and make the same decisions; rows are shared out, and what came of them
is gathered, so that code between the two reads as for one process. Without torchrun's variables, or with
WORLD_SIZE=1, there is one rank and no process group, and everything here returns what it was given.

A collective waits for all ranks. A rank that ends with an error does not hang the others: torchrun ends them.
Where only some may meet an error, such as a damaged file, `together` raises it on all.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from plumbline.errors import UserError, as_user_error

T = TypeVar("T")
WAIT = timedelta(hours=2)
"""How long a rank waits for the others: for the first one to write a checkpoint, or for one whose vLLM server
is started again in the middle of a batch (lm/engines/http.py).
"""


@dataclass(frozen=True)
class World:
    """The place of this process among the ranks."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Return True on the rank that writes files."""
        return self.rank == 0

    @property
    def share(self) -> slice:
        """Return which rows are this rank's: every `size`-th, from the one of its number on."""
        return slice(self.rank, None, self.size)

    def mine(self, rows: Sequence[T]) -> list[T]:
        """Return this rank's share of the rows."""
        return list(rows[self.share])

    def gathered(self, mine: Sequence[T]) -> list[T]:
        """Return the rows of all ranks in the order that they had before `mine`."""
        parts = self.from_all(list(mine))
        return [parts[i % self.size][i // self.size] for i in range(sum(map(len, parts)))]

    def from_all(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order: plain objects, or tensors on the CPU."""
        if self.size == 1:
            return [value]
        found: list[T | None] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found  # type: ignore[return-value]  # all are filled

    def summed(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return the sums of the figures over the ranks, the same on all; a rank may lack some."""
        if self.size == 1:
            return dict(figures)
        found: dict[str, float] = {}
        for part in self.from_all(dict(figures)):
            for name, value in part.items():
                found[name] = found.get(name, 0.0) + value
        return found

    def passes(self, parts: Sequence[T], spare: T) -> Iterator[tuple[T, float]]:
        """Yield this rank's parts with the weight 1, then `spare` with 0 until all ranks have had as many.

        A pass through a sharded model gathers its weights, for which all ranks have to make it.
        """
        most = max(self.from_all(len(parts)))  # asked before the first pass, which others make meanwhile
        yield from ((part, 1.0) for part in parts)
        yield from ((spare, 0.0) for _ in range(most - len(parts)))

    def agreed(self, value: T, what: str) -> T:
        """Return the value. Raises UserError if it is not the same on all ranks."""
        found = self.from_all(value)
        if different := [rank for rank, theirs in enumerate(found) if theirs != found[0]]:
            raise UserError(f"All ranks must have the same {what}, but rank {different[0]} found "
                            f"{found[different[0]]} where rank 0 found {found[0]}. Let all of them see the "
                            "same files, in a folder that their machines share.")
        return value

    def together(self, compute: Callable[[], T]) -> T:
        """Return what `compute` returns here. Raises UserError on all ranks if it does on one."""
        if self.size == 1:
            return compute()
        try:
            found = compute()
        except Exception as error:
            if problem := as_user_error(error):
                self.from_all(str(problem))
            raise
        for theirs in self.from_all(""):
            if theirs:
                raise UserError(theirs)
        return found


def world() -> World:
    """Return the place of this process."""
    if distributed.is_available() and distributed.is_initialized():
        return World(distributed.get_rank(), distributed.get_world_size())
    return World()


@contextmanager
def started() -> Iterator[World]:
    """Join the ranks that torchrun's variables name, on a device of this process's own, and leave them at the
    end of the block; without such variables do nothing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    if torch.cuda.is_available():
        here = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(here)
        # What is no tensor is gathered through the CPU.
        distributed.init_process_group("cpu:gloo,cuda:nccl", timeout=WAIT, device_id=here)
    else:
        distributed.init_process_group("gloo", timeout=WAIT)
    yield world()
    # Not after an error: the others may wait in a collective, and leaving could wait for them.
    distributed.destroy_process_group()
