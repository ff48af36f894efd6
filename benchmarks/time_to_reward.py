"""Seconds of training until a policy is as good as PPO makes it, almost: Plumbline beside TRL 1.9, from the same SFT.

    python benchmarks/learning.py out --seeds 0 1 2 --until reward_eval
    python benchmarks/time_to_reward.py out --seeds 0 1 2 --ours ppo a2c ppo-top --picture time-to-reward.png

`out` holds the default's SFT and reward models, made by the first line. Each training is a process of its own, from
the same weights and training prompts. Every few updates the policy answers up to 200 held-out prompts at temperature
1, with the same random numbers, and the gold reward judges; the clock stands still meanwhile. A training has arrived
when the gold reward has first made 90 % of the way from SFT to where Plumbline's `ppo` ends, in curves of which each
value is the mean of itself and its neighbours. (That is the end, and not the top: a training may fall again.)

TRL gets the same batch, epochs, minibatches, lengths, learning rate, clipping and discounts, `kl_coef` and the penalty
of an answer without an end in the reward's own units, and `gradient_accumulation_steps=1`; its other settings are its
own. Plumbline's value warm-up is on its clock.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from updates import ROOT, THREADS, at_each_step, in_own_process, install

sys.path.insert(0, str(ROOT))
PROMPTS = 200
SHARE = 0.9
BASELINE = "ppo"
Curve = list[tuple[float, float]]
"""Seconds of training, and the mean gold reward of the answers then."""


def main() -> None:
    """Train and measure, or be the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--ours", nargs="+", default=[BASELINE], help="`ppo` and candidates of params.yaml")
    parser.add_argument("--every", type=int, default=5, help="updates between measurements")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        train(given.out, given.one, given.every)
        return
    install()
    names = [*dict.fromkeys([BASELINE, *given.ours]), "trl"]
    curves = {seed: {name: measured(given.out / str(seed), name, given) for name in names} for seed in given.seeds}
    found = [{"seed": seed} | arrivals(curves[seed]) for seed in given.seeds]
    print(table(found, names))
    print(json.dumps({"arrivals": found, "curves": curves}))
    if given.picture:
        draw(curves, given.picture)


def measured(root: Path, name: str, given: argparse.Namespace) -> Curve:
    """Train in a process of its own; return the curve."""
    curve: Curve = in_own_process(
        __file__, [str(root), "--one", name, "--every", str(given.every)], trl=name == "trl")
    print(f"{root.name}: {name}: {curve[-1][0]:.0f} s of training, gold {curve[0][1]:.3f} to {curve[-1][1]:.3f}",
          flush=True)
    return curve


def train(root: Path, name: str, every: int) -> None:
    """Train by one method; print the curve."""
    import torch

    from plumbline.config import candidate_params, load_params
    from plumbline.lm.base import LanguageModel
    from plumbline.preferences.prepare.reader import prompts

    torch.set_num_threads(THREADS)
    params = load_params(root)
    lm = LanguageModel.load(root / "models/sft/model")
    clock = Clock(lm, prompts(root / "data/prepared", "heldout")[:PROMPTS], params.ppo.max_response, every)
    if name == "trl":
        theirs(root, params.ppo, params.seed, lm, clock)
    else:
        block = params.ppo if name == BASELINE else candidate_params(params, name)
        method = BASELINE if name == BASELINE else params.candidates[name]["method"]
        ours(root, method, block, params.seed, lm, clock)
    print(json.dumps(clock.curve))


class Clock:
    """Measures a policy while it is trained, off the clock."""

    def __init__(self, lm, prompts, max_response: int, every: int) -> None:
        self.lm, self.prompts, self.max_response, self.every = lm, prompts, max_response, every
        self.curve: Curve = []
        self.started = self.away = 0.0

    def start(self) -> None:
        """Measure SFT, and start."""
        self.curve.append((0.0, self.gold()))
        self.started = time.perf_counter()

    def after(self, update: int, updates: int) -> None:
        """Measure the policy, if it is time to."""
        if update % self.every and update != updates:
            return
        now = time.perf_counter()
        self.curve.append((now - self.started - self.away, self.gold()))
        self.away += time.perf_counter() - now

    def gold(self) -> float:
        """Return the mean gold reward of the policy's answers."""
        from plumbline.alignment.sample_page import respond
        from plumbline.preferences.simulated.gold import gold_reward

        texts = respond(self.lm, self.prompts, max_response=self.max_response, temperature=1.0, seed=0)
        return sum(map(gold_reward, self.prompts, texts)) / len(texts)


