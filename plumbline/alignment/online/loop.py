"""Online learning: the policy answers, a reward model scores, the policy learns from its own answers.

One episode is one response; the action is a token; the reward model's score comes with the last token, and
every token pays for moving away from the frozen SFT policy (Ziegler et al. 2019; Stiennon et al. 2020; Ouyang
et al. 2022). A method says how rewards become advantages, and with which loss the policy learns from them
(methods.py). The critic starts as the reward model. That one is read at the last token only, so the first
`value_warmup` batches of responses teach the critic alone what the tokens before it are worth: until then its
advantages would move the policy at random. One update:

    prompts    = the next batch; each is used once before any again       _next_prompts
    responses  = sample(policy, prompts)                                  lm/engines/    sample
    old, ref   = log-probabilities of the tokens, under policy and SFT    policies.py    log_probs
    values     = critic, just before each token                           critics.py     values
    score      = reward model, at the last token                          experience.py  gather
    rewards    = -beta * std * (old - ref) at each token                  advantages.py  token_rewards
                 + score at the last one
    A, returns = the method's estimate, for PPO GAE, whitened             advantages.py
    for each epoch, for each random minibatch of the responses:           _step
        for each micro-batch, of the policy:                              _backward
            new         = log-probabilities under the policy of now       policies.py    log_probs
            policy loss = the method's, for PPO the clipped one           losses.py
        with `ptx_coef`: the loss of some demonstrations                  rehearsal.py
        clip the gradient's norm, step the optimizer, forget the gradient _take_step
        for each micro-batch, of the critic:                              _backward
            value loss  = squared error, the larger of free and clipped   losses.py      value_loss
        the same for the critic's gradient and optimizer                  _take_step
    beta       = steered towards the target KL, if there is one           kl.py          KLController

Every few updates the policy is measured on validation prompts, and the best one is kept: validation.py.

On several ranks (lm/ranks/) policy and critic are in parts, and all else is on each rank. All draw the same
prompts and random numbers; responses are shared out to be sampled, scored and read, and gathered, so that a
batch's figures and targets are worked out as on one rank; and so is each minibatch, to be learnt from.

Departures from the textbook: rewards are not clipped, because the reward model is centred; a response that
does not stop gets a fixed reward instead of the model's; dropout is off everywhere, so that the ratio is
exactly 1 before the first step. A reward has no unit of its own, so beta, the range of a value and the reward
of a response that does not stop are given in standard deviations of the SFT policy's rewards.

    python -m tasks.ppo          # in a workspace, after sft and reward_model
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from plumbline.alignment.online import kl as kl_of
from plumbline.alignment.online.advantages import Rewarded, Targets, of_unit_variance, token_rewards
from plumbline.alignment.online.critics import Critic
from plumbline.alignment.online.experience import Experience, Sampler, corrected, gather
from plumbline.alignment.online.figures import TOKEN_MEANS, average, describe, engine_gap, measured_kl
from plumbline.alignment.online.learner import Learner, Metrics
from plumbline.alignment.online.losses import value_loss
from plumbline.alignment.online.methods import METHODS, Method
from plumbline.alignment.online.policies import Policy
from plumbline.alignment.online.rehearsal import rehearse, rehearsed
from plumbline.alignment.online.rewards import Reward
from plumbline.alignment.online.trust_region import natural_step
from plumbline.alignment.online.validation import Validation
from plumbline.alignment.packing import PackedRow
from plumbline.config import PpoParams
from plumbline.config.methods import TrpoParams
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt
from plumbline.lm.checkpoint import Checkpoint, made_with
from plumbline.lm.engines.agreement import require_agreement
from plumbline.lm.engines.engine import Engine
from plumbline.lm.optim import ReportStep, require_finite
from plumbline.lm.ranks.sharding import clip_grad_norm
from plumbline.lm.ranks.world import world
from plumbline.lm.sampling import shared, uniforms
from plumbline.lm.template import rearranged
from plumbline.preferences.types import Demonstration, Prompt

VALUE_RATE = "value_learning_rate"
"""The parameter to lower where it is the critic that diverges."""
STEP_MEANS = ("policy_grad_norm", "value_grad_norm", "ptx_loss")


@dataclass(frozen=True)
class Setting:
    """What stays the same: the method, prompts, as ids, the reward, and who samples."""

    method: Method
    prompts: Sequence[list[int]]
    reward: Reward
    sampler: Sampler
    engine: Engine
    rehearsed: Sequence[PackedRow]
    """Demonstrations that are learnt beside, a row each; empty without `ptx_coef`."""
    params: PpoParams

    def experience(self, learner: Learner) -> Experience:
        """Let the policy answer the next batch of prompts, and all models score the answers."""
        params = self.params
        asked = _next_prompts(learner, self.prompts, params.batch_size // params.answers_per_prompt)
        batch = [prompt for prompt in asked for _ in range(params.answers_per_prompt)]
        model = self.sampler.renewed()
        if learner.policy.mask:
            model = learner.policy.mask.over(model)
        uniform_BR = uniforms(len(batch), params.max_response, learner.generator)
        responses = shared(batch, uniform_BR, partial(
            self.engine.sample, model, temperature=params.temperature))
        return gather(batch, responses, learner.policy, learner.critic, self.reward,
                      missing_stop_deviations=params.missing_stop_deviations,
                      micro_batch_size=params.micro_batch_size)


@dataclass(frozen=True)
class Lesson:
    """A batch of experience with the targets of learning from it."""

    experience: Experience
    targets: Targets
    critic_only: bool
    value_clip: float
    """In the unit of the rewards that the targets are made of."""
    when: str
    """Which batch it is, for errors."""


def train_online(
    name: str, lm: LanguageModel, policy: Policy, critic: Critic | None, reward: Reward,
    engine: Engine, prompts: Sequence[Prompt], params: PpoParams, seed: int, report: ReportStep,
    checkpoint_folder: Path,
    validation: Validation | None = None, demonstrations: Sequence[Demonstration] = (),
) -> Metrics:
    """Train `policy`, which is of `lm`, and `critic` by the method `name`, in place; resume from a checkpoint
    in `checkpoint_folder` if there is one. `engine` samples the responses. On several ranks the policy is
    whole again at the end, and then `lm` is.

    The policy becomes the one that `validation` keeps, without it the last one. Returns the metrics of the
    last tenth of the updates, averaged, and the kept policy's on the validation prompts. Raises UserError if
    no prompt fits `max_prompt`, if the training diverges, and if the KL to the reference is clearly negative,
    which can only be a fault in the log-probabilities. The caller has asked `config.online.require_usable`
    whether the parameters agree with each other.
    """
    torch.manual_seed(seed)
    encoded = _encode(lm, prompts, params)
    rehearsal, rehearsal_counts = rehearsed(lm, demonstrations, params)
    setting = Setting(METHODS[name], encoded, reward, Sampler(policy), engine, rehearsal, params)
    learner = Learner.new(policy, critic, params, seed)
    checkpoint = Checkpoint(checkpoint_folder, {"method": name, **made_with("ppo", params, seed, encoded)})
    if state := checkpoint.load():
        learner.load_state_dict(state)

    if learner.critic and learner.warmed < params.value_warmup:
        _warm_up(learner, setting, report)
        checkpoint.save(0, learner.state_dict())
    while learner.update < params.updates and not learner.kept.beyond_limit:
        learner.anneal(params)
        metrics = _learn(learner, setting)
        learner.update += 1
        learner.history.append(metrics)
        learner.renew_mask(params)
        if validation and _due(learner.update, params):
            metrics = metrics | validation.measure(policy, setting.sampler)
            learner.kept.consider(learner.update, metrics, policy, validation)
        report(learner.update, params.updates, metrics)
        if learner.update % params.checkpoint_every == 0 and learner.update < params.updates:
            checkpoint.save(learner.update, learner.state_dict())

    metrics = average(learner.history[-max(1, params.updates // 10) :])
    metrics["best_update"] = learner.update
    if validation:
        metrics |= learner.kept.put_into(policy)
    if learner.kept.beyond_limit:
        metrics["stopped_early"] = learner.update
    del learner, setting  # gradients, optimizers and what samples take more than a whole policy
    policy.whole().end()
    return metrics | _counts(lm, prompts, encoded) | rehearsal_counts


def _warm_up(learner: Learner, setting: Setting, report: ReportStep) -> None:
    """Train the critic alone, on responses of the policy as it is."""
    while learner.warmed < setting.params.value_warmup:
        metrics = _learn(learner, setting, critic_only=True)
        learner.warmed += 1
        report(learner.warmed, setting.params.value_warmup, metrics, "value warm-up")


def _learn(learner: Learner, setting: Setting, critic_only: bool = False) -> Metrics:
    """Update policy, critic and KL weight, or the critic alone, from one batch of experience.

    Returns the update's metrics.
    """
    params, std = setting.params, setting.reward.std
    experience = setting.experience(learner)
    mask_BR = experience.sequences.mask_BR
    moved = measured_kl(experience)
    when = f"update {learner.update + 1} of {params.updates}"
    if critic_only:
        when = f"batch {learner.warmed + 1} of {params.value_warmup} of the value warm-up"
    require_finite({"reward": float(experience.score_B.mean()), **moved}, "ppo", when)
    if experience.values_BR is not None:
        require_finite({"value": float(experience.values_BR.mean())}, "ppo", when, VALUE_RATE)
    gap = engine_gap(experience)
    if params.engine != "own":
        require_agreement(gap["prob_error"], params.precision, when)

    # The targets of learning stay fixed for all epochs over this batch.
    rewards_BR = _rewards(experience, learner, params, std)
    unit = 1.0 if params.whiten_rewards else std
    targets = setting.method.estimate(Rewarded(rewards_BR, mask_BR, experience.values_BR, unit), params)
    if params.rollout_correction is not None:
        targets = corrected(targets, experience, params.rollout_correction)
    # An untrained value may be anywhere, so before the first update nothing holds it back.
    clip = math.inf if critic_only or params.value_clip is None else params.value_clip * unit
    lesson = Lesson(experience, targets, critic_only, clip, when)

    natural = {}
    if isinstance(params, TrpoParams) and not critic_only:
        natural = natural_step(learner.policy, experience, targets, params)
        require_finite(natural, "ppo", when)
        lesson = replace(lesson, critic_only=True)
    sums: dict[str, float] = defaultdict(float)
    for minibatch in _minibatches(learner, len(mask_BR), params):
        _step(learner, lesson, minibatch, setting, sums)
        if _moved_too_far(sums, params):
            break

    metrics = {name: sums[name] / sums["tokens"] for name in TOKEN_MEANS if name in sums} | natural
    metrics |= describe(experience, rewards_BR, params) | moved | gap | {"kl_coef": learner.kl.coef}
    metrics |= {name: sums[name] / sums["steps"] for name in STEP_MEANS if name in sums}
    if not critic_only:
        learner.kl.update(moved["kl"], len(mask_BR))
    return metrics


def _rewards(experience: Experience, learner: Learner, params: PpoParams, std: float) -> torch.Tensor:
    """Return the reward [B, R] of each token: the score at the last one, and the KL where it is paid here."""
    mask_BR = experience.sequences.mask_BR
    coef = learner.kl.coef * std if params.kl_in == "reward" else 0.0
    kl_BR = kl_of.estimate(experience.kl_BR, params.kl_estimator)
    rewards_BR = token_rewards(experience.score_B, kl_BR, mask_BR, coef)
    return of_unit_variance(rewards_BR, mask_BR) if params.whiten_rewards else rewards_BR


def _minibatches(learner: Learner, responses: int, params: PpoParams) -> list[torch.Tensor]:
    """Return the rows of each minibatch, in all epochs over the batch."""
    device = learner.policy.model.device
    return [minibatch for _ in range(params.epochs)
            for minibatch in torch.randperm(responses, generator=learner.generator).to(device).tensor_split(
                params.minibatches)]


def _moved_too_far(sums: dict[str, float], params: PpoParams) -> bool:
    """True if the policy's mean KL from the one that sampled is beyond `max_step_kl`, in nats a token."""
    limit = params.max_step_kl
    return limit is not None and sums.get("last approx_kl", 0.0) > limit


