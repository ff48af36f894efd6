"""Resume checkpoints of PPO: kill it at any update, start it again, and the metrics are the same to the digit.

A checkpoint is one file, written beside its name and then moved there, with the digest of its content in the name: a
partial or damaged file is noticed and refused, never taken for a fresh start.
"""

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from plumbline.errors import UserError
from plumbline.whole_file import DRAFT, write_whole

if TYPE_CHECKING:
    from plumbline.alignment.ppo import Learner, Metrics


class Checkpoint:
    """The newest state of a learner, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, learner: "Learner", history: "list[Metrics]") -> None:
        """Write the state; older ones go once the new one is complete."""
        state = {
            "update": learner.update, "history": history, "queue": learner.queue, "kl_coef": learner.kl.coef,
            "generator": learner.generator.get_state(), "torch": torch.get_rng_state(),
            "policy": learner.policy.state_dict(), "value": learner.value.state_dict(),
            "policy_optimizer": learner.policy_optimizer.state_dict(),
            "value_optimizer": learner.value_optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        self.folder.mkdir(parents=True, exist_ok=True)
        older = [*self.folder.glob("*.pt"), *self.folder.glob(f"{DRAFT}*")]  # with what a kill has left half written
        write_whole(self.folder / f"{learner.update:06d}-{hashlib.sha256(content).hexdigest()[:32]}.pt", content)
        for file in older:
            file.unlink()

    def restore(self, learner: "Learner") -> "list[Metrics]":
        """Put the learner into the newest saved state. Returns the metrics so far; none if nothing was saved.

        Raises UserError for a damaged checkpoint.
        """
        files = sorted(self.folder.glob("*.pt"))
        if not files:
            return []
        content = files[-1].read_bytes()
        if hashlib.sha256(content).hexdigest()[:32] != files[-1].stem.partition("-")[2]:
            raise UserError(f"The resume checkpoint {files[-1]} is damaged: its content does not match its name. "
                            "Delete it to start this stage from its beginning.")
        state = torch.load(io.BytesIO(content), weights_only=True, map_location=learner.policy.device)
        learner.update, learner.queue, learner.kl.coef = state["update"], state["queue"], state["kl_coef"]
        learner.generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["torch"].cpu())
        learner.policy.load_state_dict(state["policy"])
        learner.value.load_state_dict(state["value"])
        learner.policy_optimizer.load_state_dict(state["policy_optimizer"])
        learner.value_optimizer.load_state_dict(state["value_optimizer"])
        history: list[Metrics] = state["history"]
        return history
