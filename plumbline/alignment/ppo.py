"""Proximal policy optimisation of a language model against a reward model.

One episode is one response; the action is a token; the reward model's score comes with the last token, and
every token pays for moving away from the frozen SFT policy (Ziegler et al. 2019; Stiennon et al. 2020; Ouyang
et al. 2022). Policy and value are separate models; the value model starts as the reward model. That one is
read at the last token only, so the first `value_warmup` batches of responses teach the value model alone what
the tokens before it are worth: until then its advantages would move the policy at random. One update:

    prompts    = the next batch; each is used once before any again       _next_prompts
    responses  = sample(policy, prompts)                                  sampling.py  sample
    old, ref   = log-probabilities of the tokens, under policy and SFT    sequences.py response_log_probs
    values     = value model, just before each token                      rollout.py   response_values
    score      = reward model, at the last token                          rollout.py   roll_out
    kl         = old - ref                                                rollout.py   roll_out
    rewards    = -beta * std * kl at each token, + score at the last one  ppo_math.py  token_rewards
    A, returns = GAE(rewards, values)                                     ppo_math.py  advantages_and_returns
    A          = whiten(A)                                                ppo_math.py  whiten
    for each epoch, for each random minibatch of the responses:           _learn
        for each micro-batch:                                             _step
            new         = log-probabilities under the policy of now       sequences.py response_log_probs
            ratio       = exp(new - old)
            policy loss = max(-A * ratio, -A * clip(ratio, 1 - e, 1 + e)) ppo_math.py  policy_loss
            value loss  = squared error, the larger of free and clipped   ppo_math.py  value_loss
        clip the gradient norms, step both optimizers                     _step
    beta       = steered towards the target KL, if there is one           ppo_math.py  KLController

Every few updates the policy is measured on validation prompts, and the best one is kept: validation.py.

Departures from the textbook: rewards are neither whitened nor clipped, because the reward model is centred; a
response that does not stop gets a fixed reward instead of the model's; dropout is off everywhere, so that the
ratio is exactly 1 before the first step. A reward has no unit of its own, so beta, the range of a value and
the reward of a response that does not stop are given in standard deviations of the SFT policy's rewards
(`RewardModel.std`).

    python -m tasks.ppo          # in a workspace, after sft and reward_model
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from plumbline.alignment import ppo_math
from plumbline.alignment.reward import RewardModel
from plumbline.alignment.rollout import Rollout, Sampler, response_values, roll_out
from plumbline.alignment.sequences import response_log_probs
from plumbline.alignment.validation import Kept, Validation
from plumbline.config import PpoParams
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, stop_tokens
from plumbline.lm.checkpoint import Checkpoint
from plumbline.lm.optim import ReportStep, adamw, require_finite
from plumbline.lm.sampling import sample
from plumbline.lm.template import rearranged
from plumbline.preferences.types import Prompt

Metrics = dict[str, float]
POLICY_MEANS = ("policy_loss", "clip_fraction", "approx_kl", "ratio")
TOKEN_MEANS = (*POLICY_MEANS, "value_loss")
GRAD_NORMS = ("policy_grad_norm", "value_grad_norm")


@dataclass
class Learner:
    """Everything that an update changes: models, optimizers, KL weight, order of prompts, random state; and
    what the updates so far have measured.
    """

    policy: PreTrainedModel
    value: PreTrainedModel
    policy_optimizer: torch.optim.AdamW
    value_optimizer: torch.optim.AdamW
    kl: ppo_math.KLController
    generator: torch.Generator
    queue: list[int]
    """Prompts still to be used in this pass over them, by their place."""
    history: list[Metrics] = field(default_factory=list)
    """The figures of each update."""
    kept: Kept = field(default_factory=Kept)
    warmed: int = 0
    """Batches done that trained the value model alone."""
    update: int = 0
    """Updates done."""

    @classmethod
    def new(cls, policy: PreTrainedModel, value: PreTrainedModel, params: PpoParams, seed: int) -> "Learner":
        """Return the learner before its first update."""
        return cls(
            policy.eval(), value.eval(), adamw(policy.parameters(), params.learning_rate),
            adamw(value.parameters(), params.value_learning_rate),
            ppo_math.KLController(params.kl_coef, params.kl_target, params.kl_horizon),
            torch.Generator().manual_seed(seed), queue=[])

    def state_dict(self) -> dict[str, Any]:
        """Return all state, torch's own random state included."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return parts | {"warmed": self.warmed, "update": self.update, "history": self.history,
                        "kept": vars(self.kept), "queue": self.queue, "kl_coef": self.kl.coef,
                        "generator": self.generator.get_state(), "torch": torch.get_rng_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state that `state_dict` returned, torch's own random state included."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.warmed, self.update, self.history = state["warmed"], state["update"], state["history"]
        self.kept = Kept(**state["kept"])
        self.queue, self.kl.coef = state["queue"], state["kl_coef"]
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])

    def _parts(self) -> dict[str, PreTrainedModel | torch.optim.AdamW]:
        return {"policy": self.policy, "value": self.value, "policy_optimizer": self.policy_optimizer,
                "value_optimizer": self.value_optimizer}


