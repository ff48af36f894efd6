"""Critics: what a state is worth, before each token of a response.

Each starts as the reward model, so that its values are rewards from the beginning, and shares nothing that
the policy changes: at first its errors would spoil what the policy knows (Stiennon et al. 2020, section 3.4).

    separate    a copy of the reward model, all of which learns
    shared      with ppo.trainable: top, the reward model's top layers on the trunk that the policy has, which
                is also the reward model's where `reward_model.top_layers` kept it; with lora, adapters on the
                reward model itself, which reads with its adapters off
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from plumbline.alignment.online.policies import Learns, Policy
from plumbline.alignment.reward import RewardModel, scores_of
from plumbline.alignment.sequences import Sequences
from plumbline.alignment.trunk import freeze_below, top_of, trunk_of
from plumbline.config import PpoParams
from plumbline.config.online import WITH_CRITIC
from plumbline.errors import UserError
from plumbline.lm.hidden import hidden_states
from plumbline.lm.optim import autocast
from plumbline.lm.ranks.sharding import inside, sharded_with
from plumbline.lm.sampling import Response


@dataclass(frozen=True)
class Critic(Learns):
    """A value model, in parts on several ranks."""

    model: PreTrainedModel
    body: nn.Module
    head: nn.Linear
    """A linear layer in the model, whose weight is [1, D]."""
    precision: str
    on_trunk: bool = False
    """True if the body is the top layers alone, which read what the policy's trunk makes of the tokens."""

    def values(self, sequences: Sequences) -> torch.Tensor:
        """Return the value [B, R] of the state in which each response token was chosen; 0 at padding.

        Values are centred as rewards are.
        """
        values_BR = inside(self.model, lambda: self._values(sequences))
        centred_BR: torch.Tensor = (values_BR - self.model.config.reward_offset) * sequences.mask_BR
        return centred_BR

    def _values(self, sequences: Sequences) -> torch.Tensor:
        """Return the values as the head gives them."""
        width = sequences.response_BR.shape[1]
        with autocast(self.precision):
            below_BTD = sequences.trunk_BTD if self.on_trunk else None
            hidden_BTD = hidden_states(self.body, sequences.ids_BT, sequences.mask_BT, below_BTD)
            return scores_of(hidden_BTD[:, -width - 1 : -1], self.head.weight)

    def learnt(self) -> dict[str, nn.Parameter]:
        """Return the weights that learn, by name."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}


@dataclass(frozen=True)
class WithoutAdapters:
    """A reward model that carries the adapters of a critic, and reads with them off."""

    reward: RewardModel
    adapted: PeftModel

    @property
    def members(self) -> "tuple[WithoutAdapters | RewardModel, ...]":
        """Return the members of an ensemble, of which the first carries the adapters."""
        first, *others = self.reward.members
        return WithoutAdapters(first, self.adapted), *others

    @property
    def std(self) -> float:
        """Return the standard deviation of the SFT policy's rewards."""
        return self.reward.std

    def score_sampled(
        self, prompts: Sequence[list[int]], responses: Sequence[Response], missing_stop_deviations: float
    ) -> list[float]:
        """Return the reward of each response; see `RewardModel.score_sampled`."""
        with self.adapted.disable_adapter():
            return self.reward.score_sampled(prompts, responses, missing_stop_deviations)


def make_critic(
    method: str, policy: Policy, reward: RewardModel, load_value: Callable[[], PreTrainedModel],
    params: PpoParams,
) -> tuple[Critic | None, RewardModel | WithoutAdapters]:
    """Return the critic that `params.critic` names, and the reward model to ask from then on, which is in
    parts unless it carries the critic's adapters.

    A method without a critic gets None.

    `load_value` gives another copy of the reward model, in fp32, where one is needed. Raises UserError for a
    critic that is to share layers which the reward model does not have.
    """
    if method not in WITH_CRITIC:
        return None, reward.sharded()
    if params.critic == "shared" and policy.adapted:
        return _adapters_on(reward, params)
    reward = reward.sharded()  # before another whole model is there
    model = load_value().eval()
    if params.critic == "shared":
        return _on_trunk(model, policy, params), reward
    return _critic(model, model.base_model, model.score, params), reward


def _critic(
    model: PreTrainedModel, body: nn.Module, head: nn.Linear, params: PpoParams, on_trunk: bool = False
) -> Critic:
    """Return the critic of a model, of which `body` and `head` are views, in parts."""
    parts, body, head = sharded_with(model, body, head)
    return Critic(parts, body, head, params.precision, on_trunk)


def _on_trunk(model: PreTrainedModel, policy: Policy, params: PpoParams) -> Critic:
    """Return the top layers of `model`, a copy of the reward model, on the policy's trunk."""
    trunk = policy.origin.trunk  # of frozen weights, and so whole
    assert trunk is not None, "see require_usable"
    theirs = dict(trunk_of(model, params.top_layers).named_parameters())
    ours = dict(trunk.named_parameters())
    if different := [name for name, weight in theirs.items() if not torch.equal(weight, ours[name])]:
        raise UserError("With ppo.critic: shared, the critic starts as the reward model on the policy's "
                        f"frozen layers, but the reward model has other weights there ({different[0]}). "
                        f"Train it with reward_model.top_layers: {params.top_layers}, or set ppo.critic to "
                        "separate.")
    freeze_below(model, params.top_layers)
    model.score.requires_grad_(True)
    return _critic(model, top_of(model, params.top_layers), model.score, params, on_trunk=True)


def _adapters_on(reward: RewardModel, params: PpoParams) -> tuple[Critic, WithoutAdapters]:
    """Return adapters on the reward model, with a head of their own, and the reward model without them."""
    model = reward.model
    head = copy.deepcopy(model.score).float()
    adapted = get_peft_model(model, LoraConfig(
        r=params.lora_rank, lora_alpha=params.lora_alpha, lora_dropout=0.0, target_modules="all-linear",
        exclude_modules=["score"]))
    model.value_head = head.requires_grad_(True)
    model.eval()
    return _critic(model, model.base_model, head, params), WithoutAdapters(reward, adapted)
