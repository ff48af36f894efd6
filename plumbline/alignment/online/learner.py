"""The state of an online training: all that an update changes, as it goes into a checkpoint."""

from dataclasses import dataclass, field
from typing import Any

import torch

from plumbline.alignment.online.critics import Critic
from plumbline.alignment.online.kl import KLController
from plumbline.alignment.online.policies import Policy
from plumbline.alignment.online.validation import Kept
from plumbline.config import PpoParams
from plumbline.config.methods import NlpoParams
from plumbline.lm.optim import adamw
from plumbline.lm.ranks.sharding import load_optimizer

Metrics = dict[str, float]


@dataclass
class Learner:
    """Policy, critic, optimizers, KL weight, order of prompts, random state; and what the updates so far have
    measured.
    """

    policy: Policy
    critic: Critic | None
    policy_optimizer: torch.optim.AdamW
    critic_optimizer: torch.optim.AdamW | None
    kl: KLController
    generator: torch.Generator
    queue: list[int]
    """Prompts still to be used in this pass over them, by their place."""
    history: list[Metrics] = field(default_factory=list)
    """The figures of each update."""
    kept: Kept = field(default_factory=Kept)
    warmed: int = 0
    """Batches done that trained the critic alone."""
    update: int = 0
    """Updates done."""

    @classmethod
    def new(cls, policy: Policy, critic: Critic | None, params: PpoParams, seed: int) -> "Learner":
        """Return the learner before its first update."""
        return cls(
            policy, critic, adamw(policy.parameters(), params.learning_rate),
            adamw(critic.parameters(), params.value_learning_rate) if critic else None,
            KLController(params.kl_coef, params.kl_target, params.kl_horizon),
            torch.Generator().manual_seed(seed), queue=[])

    def anneal(self, params: PpoParams) -> None:
        """Set both learning rates, falling linearly to 0 over the updates (Huang et al. 2022, detail 4)."""
        left = 1 - self.update / params.updates
        self.policy_optimizer.param_groups[0]["lr"] = params.learning_rate * left
        if self.critic_optimizer:
            self.critic_optimizer.param_groups[0]["lr"] = params.value_learning_rate * left

    def renew_mask(self, params: PpoParams) -> None:
        """Let NLPO's masking policy become the policy of now, if it is the turn of it."""
        if isinstance(params, NlpoParams) and self.policy.mask and self.update % params.mask_every == 0:
            self.policy.mask.model.load_state_dict(self.policy.whole().merged().state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return all state, torch's own random state included."""
        critic = {}
        if self.critic and self.critic_optimizer:
            critic = {"critic": self.critic.weights(), "critic_optimizer": self.critic_optimizer.state_dict()}
        return critic | {
            "policy": self.policy.weights(), "policy_optimizer": self.policy_optimizer.state_dict(),
            "warmed": self.warmed, "update": self.update, "history": self.history, "kept": vars(self.kept),
            "mask": self.policy.mask.model.state_dict() if self.policy.mask else None,
            "queue": self.queue, "kl_coef": self.kl.coef, "generator": self.generator.get_state(),
            "torch": torch.get_rng_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state that `state_dict` returned, torch's own random state included."""
        self.policy.load(state["policy"])
        load_optimizer(self.policy_optimizer, state["policy_optimizer"])
        if self.critic and self.critic_optimizer:
            self.critic.load(state["critic"])
            load_optimizer(self.critic_optimizer, state["critic_optimizer"])
        if self.policy.mask:
            self.policy.mask.model.load_state_dict(state["mask"])
        self.warmed, self.update, self.history = state["warmed"], state["update"], state["history"]
        self.kept = Kept(**state["kept"])
        if self.kept.weights:  # read from the checkpoint's file as they are used, which the next one deletes
            self.kept.weights = {name: weight.clone() for name, weight in self.kept.weights.items()}
        self.queue, self.kl.coef = state["queue"], state["kl_coef"]
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])
