"""The same PPO beside TRL 1.9's: seconds an update, tokens a second of rollouts, and memory.

    python benchmarks/updates.py                       # all shapes, three rounds; part of `make bench`
    python benchmarks/updates.py --shapes small --rounds 1 --updates 2

Same weights, prompts, lengths, epochs, minibatches, clipping and precision; TRL with the settings that are fair to
it (`gradient_accumulation_steps=1`, so that its steps are epochs times minibatches: huggingface/trl#5645), no
periodic samples, no saving. Random weights hardly ever end a response, so all have the full length: what dropping
ended rows saves is not in these figures. TRL is installed into a folder of its own beside the checkout (`.trl`),
seen by its process alone. Each measurement is a process; the first update, which warms up, is left out. The rounds
alternate, so that a busy minute meets both.

The utilisation is the share of the machine's rate of matrix products, measured in the same rounds, that an update
reaches with the floating-point operations it cannot do without: the models' matrix products, a pass with gradients
counted three times, the output layer where there is an answer.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TRL = ROOT / ".trl"
THREADS = 2
EPOCHS, MINIBATCHES, LEARNING_RATE, KL_COEF, CLIP = 4, 4, 1e-6, 0.05, 0.2


@dataclass(frozen=True)
class Shape:
    """A model, and what it is asked."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    key_value_heads: int
    feed_forward: int
    prompt: int
    response: int
    batch: int
    precision: str
    tied: bool

    def flops(self) -> float:
        """Return the floating-point operations that an update needs."""
        tokens = self.prompt + self.response
        head_width = self.width // self.heads
        layer = self.width * (2 * self.width + 2 * self.key_value_heads * head_width + 3 * self.feed_forward)
        attention = 2 * self.width * tokens / 2  # products with the keys and the values of the tokens before
        body = 2 * self.layers * tokens * (layer + attention)
        output = 2 * self.response * self.width * self.vocabulary
        # Sampling, the old policy and the reference; the critic and the reward model; both that learn.
        return self.batch * (3 * (body + output) + 2 * body + 3 * EPOCHS * (2 * body + output))


SHAPES = {
    "small": Shape(2048, 256, 4, 4, 4, 688, 32, 48, 64, "fp32", tied=False),
    "wide": Shape(50257, 256, 4, 4, 4, 688, 256, 48, 16, "fp32", tied=False),
    "smollm2": Shape(49152, 576, 30, 9, 3, 1536, 64, 64, 32, "bf16", tied=True),
}


def main() -> None:
    """Measure, or be the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=3, help="a process; the first is left out")
    parser.add_argument("--one", nargs=3, metavar=("WHOSE", "SHAPE", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        whose, shape, folder = given.one
        measure = {"ours": ours, "trl": theirs, "rollouts": rollouts, "rate": rate}[whose]
        measure(SHAPES[shape], Path(folder), given.updates)
        return
    install()
    found = []
    for name in given.shapes:
        with tempfile.TemporaryDirectory() as folder:
            make_models(SHAPES[name], Path(folder))
            measured: dict[str, list[dict[str, list[float]]]] = {"ours": [], "trl": [], "rollouts": [], "rate": []}
            for _ in range(given.rounds):
                for whose, kept in measured.items():
                    kept.append(run(whose, name, folder, given.updates))
        found.append({"shape": name} | summary(measured, SHAPES[name].flops()))
    print(table(found))
    print(json.dumps(found))


def install() -> None:
    """Install TRL into its folder, without its dependencies: the project's own versions serve."""
    if not (TRL / "trl").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(TRL), "trl==1.9.0"]
        subprocess.run(command, check=True)


def run(whose: str, shape: str, folder: str, updates: int) -> dict[str, list[float]]:
    """Measure in a process of its own; return what its last line says."""
    return in_own_process(__file__, ["--one", whose, shape, folder, "--updates", str(updates)], trl=whose == "trl")