@dataclass(frozen=True)
class Lesson:
    """A batch of experience with the targets of learning from it."""

    rollout: Rollout
    advantages_BR: torch.Tensor | None
    """None while the value model learns alone."""
    returns_BR: torch.Tensor
    value_clip: float
    """In the reward's own units."""


@dataclass(frozen=True)
class Environment:
    """What stays the same: prompts, as ids, the stop tokens, and the frozen models."""

    prompts: Sequence[list[int]]
    stop: Sequence[int]
    reference: PreTrainedModel
    reward: RewardModel
    params: PpoParams

    def experience(self, learner: Learner, sampler: Sampler) -> Rollout:
        """Let the policy answer the next batch of prompts, and all models score the answers."""
        params = self.params
        batch = _next_prompts(learner, self.prompts, params.batch_size)
        responses = sample(sampler.renewed(), batch, max_response=params.max_response, stop=self.stop,
                           temperature=params.temperature, generator=learner.generator)
        return roll_out(
            batch, responses, learner.policy, self.reference, learner.value, self.reward,
            temperature=params.temperature, missing_stop_deviations=params.missing_stop_deviations,
            precision=params.precision, micro_batch_size=params.micro_batch_size)


def train_ppo(
    policy: LanguageModel, reference: PreTrainedModel, value: PreTrainedModel, reward: RewardModel,
    prompts: Sequence[Prompt], params: PpoParams, seed: int, report: ReportStep, checkpoint_folder: Path,
    validation: Validation | None = None,
) -> Metrics:
    """Train `policy` and `value` in place; resume from a checkpoint in `checkpoint_folder` if there is one.

    The policy becomes the one that `validation` keeps, without it the last one. Returns the metrics of the
    last tenth of the updates, averaged, and the kept policy's on the validation prompts. Raises UserError if
    no prompt fits `max_prompt`, if the training diverges, and if the KL to the reference is clearly negative,
    which can only be a fault in the log-probabilities.
    """
    torch.manual_seed(seed)
    encoded = _encode(policy, prompts, params)
    world = Environment(encoded, stop_tokens(policy.tokenizer, policy.model), reference, reward, params)
    learner, sampler = Learner.new(policy.model, value, params, seed), Sampler(policy.model, params.precision)
    checkpoint = Checkpoint(checkpoint_folder, _made_with(params, seed, encoded))
    if state := checkpoint.load():
        learner.load_state_dict(state)

    if learner.warmed < params.value_warmup:
        _warm_up(learner, world, sampler, report)
        checkpoint.save(0, learner.state_dict())
    while learner.update < params.updates and not learner.kept.beyond_limit:
        _anneal(learner, params)
        metrics = _learn(learner, world.experience(learner, sampler), params, reward.std)
        learner.update += 1
        learner.history.append(metrics)
        if validation and _due(learner.update, params):
            metrics = metrics | validation.measure(sampler)
            learner.kept.consider(learner.update, metrics, policy.model, validation)
        report(learner.update, params.updates, metrics)
        if learner.update % params.checkpoint_every == 0 and learner.update < params.updates:
            checkpoint.save(learner.update, learner.state_dict())

    metrics = average(learner.history[-max(1, params.updates // 10) :])
    metrics["best_update"] = learner.update
    if validation:
        metrics |= learner.kept.put_into(policy.model, reference)
    if learner.kept.beyond_limit:
        metrics["stopped_early"] = learner.update
    return metrics | _counts(policy, prompts, encoded)


def _warm_up(learner: Learner, world: Environment, sampler: Sampler, report: ReportStep) -> None:
    """Train the value model alone, on responses of the policy as it is."""
    params = world.params
    while learner.warmed < params.value_warmup:
        metrics = _learn(
            learner, world.experience(learner, sampler), params, world.reward.std, value_only=True)
        learner.warmed += 1
        report(learner.warmed, params.value_warmup, metrics, "value warm-up")


def _made_with(params: PpoParams, seed: int, encoded: Sequence[list[int]]) -> dict[str, Any]:
    """Return what a checkpoint must have been made with to go on from it."""
    named = {f"ppo.{name}": value for name, value in params.model_dump().items()}
    digest = hashlib.sha256(json.dumps(encoded).encode()).hexdigest()[:16]
    return {"seed": seed, **named, "digest of the prompts": digest}


def _due(update: int, params: PpoParams) -> bool:
    """True if the policy is measured on the validation prompts after this update."""
    return update % params.evaluate_every == 0 or update == params.updates


def _counts(policy: LanguageModel, prompts: Sequence[Prompt], encoded: Sequence[list[int]]) -> Metrics:
    """Return how many prompts were used, left out, and rearranged for a template without a system role."""
    counts: Metrics = {"prompts": len(encoded), "dropped_too_long": len(prompts) - len(encoded)}
    if moved := rearranged(policy.tokenizer, prompts):
        counts["system_before_user"] = moved
    return counts


def _encode(policy: LanguageModel, prompts: Sequence[Prompt], params: PpoParams) -> list[list[int]]:
    """Return the ids of the prompts that fit `max_prompt`. Raises UserError if there are none."""
    encoded = [encode_prompt(policy.tokenizer, prompt) for prompt in prompts]
    encoded = [ids for ids in encoded if len(ids) <= params.max_prompt]
    if not encoded:
        raise UserError(f"None of the {len(prompts)} prompts fits ppo.max_prompt = {params.max_prompt} "
                        "tokens. Raise it.")
    if params.minibatches > params.batch_size:
        raise UserError(f"ppo.minibatches = {params.minibatches} leaves some without a response: "
                        f"ppo.batch_size is {params.batch_size}. Lower the one or raise the other.")
    return encoded


def average(history: Sequence[Metrics]) -> Metrics:
    """Return the mean of each figure over the updates that have it."""
    found: dict[str, list[float]] = {}
    for metrics in history:
        for name, value in metrics.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def _learn(
    learner: Learner, rollout: Rollout, params: PpoParams, std: float, value_only: bool = False
) -> Metrics:
    """Update value, policy and KL weight, or the value alone, from one batch of experience.

    `std` is the standard deviation of the SFT policy's rewards. Returns the update's metrics.
    """
    mask_BR = rollout.sequences.mask_BR
    kl = _measured_kl(rollout)
    figures = {"reward": float(rollout.score_B.mean()), "kl": kl, "value": float(rollout.values_BR.mean())}
    require_finite(figures, "ppo", f"update {learner.update + 1} of {params.updates}")

    # The targets of learning stay fixed for all epochs over this batch.
    rewards_BR = ppo_math.token_rewards(rollout.score_B, rollout.kl_BR, mask_BR, learner.kl.coef * std)
    advantages_BR, returns_BR = ppo_math.advantages_and_returns(
        rewards_BR, rollout.values_BR, mask_BR, params.gamma, params.gae_lambda)
    advantages_BR = ppo_math.whiten(advantages_BR, mask_BR)
    # An untrained value may be anywhere, so before the first update nothing holds it back.
    value_clip = math.inf if value_only else params.value_clip * std
    lesson = Lesson(rollout, None if value_only else advantages_BR, returns_BR, value_clip)

    sums: dict[str, float] = defaultdict(float)
    for _ in range(params.epochs):
        order = torch.randperm(len(mask_BR), generator=learner.generator).to(mask_BR.device)
        for minibatch in order.tensor_split(params.minibatches):
            _step(learner, lesson, minibatch, params, sums)

    steps = params.epochs * params.minibatches
    metrics = {name: sums[name] / sums["tokens"] for name in TOKEN_MEANS if name in sums}
    metrics |= _describe(rollout, rewards_BR, params) | {"kl": kl, "kl_coef": learner.kl.coef}
    metrics |= {name: sums[name] / steps for name in GRAD_NORMS if name in sums}
    if not value_only:
        learner.kl.update(kl, len(mask_BR))
    return metrics


def _measured_kl(rollout: Rollout) -> float:
    """Return the policy's KL to the reference in nats a response. Raises UserError if it is negative."""
    kl = float(rollout.kl_BR.sum(1).mean())
    if kl < -1.0:
        raise UserError(f"The KL of the policy to the reference is {kl:.2f} nats a response. A KL cannot be "
                        "negative, so sampling and scoring disagree about the policy: is the reference the "
                        "SFT model that the policy started from, and does ppo.temperature match the "
                        "sampling?")
    return kl


def _step(
    learner: Learner, lesson: Lesson, minibatch: torch.Tensor, params: PpoParams, sums: dict[str, float]
) -> None:
    """Make one optimizer step of each model that learns, on the rows `minibatch` of the batch.

    Adds the step's figures to `sums`. The loss is a mean over the tokens of the whole minibatch, so its
    division into micro-batches changes nothing.
    """
    tokens = lesson.rollout.sequences.mask_BR[minibatch].sum()
    for rows in lesson.rollout.sequences.micro_batches(minibatch, params.micro_batch_size):
        totals = {"tokens": lesson.rollout.sequences.mask_BR[rows].sum()}
        if lesson.advantages_BR is not None:
            totals |= _policy_totals(learner.policy, lesson, lesson.advantages_BR, rows, params)
            (totals["policy_loss"] / tokens).backward()
        totals["value_loss"] = _value_loss(learner.value, lesson, rows, params)
        (totals["value_loss"] / tokens).backward()
        for name, total in totals.items():
            sums[name] += float(total.detach())

    learning = [("policy_grad_norm", learner.policy, learner.policy_optimizer),
                ("value_grad_norm", learner.value, learner.value_optimizer)]
    if lesson.advantages_BR is None:
        learning = learning[1:]
    for name, model, _ in learning:
        sums[name] += float(torch.nn.utils.clip_grad_norm_(model.parameters(), params.max_grad_norm))
    require_finite(sums, "ppo", f"update {learner.update + 1} of {params.updates}")
    for _, _, optimizer in learning:
        optimizer.step()
        optimizer.zero_grad()


def _policy_totals(
    policy: PreTrainedModel, lesson: Lesson, advantages_BR: torch.Tensor, rows: torch.Tensor,
    params: PpoParams,
) -> dict[str, torch.Tensor]:
    """Return the policy's loss on these rows, with its gradient, and its figures, summed over the tokens."""
    sequences = lesson.rollout.sequences.rows(rows)
    # The micro-batch has its own, smaller width: columns of padding alone are cut off.
    width = sequences.mask_BR.shape[1]
    new_BR = response_log_probs(policy, sequences, params.temperature, params.precision)
    found = ppo_math.policy_loss(new_BR, lesson.rollout.log_probs_BR[rows, :width],
                                 advantages_BR[rows, :width], sequences.mask_BR, params.clip)
    return dict(zip(POLICY_MEANS, (found.loss, found.clipped, found.approx_kl, found.ratio), strict=True))


def _value_loss(
    value: PreTrainedModel, lesson: Lesson, rows: torch.Tensor, params: PpoParams
) -> torch.Tensor:
    """Return the value model's loss on these rows, with its gradient, summed over the tokens."""
    sequences = lesson.rollout.sequences.rows(rows)
    width = sequences.mask_BR.shape[1]
    return ppo_math.value_loss(
        response_values(value, sequences, params.precision), lesson.rollout.values_BR[rows, :width],
        lesson.returns_BR[rows, :width], sequences.mask_BR, lesson.value_clip)


def _describe(rollout: Rollout, rewards_BR: torch.Tensor, params: PpoParams) -> Metrics:
    """Return means over the responses of this batch, and how well the values explain their returns.

    `reward` is over all responses, and `score`, the reward model's own, over those that stopped. In bf16
    another model samples than learns: `sampler_gap` is the mean of log(policy / sampler) over the tokens.
    """
    mask_BR = rollout.sequences.mask_BR
    metrics = {
        "reward": float(rollout.score_B.mean()),
        # Minus the mean log-probability of the sampled tokens is an unbiased estimate of the entropy a token.
        "entropy": -float(ppo_math.masked_mean(rollout.log_probs_BR, mask_BR)),
        "length": float(mask_BR.sum(1).float().mean()),
        "stopped": float(rollout.stopped_B.float().mean()),
    }
    if params.precision != "fp32":
        gap = (rollout.log_probs_BR - rollout.sampled_BR)[mask_BR.bool()]
        metrics |= {"sampler_gap": float(gap.mean()), "sampler_gap_std": float(gap.std(correction=0))}
    if bool(rollout.stopped_B.any()):
        metrics["score"] = float(rollout.score_B[rollout.stopped_B].mean())
    explained = ppo_math.explained_variance(rollout.values_BR, rewards_BR, mask_BR, params.gamma)
    if explained is not None:
        metrics["explained_variance"] = explained
    return metrics


def _next_prompts(learner: Learner, encoded: Sequence[list[int]], size: int) -> list[list[int]]:
    """Return the next `size` prompts; every prompt is used once before any is used again."""
    while len(learner.queue) < size:
        learner.queue += torch.randperm(len(encoded), generator=learner.generator).tolist()
    taken, learner.queue = learner.queue[:size], learner.queue[size:]
    return [encoded[i] for i in taken]


def _anneal(learner: Learner, params: PpoParams) -> None:
    """Set both learning rates, which fall linearly to 0 over the updates (Huang et al. 2022, detail 4)."""
    left = 1 - learner.update / params.updates
    learner.policy_optimizer.param_groups[0]["lr"] = params.learning_rate * left
    learner.value_optimizer.param_groups[0]["lr"] = params.value_learning_rate * left
