"""Resume checkpoints: a training killed at any step and started again gives the same metrics to the last
digit.

A checkpoint is one file, written under another name and then moved in place, with the digest of its content
in its name: a partial or damaged file is noticed and refused, never taken for a fresh start. The state in it
is the caller's: plain values and tensors, as `state_dict` methods return them.
"""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from plumbline.errors import UserError
from plumbline.whole_file import DRAFT, write_whole


class Checkpoint:
    """The newest state of one training, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step`, then delete older checkpoints."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        self.folder.mkdir(parents=True, exist_ok=True)
        # A kill can leave an unfinished draft, too.
        older = [*self.folder.glob("*.pt"), *self.folder.glob(f"{DRAFT}*")]
        write_whole(self.folder / f"{step:06d}-{_digest(content)}.pt", content)
        for file in older:
            file.unlink()

    def load(self) -> dict[str, Any] | None:
        """Return the newest state, its tensors on the CPU; None if none was saved.

        Raises UserError if the file is damaged.
        """
        files = sorted(self.folder.glob("*.pt"))
        if not files:
            return None
        content = files[-1].read_bytes()
        if _digest(content) != files[-1].stem.partition("-")[2]:
            raise UserError(f"The resume checkpoint {files[-1]} is damaged: its content does not match its "
                            "name. Delete it to start this stage from its beginning.")
        state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        return state


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