def in_own_process(program: str, arguments: Sequence[str], *, trl: bool) -> dict[str, Any] | list[Any]:
    """Run a benchmark's program, which sees TRL or not; return what its last line says.

    Ends this program if that one fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "TRL_EXPERIMENTAL_SILENCE": "1",
                   "PYTHONPATH": os.pathsep.join([str(ROOT), *([str(TRL)] if trl else [])])}
    done = subprocess.run([sys.executable, program, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{program} {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def at_each_step(start: Callable[[], None], after: Callable[[], None]) -> object:
    """Return a callback for a trainer: `start` is called before the first step, `after` after each."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def on_train_begin(self, *_: object, **__: object) -> None:
            start()

        def on_step_end(self, *_: object, **__: object) -> None:
            after()

    return Steps()


def make_models(shape: Shape, folder: Path) -> None:
    """Write a policy and a reward model with random weights, and a tokenizer that nobody uses."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from plumbline.alignment.reward import RewardModel
    from plumbline.lm.base import LanguageModel
    from plumbline.lm.pretrain import train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a few words to train a tokenizer on, which is never asked"] * 8, 300)
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=1024, tie_word_embeddings=shape.tied, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    LanguageModel(LlamaForCausalLM(config), tokenizer).save(folder / "policy")
    RewardModel.from_policy(folder / "policy", 1024, seed=0).save(folder / "reward")


def prompts_of(shape: Shape, count: int) -> list[list[int]]:
    """Return random prompts as ids."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(5, shape.vocabulary, (count, shape.prompt), generator=generator).tolist()


def ours(shape: Shape, folder: Path, updates: int) -> None:
    """Train with Plumbline; print the seconds of each update and the peak memory."""
    import torch

    from plumbline.alignment.online import loop
    from plumbline.alignment.online.critics import make_critic
    from plumbline.alignment.online.policies import make_policy
    from plumbline.alignment.reward import RewardModel, value_model
    from plumbline.config import load_params
    from plumbline.lm.base import LanguageModel
    from plumbline.lm.chat import stop_tokens
    from plumbline.lm.engines.own import OwnEngine

    torch.set_num_threads(THREADS)
    params = load_params(ROOT).ppo.model_copy(update={
        "updates": updates, "value_warmup": 0, "batch_size": shape.batch, "epochs": EPOCHS, "minibatches": MINIBATCHES,
        "micro_batch_size": shape.batch // MINIBATCHES, "learning_rate": LEARNING_RATE,
        "value_learning_rate": LEARNING_RATE, "kl_coef": KL_COEF, "clip": CLIP, "max_prompt": shape.prompt,
        "max_response": shape.response, "precision": shape.precision, "checkpoint_every": updates + 1})
    lm = LanguageModel.load(folder / "policy")
    reward = RewardModel.load(folder / "reward", shape.precision)
    policy = make_policy(lm.model, lambda: LanguageModel.load(folder / "policy").model, params, 0)
    critic, asked = make_critic("ppo", policy, reward, lambda: value_model(folder / "reward"), params)
    ends = [time.perf_counter()]
    # The prompts are ids: there is no text of them.
    loop.encode_prompt = lambda _tokenizer, ids: ids
    loop.rearranged = lambda _tokenizer, _prompts: 0
    with tempfile.TemporaryDirectory() as scratch:
        engine = OwnEngine(stop_tokens(lm.tokenizer, lm.model))
        loop.train_online("ppo", lm, policy, critic, asked, engine, prompts_of(shape, updates * shape.batch), params, 0,
                          lambda *_: ends.append(time.perf_counter()), Path(scratch))
    tell([after - before for before, after in pairwise(ends[1:])])