def _step(
    learner: Learner, lesson: Lesson, minibatch: torch.Tensor, setting: Setting, sums: dict[str, float]
) -> None:
    """Make one optimizer step of each model that learns, on the rows `minibatch` of the batch: the policy
    first, so that its gradient is gone when the critic's is made. Adds the step's figures to `sums`.
    """
    params, critic = setting.params, learner.critic
    tokens = float(lesson.experience.sequences.mask_BR[minibatch].sum())
    found = {"steps": 1.0, "tokens": tokens}
    if not lesson.critic_only:
        found |= _backward(lesson, minibatch, params, "policy_loss", lambda rows: _policy_totals(
            learner, lesson, rows, setting))
        if setting.rehearsed:
            found["ptx_loss"] = rehearse(learner, setting.rehearsed, len(minibatch), params)
        found["policy_grad_norm"] = clip_grad_norm(learner.policy.parameters(), params.max_grad_norm)
        require_finite(found, "ppo", lesson.when)
        _take_step(learner.policy_optimizer)
        sums["last approx_kl"] = found["approx_kl"] / tokens
    if critic and learner.critic_optimizer:
        found |= _backward(lesson, minibatch, params, "value_loss", lambda rows: _value_totals(
            learner, critic, lesson, rows))
        found["value_grad_norm"] = clip_grad_norm(critic.parameters(), params.max_grad_norm)
        require_finite(found, "ppo", lesson.when, VALUE_RATE)
        _take_step(learner.critic_optimizer)
    for name, value in found.items():
        sums[name] += value


