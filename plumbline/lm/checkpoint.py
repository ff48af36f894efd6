"""Resume checkpoints: a training killed at any step and started again gives the same metrics to the last
digit.

A checkpoint is one file, written under another name and then moved in place, with the digest of its content
in its name: a partial or damaged file is noticed and refused, never taken for a fresh start. It says what it
was made with, parameters above all, and is refused for a training with anything else. The state in it is the
caller's: plain values and tensors, as `state_dict` methods return them.

Saving needs no memory beyond the state, which is hashed while it goes to the disk. Loading maps the file's
pages, which the system reads when they are used and may drop again, so its peak is one state, too.

The file is the same whatever the number of ranks: the first one writes the whole state, and each takes its
part of it, so a training may go on with more ranks or fewer. What one rank refuses, all refuse.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from plumbline.config import ParamsBlock
from plumbline.errors import UserError
from plumbline.lm.ranks.sharding import load_optimizer, load_weights, whole_state
from plumbline.lm.ranks.world import world
from plumbline.whole_file import DRAFT, to_disk

Made = Mapping[str, str | int | float | bool | None]
"""What a training is made with: parameters, and digests of data."""


class Checkpoint:
    """The newest state of one training, in a folder of its own."""

    def __init__(self, folder: Path, made_with: Made) -> None:
        self.folder = folder
        self.made_with = made_with

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step`, then delete older checkpoints. All ranks have to call it."""
        whole = whole_state(state)
        world().together(lambda: self._write(step, whole) if world().first else None)

    def _write(self, step: int, state: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # A kill can leave an unfinished draft, too.
        older = [*self.folder.glob("*.pt"), *self.folder.glob(f"{DRAFT}*")]
        draft = self.folder / f"{DRAFT}{os.getpid()}-{step:06d}.pt.part"
        try:
            with draft.open("wb") as out:
                hashed = _Hashed(out)
                whole = {"made_with": dict(self.made_with), "state": state}
                torch.save(whole, cast(IO[bytes], hashed))  # of a file it needs no more than write and flush
                out.flush()
                os.fsync(out.fileno())
            draft.replace(self.folder / f"{step:06d}-{hashed.digest()}.pt")
        except BaseException:  # such as a full disk, which half a checkpoint should not keep full
            draft.unlink(missing_ok=True)
            raise
        to_disk(self.folder)
        for file in older:
            file.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """Return the newest state, its tensors on the CPU; None if none was saved.

        Raises UserError if the file is damaged, or of a training that was made with something else.
        """
        newest = max((file.name for file in self.folder.glob("*.pt")), default="")
        if not world().agreed(newest, f"resume checkpoint in {self.folder}"):
            return None
        return world().together(lambda: self._read(self.folder / newest))

    def _read(self, file: Path) -> dict[str, Any]:
        with file.open("rb") as content:
            found = _shortened(hashlib.file_digest(content, "sha256").hexdigest())
        if found != file.stem.partition("-")[2]:
            raise UserError(f"The resume checkpoint {file} is damaged: its content does not match its name. "
                            "Delete it to start this stage from its beginning.")
        saved: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
        self._require_same(file, saved["made_with"])
        state: dict[str, Any] = saved["state"]
        return state

    def _require_same(self, file: Path, theirs: Made) -> None:
        """Raise UserError, which names what differs, unless the checkpoint is of this training."""
        names = [*self.made_with, *(name for name in theirs if name not in self.made_with)]
        different = [f"{name} was {theirs.get(name)} and is {self.made_with.get(name)}"
                     for name in names if theirs.get(name) != self.made_with.get(name)]
        if different:
            raise UserError(f"The resume checkpoint {file} is of another training: {'; '.join(different)}. "
                            "Set back what has changed to go on from it, or delete it to start this stage "
                            "from its beginning.")


@dataclass(frozen=True)
class Resumable:
    """A model and its optimizer, whose batches follow from data and seed alone: those that were used before
    a kill are passed over.

        for step, batch in islice(enumerate(batches), resumable.resume(), steps):
            ...
            resumable.keep(step + 1, steps)
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    checkpoint: Checkpoint
    every: int
    """Steps between checkpoints."""

    def resume(self) -> int:
        """Take over the newest checkpoint, if there is one; return the steps that are done."""
        state = self.checkpoint.load()
        if state is None:
            return 0
        load_weights(self.model, state["model"])
        load_optimizer(self.optimizer, state["optimizer"])
        torch.set_rng_state(state["torch"])
        return int(state["step"])

    def keep(self, step: int, steps: int) -> None:
        """Save the state after `step`, if it is the turn of it and a step is left."""
        if step % self.every == 0 and step < steps:
            self.checkpoint.save(step, {
                "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": step,
                "torch": torch.get_rng_state()})


def made_with(block: str, params: ParamsBlock, seed: int, data: Iterable[object]) -> Made:
    """Return what a checkpoint must have been made with: a block of parameters, the seed, and encoded data.

    The data are plain values, or dataclasses of them.
    """
    sha256 = hashlib.sha256()
    for row in data:
        sha256.update(repr(row).encode())
    named = {f"{block}.{name}": value for name, value in params.model_dump().items()}
    return {"seed": seed, **named, "digest of the data": _shortened(sha256.hexdigest())}


class _Hashed:
    """A file that hashes what is written to it; torch.save writes in order."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._sha256 = hashlib.sha256()

    def write(self, content: bytes) -> int:
        """Write to the file."""
        self._sha256.update(content)
        return self._out.write(content)

    def flush(self) -> None:
        """Flush the file."""
        self._out.flush()

    def digest(self) -> str:
        """Return the digest of what has been written, as it stands in names."""
        return _shortened(self._sha256.hexdigest())


def _shortened(sha256: str) -> str:
    return sha256[:32]