def theirs(shape: Shape, folder: Path, updates: int) -> None:
    """Train with TRL's PPOTrainer; print the same."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    torch.set_num_threads(THREADS)
    ends: list[float] = []

    def note() -> None:
        ends.append(time.perf_counter())

    args = PPOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=shape.batch, gradient_accumulation_steps=1,
        num_mini_batches=MINIBATCHES, num_ppo_epochs=EPOCHS, total_episodes=updates * shape.batch,
        response_length=shape.response, local_rollout_forward_batch_size=shape.batch // MINIBATCHES, temperature=1.0,
        learning_rate=LEARNING_RATE, kl_coef=KL_COEF, cliprange=CLIP, num_sample_generations=0, report_to="none",
        save_strategy="no", use_cpu=not torch.cuda.is_available(), bf16=shape.precision == "bf16", fp16=False,
        gradient_checkpointing=False, stop_token="eos")
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32) for _ in range(2))
    reward, value = (AutoModelForSequenceClassification.from_pretrained(folder / "reward", num_labels=1,
                                                                        dtype=torch.float32) for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    data = Dataset.from_dict({"input_ids": prompts_of(shape, updates * shape.batch)})
    trainer = PPOTrainer(
        args=args, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward,
        value_model=value, train_dataset=data, callbacks=[at_each_step(note, note)])
    trainer.train()
    tell([after - before for before, after in pairwise(ends[1:])])


def rollouts(shape: Shape, folder: Path, updates: int) -> None:
    """Sample with Plumbline and with transformers' generate in turn; print the seconds of both."""
    import torch

    from plumbline.lm.base import LanguageModel
    from plumbline.lm.sampling import sample

    torch.set_num_threads(THREADS)
    model = LanguageModel.load(folder / "policy", shape.precision).model
    prompts = prompts_of(shape, shape.batch)
    ids = torch.tensor(prompts, device=model.device)

    def ours() -> None:
        sample(model, prompts, max_response=shape.response, stop=-1, temperature=1.0, generator=torch.Generator())

    def theirs() -> None:
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, min_new_tokens=shape.response,
                       max_new_tokens=shape.response, pad_token_id=0)

    seconds: dict[str, list[float]] = {"ours": [], "generate": []}
    for turn in range(updates):
        for name, what in (("ours", ours), ("generate", theirs)):
            started = time.perf_counter()
            what()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    print(json.dumps(seconds))


def rate(shape: Shape, _folder: Path, _updates: int) -> None:
    """Print the rate of products of large square matrices in the shape's precision, in FLOPs a second."""
    import torch

    torch.set_num_threads(THREADS)
    size = 2048
    one, other = torch.randn(2, size, size, dtype=torch.bfloat16 if shape.precision == "bf16" else torch.float32)
    rates = []
    for _ in range(20):
        started = time.perf_counter()
        one @ other
        rates.append(2 * size**3 / (time.perf_counter() - started))
    print(json.dumps({"rate": [statistics.median(rates)]}))


def tell(seconds: list[float]) -> None:
    """Print what was measured, for the parent."""
    print(json.dumps({"seconds": seconds, "gib": [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]}))


def summary(measured: dict[str, list[dict[str, list[float]]]], flops: float) -> dict[str, float]:
    """Return medians, TRL's over ours, and the utilisation."""
    def median(whose: str, what: str) -> float:
        return statistics.median(value for one in measured[whose] for value in one[what])

    found = {f"{what}_{whose}": median(whose, what) for what in ("seconds", "gib") for whose in ("ours", "trl")}
    sampled = {f"rollout_seconds_{name}": median("rollouts", name) for name in ("ours", "generate")}
    least = flops / median("rate", "rate")
    return found | sampled | {
        "utilisation_ours": least / found["seconds_ours"], "utilisation_trl": least / found["seconds_trl"],
        "faster": found["seconds_trl"] / found["seconds_ours"], "memory": found["gib_ours"] / found["gib_trl"],
        "rollouts_faster": sampled["rollout_seconds_generate"] / sampled["rollout_seconds_ours"]}


def table(found: list[dict[str, float]]) -> str:
    """Return a line a shape."""
    lines = ["| shape | update, s: Plumbline | TRL | times as fast | memory, of TRL's | utilisation "
             "| TRL's | rollout, s: Plumbline | generate | times as fast |", "|---" * 10 + "|"]
    for one in found:
        lines.append(
            f"| {one['shape']} | {one['seconds_ours']:.2f} | {one['seconds_trl']:.2f} | {one['faster']:.2f} | "
            f"{one['memory']:.2f} | {one['utilisation_ours']:.2f} | {one['utilisation_trl']:.2f} | "
            f"{one['rollout_seconds_ours']:.2f} | {one['rollout_seconds_generate']:.2f} | "
            f"{one['rollouts_faster']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