def _backward(
    lesson: Lesson, minibatch: torch.Tensor, params: PpoParams, loss: str,
    totals_of: Callable[[torch.Tensor], dict[str, torch.Tensor]],
) -> dict[str, float]:
    """Add the gradient of the total that is named `loss`, as a mean over the tokens of the whole minibatch,
    so that its division into micro-batches changes nothing.

    `totals_of` gives the totals of the rows of a micro-batch. Returns those of the minibatch.
    """
    sequences, here, sums = lesson.experience.sequences, world(), defaultdict[str, float](float)
    tokens = sequences.mask_BR[minibatch].sum()
    mine = sequences.micro_batches(minibatch[here.share], params.micro_batch_size)
    for rows, weight in here.passes(mine, minibatch[:1]):
        totals = totals_of(rows)
        (weight * totals[loss] / tokens).backward()
        for name, total in totals.items():
            sums[name] += weight * float(total.detach())
    return here.summed(sums)


def _take_step(optimizer: torch.optim.AdamW) -> None:
    """Make a step along the gradient, and forget it."""
    optimizer.step()
    optimizer.zero_grad()


def _policy_totals(
    learner: Learner, lesson: Lesson, rows: torch.Tensor, setting: Setting
) -> dict[str, torch.Tensor]:
    """Return the policy's loss on these rows, with its gradient, and its figures, summed over the tokens."""
    experience, params, policy = lesson.experience, setting.params, learner.policy
    # The micro-batch has its own, smaller width: columns of padding alone are cut off.
    sequences = policy.masked(policy.prepared(experience.sequences.rows(rows)))
    width = sequences.mask_BR.shape[1]
    new_BR = policy.log_probs(sequences)
    found = setting.method.loss(new_BR, experience.old_BR[rows, :width],
                                lesson.targets.advantages_BR[rows, :width], sequences.mask_BR, params.clip)
    loss = found.loss
    if params.kl_in == "loss":
        kl_BR = kl_of.estimate(new_BR - experience.reference_BR[rows, :width], params.kl_estimator)
        loss = loss + learner.kl.coef * (kl_BR * sequences.mask_BR).sum()
    return {"policy_loss": loss, "clip_fraction": found.clipped, "approx_kl": found.approx_kl,
            "ratio": found.ratio}


