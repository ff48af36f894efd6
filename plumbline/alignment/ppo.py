"""Proximal policy optimisation of a language model against a reward model.

One episode is one response; the action is a token; the reward model's score comes with the last token and every token
pays for moving away from the frozen SFT policy (Ziegler et al. 2019; Stiennon et al. 2020; Ouyang et al. 2022). Policy
and value are separate models, the value starting as the reward model. Departures from the textbook: rewards are neither
whitened nor clipped, since the reward model is centred; a response that does not stop gets a fixed reward instead of
the model's; dropout is off everywhere, so that the ratio is exactly 1 before the first step.

    python -m tasks.ppo          # in a workspace, after sft and reward_model
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from plumbline.alignment import ppo_math
from plumbline.alignment.checkpoint import Checkpoint
from plumbline.alignment.reward import RewardModel
from plumbline.alignment.rollout import Rollout, response_log_probs, response_values, roll_out
from plumbline.config import PpoParams
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, stop_token
from plumbline.lm.optim import ReportStep, adamw, require_finite
from plumbline.lm.sampling import sample
from plumbline.lm.template import rearranged
from plumbline.preferences.types import Prompt

Metrics = dict[str, float]


@dataclass
class Learner:
    """What PPO changes: the two models, their optimizers, the KL weight, the order of prompts, the random state."""

    policy: PreTrainedModel
    value: PreTrainedModel
    policy_optimizer: torch.optim.AdamW
    value_optimizer: torch.optim.AdamW
    kl: ppo_math.KLController
    generator: torch.Generator
    queue: list[int]
    update: int = 0


def train_ppo(
    policy: LanguageModel,
    reference: PreTrainedModel,
    value: PreTrainedModel,
    reward: RewardModel,
    prompts: Sequence[Prompt],
    params: PpoParams,
    seed: int,
    report: ReportStep,
    checkpoint_folder: Path,
) -> Metrics:
    """Train `policy` and `value` in place; go on from a checkpoint in `checkpoint_folder` if there is one.

    Returns the metrics of the last tenth of the updates, averaged. Raises UserError if no prompt fits `max_prompt`,
    when the training diverges, and when the KL to the reference is clearly negative, which can only be a fault in the
    log-probabilities.
    """
    torch.manual_seed(seed)
    encoded = [ids for prompt in prompts if len(ids := encode_prompt(policy.tokenizer, prompt)) <= params.max_prompt]
    if not encoded:
        raise UserError(f"None of the {len(prompts)} prompts fits ppo.max_prompt = {params.max_prompt} tokens. "
                        "Raise it.")
    if params.minibatches > params.batch_size:
        raise UserError(f"ppo.minibatches = {params.minibatches} leaves some without a response: ppo.batch_size is "
                        f"{params.batch_size}. Lower the one or raise the other.")
    learner = Learner(
        policy.model.eval(), value.eval(),
        adamw(policy.model.parameters(), params.learning_rate), adamw(value.parameters(), params.value_learning_rate),
        ppo_math.KLController(params.kl_coef, params.kl_target, params.kl_horizon),
        torch.Generator().manual_seed(seed), [])
    checkpoint = Checkpoint(checkpoint_folder)
    history = checkpoint.restore(learner)
    sampler = policy.model if params.precision == "fp32" else copy.deepcopy(policy.model).to(torch.bfloat16)
    stop = stop_token(policy.tokenizer)
    while learner.update < params.updates:
        _anneal(learner, params)
        if sampler is not policy.model:
            sampler.load_state_dict(policy.model.state_dict())
        batch = _next_prompts(learner, encoded, params.batch_size)
        responses = sample(sampler, batch, max_response=params.max_response, stop=stop,
                           temperature=params.temperature, generator=learner.generator)
        rollout = roll_out(batch, responses, policy.model, reference, value, reward, temperature=params.temperature,
                           missing_stop_reward=params.missing_stop_reward, precision=params.precision,
                           micro_batch_size=params.micro_batch_size)
        metrics = _learn(learner, rollout, params)
        learner.update += 1
        history.append(metrics)
        report(learner.update, params.updates, metrics)
        if learner.update % params.checkpoint_every == 0 and learner.update < params.updates:
            checkpoint.save(learner, history)
    last = history[-max(1, params.updates // 10) :]
    moved = rearranged(policy.tokenizer, prompts)
    return _averages(last) | {"prompts": len(encoded), "dropped_too_long": len(prompts) - len(encoded),
                              **({"system_before_user": moved} if moved else {})}


def _averages(history: Sequence[Metrics]) -> Metrics:
    """The mean of each figure over the updates that have it."""
    found: dict[str, list[float]] = {}
    for metrics in history:
        for name, value in metrics.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def _learn(learner: Learner, rollout: Rollout, params: PpoParams) -> Metrics:
    """One round of learning from one batch of experience. Returns its metrics."""
    mask_BR = rollout.sequences.mask_BR
    kl = float(rollout.kl_BR.sum(1).mean())
    if kl < -1.0:
        raise UserError(f"The KL of the policy to the reference is {kl:.2f} nats a response. A KL cannot be negative, "
                        "so sampling and scoring disagree about the policy: is the reference the SFT model that the "
                        "policy started from, and does ppo.temperature match the sampling?")
    rewards_BR = ppo_math.token_rewards(rollout.score_B, rollout.kl_BR, mask_BR, learner.kl.coef)
    advantages_BR, returns_BR = ppo_math.advantages_and_returns(
        rewards_BR, rollout.values_BR, mask_BR, params.gamma, params.gae_lambda)
    advantages_BR = ppo_math.whiten(advantages_BR, mask_BR)
    sums = dict.fromkeys(("policy_loss", "value_loss", "clip_fraction", "approx_kl", "ratio", "tokens"), 0.0)
    norms: list[tuple[float, float]] = []
    for _ in range(params.epochs):
        order = torch.randperm(len(mask_BR), generator=learner.generator).to(mask_BR.device)
        for minibatch in order.tensor_split(params.minibatches):
            norms.append(_step(learner, rollout, advantages_BR, returns_BR, minibatch, params, sums))
    metrics = {name: total / sums["tokens"] for name, total in sums.items() if name != "tokens"}
    metrics |= _describe(rollout, returns_BR) | {"kl": kl, "kl_coef": learner.kl.coef}
    metrics |= {"policy_grad_norm": sum(n for n, _ in norms) / len(norms),
                "value_grad_norm": sum(n for _, n in norms) / len(norms)}
    learner.kl.update(kl, len(mask_BR))
    return metrics


def _step(
    learner: Learner, rollout: Rollout, advantages_BR: torch.Tensor, returns_BR: torch.Tensor, minibatch: torch.Tensor,
    params: PpoParams, sums: dict[str, float],
) -> tuple[float, float]:
    """One optimizer step of policy and value. The loss is a mean over the tokens of the whole minibatch, so its split
    into micro-batches changes nothing. Adds to `sums`; returns the two gradient norms."""
    tokens = rollout.sequences.mask_BR[minibatch].sum()
    for rows in rollout.sequences.micro_batches(minibatch, params.micro_batch_size):
        sequences = rollout.sequences.rows(rows)
        mask_BR = sequences.mask_BR
        old_BR, old_values_BR, advantage_BR, return_BR = (
            whole[rows, : mask_BR.shape[1]]
            for whole in (rollout.log_probs_BR, rollout.values_BR, advantages_BR, returns_BR))
        new_BR = response_log_probs(learner.policy, sequences, params.temperature, params.precision)
        policy = ppo_math.policy_loss(new_BR, old_BR, advantage_BR, mask_BR, params.clip)
        (policy.loss / tokens).backward()
        values_BR = response_values(learner.value, sequences, params.precision)
        value = ppo_math.value_loss(values_BR, old_values_BR, return_BR, mask_BR, params.value_clip)
        (value / tokens).backward()
        for name, total in (("policy_loss", policy.loss), ("value_loss", value), ("clip_fraction", policy.clipped),
                            ("approx_kl", policy.approx_kl), ("ratio", policy.ratio), ("tokens", mask_BR.sum())):
            sums[name] += float(total.detach())
    norms = [float(torch.nn.utils.clip_grad_norm_(model.parameters(), params.max_grad_norm))
             for model in (learner.policy, learner.value)]
    require_finite(sums | {"policy_grad_norm": norms[0], "value_grad_norm": norms[1]}, "ppo",
                   f"update {learner.update + 1} of {params.updates}")
    for optimizer in (learner.policy_optimizer, learner.value_optimizer):
        optimizer.step()
        optimizer.zero_grad()
    return norms[0], norms[1]


def _describe(rollout: Rollout, returns_BR: torch.Tensor) -> Metrics:
    """What the responses of this batch were like."""
    mask_BR = rollout.sequences.mask_BR
    stopped = rollout.stopped_B
    explained = ppo_math.explained_variance(rollout.values_BR, returns_BR, mask_BR)
    return {
        "reward": float(rollout.score_B.mean()),
        # Minus the mean log-probability of what was sampled is an unbiased estimate of the entropy a token.
        "entropy": -float(ppo_math.masked_mean(rollout.log_probs_BR, mask_BR)),
        "length": float(mask_BR.sum(1).float().mean()),
        "stopped": float(stopped.float().mean()),
        **({"explained_variance": explained} if explained is not None else {}),
    }


def _next_prompts(learner: Learner, encoded: Sequence[list[int]], size: int) -> list[list[int]]:
    """The next `size` prompts; every prompt is used once before any is used again."""
    while len(learner.queue) < size:
        learner.queue += torch.randperm(len(encoded), generator=learner.generator).tolist()
    taken, learner.queue = learner.queue[:size], learner.queue[size:]
    return [encoded[i] for i in taken]


def _anneal(learner: Learner, params: PpoParams) -> None:
    """Both learning rates fall linearly to 0 over the updates."""
    left = 1 - learner.update / params.updates
    learner.policy_optimizer.param_groups[0]["lr"] = params.learning_rate * left
    learner.value_optimizer.param_groups[0]["lr"] = params.value_learning_rate * left