def ours(root: Path, method: str, params, seed: int, lm, clock: Clock) -> None:
    """Train with Plumbline."""
    from plumbline.alignment.online.critics import make_critic
    from plumbline.alignment.online.loop import train_online
    from plumbline.alignment.online.policies import make_policy
    from plumbline.alignment.reward import RewardModel, value_model
    from plumbline.lm.base import LanguageModel
    from plumbline.lm.chat import stop_tokens
    from plumbline.lm.engines.own import OwnEngine
    from plumbline.preferences.prepare.reader import prompts

    sft, reward = root / "models/sft/model", root / "models/reward/model"
    policy = make_policy(lm.model, lambda: LanguageModel.load(sft).model, params, seed)
    critic, asked = make_critic(method, policy, RewardModel.load(reward, params.precision),
                                lambda: value_model(reward), params)
    params = params.model_copy(update={"checkpoint_every": params.updates + 1})

    def report(step: int, steps: int, _metrics: object, what: str = "") -> None:
        if not what:
            clock.after(step, steps)

    engine = OwnEngine(stop_tokens(lm.tokenizer, lm.model))
    with tempfile.TemporaryDirectory() as scratch:
        clock.start()
        train_online(method, lm, policy, critic, asked, engine, prompts(root / "data/prepared", "train"), params, seed,
                     report, Path(scratch))


def theirs(root: Path, params, seed: int, lm, clock: Clock) -> None:
    """Train with TRL's PPOTrainer."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from plumbline.alignment.reward import RewardModel
    from plumbline.lm.chat import encode_prompt, stop_token
    from plumbline.preferences.prepare.reader import prompts

    update = count(1)
    measure = at_each_step(clock.start, lambda: clock.after(next(update), params.updates))
    sft, rewards = root / "models/sft/model", root / "models/reward/model"
    deviation = RewardModel.load(rewards, "fp32").std
    args = PPOConfig(
        output_dir=str(root / "trl"), per_device_train_batch_size=params.batch_size, gradient_accumulation_steps=1,
        num_mini_batches=params.minibatches, num_ppo_epochs=params.epochs,
        total_episodes=params.updates * params.batch_size, response_length=params.max_response,
        local_rollout_forward_batch_size=params.micro_batch_size, temperature=params.temperature,
        learning_rate=params.learning_rate, kl_coef=params.kl_coef * deviation, cliprange=params.clip,
        gamma=params.gamma, lam=params.gae_lambda, missing_eos_penalty=params.missing_stop_deviations * deviation,
        num_sample_generations=0, report_to="none", save_strategy="no", use_cpu=True, bf16=False, fp16=False,
        gradient_checkpointing=False, stop_token="eos", seed=seed)
    reference = AutoModelForCausalLM.from_pretrained(sft, dtype=torch.float32)
    reward, value = (AutoModelForSequenceClassification.from_pretrained(rewards, num_labels=1, dtype=torch.float32)
                     for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(sft, padding_side="left")
    if tokenizer.eos_token_id != stop_token(lm.tokenizer):
        raise SystemExit("TRL ends an answer at the end-of-text token, which is not the stop token of this model.")
    ids = [encode_prompt(lm.tokenizer, prompt) for prompt in prompts(root / "data/prepared", "train")]
    fitting = [prompt for prompt in ids if len(prompt) <= params.max_prompt]
    trainer = PPOTrainer(
        args=args, processing_class=tokenizer, model=lm.model, ref_model=reference, reward_model=reward,
        value_model=value, train_dataset=Dataset.from_dict({"input_ids": fitting}), callbacks=[measure])
    trainer.train()


def smoothed(curve: Curve) -> Curve:
    """Return the curve with each value the mean of itself and its neighbours; the first is SFT's, and stays."""
    values = [value for _, value in curve]
    near = [values[max(1, i - 1) : i + 2] for i in range(1, len(values))]
    return [curve[0], *((curve[i + 1][0], sum(some) / len(some)) for i, some in enumerate(near))]


def arrivals(curves: dict[str, Curve]) -> dict[str, float | None]:
    """Return the seconds until each curve has made its way; None if it never does."""
    curves = {name: smoothed(curve) for name, curve in curves.items()}
    start, end = curves[BASELINE][0][1], curves[BASELINE][-1][1]
    wanted = start + SHARE * (end - start)
    return {name: next((seconds for seconds, gold in curve if gold >= wanted), None) for name, curve in curves.items()}


def table(found: Sequence[dict[str, float | None]], names: Sequence[str]) -> str:
    """Return a line a seed: the seconds of each, and TRL's over the best of ours."""
    lines = [f"| seed | {' | '.join(names)} | TRL over the best |", "|---" * (len(names) + 2) + "|"]
    for one in found:
        seconds = [one[name] for name in names]
        best = min((one[name] for name in names[:-1] if one[name] is not None), default=None)
        ratio = f"{one['trl'] / best:.2f}" if best and one["trl"] is not None else "never"
        shown = " | ".join("never" if value is None else f"{value:.0f}" for value in seconds)
        lines.append(f"| {one['seed']} | {shown} | {ratio} |")
    return "\n".join(lines)


def draw(curves: dict[int, dict[str, Curve]], file: Path) -> None:
    """Draw gold reward over seconds, a panel a seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3.2), sharey=True, squeeze=False)
    for panel, (seed, of_seed) in zip(panels[0], curves.items(), strict=True):
        for name, curve in of_seed.items():
            panel.plot(*zip(*curve, strict=True), label="TRL 1.9" if name == "trl" else name)
        panel.set(title=f"seed {seed}", xlabel="seconds of training")
    panels[0][0].set_ylabel("gold reward, sampled")
    panels[0][-1].legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