def _value_totals(
    learner: Learner, critic: Critic, lesson: Lesson, rows: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the critic's loss on these rows, with its gradient, summed over the tokens."""
    sequences = lesson.experience.sequences.rows(rows)
    if critic.on_trunk:
        sequences = learner.policy.prepared(sequences)
    width = sequences.mask_BR.shape[1]
    old_BR, returns_BR = lesson.experience.values_BR, lesson.targets.returns_BR
    assert old_BR is not None and returns_BR is not None
    return {"value_loss": value_loss(
        critic.values(sequences), old_BR[rows, :width], returns_BR[rows, :width], sequences.mask_BR,
        lesson.value_clip)}


def _next_prompts(learner: Learner, encoded: Sequence[list[int]], size: int) -> list[list[int]]:
    """Return the next `size` prompts; every prompt is used once before any is used again."""
    while len(learner.queue) < size:
        learner.queue += torch.randperm(len(encoded), generator=learner.generator).tolist()
    taken, learner.queue = learner.queue[:size], learner.queue[size:]
    return [encoded[i] for i in taken]


def _due(update: int, params: PpoParams) -> bool:
    """True if the policy is measured on the validation prompts after this update."""
    return update % params.evaluate_every == 0 or update == params.updates


def _counts(lm: LanguageModel, prompts: Sequence[Prompt], encoded: Sequence[list[int]]) -> Metrics:
    """Return how many prompts were used, left out, and rearranged for a template without a system role."""
    counts: Metrics = {"prompts": len(encoded), "dropped_too_long": len(prompts) - len(encoded)}
    if moved := rearranged(lm.tokenizer, prompts):
        counts["system_before_user"] = moved
    return counts


def _encode(lm: LanguageModel, prompts: Sequence[Prompt], params: PpoParams) -> list[list[int]]:
    """Return the ids of the prompts that fit `max_prompt`. Raises UserError if there are none."""
    encoded = [encode_prompt(lm.tokenizer, prompt) for prompt in prompts]
    encoded = [ids for ids in encoded if len(ids) <= params.max_prompt]
    if not encoded:
        raise UserError(f"None of the {len(prompts)} prompts fits ppo.max_prompt = {params.max_prompt} "
                        "tokens. Raise it.")
    return encoded
