"""The reward model's training and DPO's beside TRL 1.9's trainers: tokens a second, and memory.

    python benchmarks/trainers.py                       # all shapes, three rounds; part of `make bench`
    python benchmarks/trainers.py --shapes smollm2 --rounds 1 --steps 3

Same weights, pairs, batch size, learning rate and precision; the shapes are those of updates.py, with answers of a
quarter of `response` tokens up to all of it, because people's answers differ in length. A token is one of a prompt or
an answer, each side of a pair counted with its prompt, as a trainer has to learn from it; padding counts for nothing.
DPO's time includes the reference's, which Plumbline asks before the first step and TRL in each. TRL's settings are
its own but for those named and `gradient_checkpointing`, which is off. Each measurement is a process; a step that
warms up is left out. The rounds
alternate, so that a busy minute meets both.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path

from updates import ROOT, SHAPES, THREADS, at_each_step, in_own_process, install, make_models, tell

sys.path.insert(0, str(ROOT))
PAIRS = {"small": 16, "wide": 8, "smollm2": 8}
"""In a batch."""
LEARNING_RATE, BETA = 1e-5, 0.1
TRAININGS = ("reward", "dpo")
Pair = tuple[list[int], list[int], list[int]]
"""A prompt, the better answer and the worse one, as ids."""


def main() -> None:
    """Measure, or be the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="of a process")
    parser.add_argument("--one", nargs=4, metavar=("WHOSE", "WHAT", "SHAPE", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        whose, what, shape, folder = given.one
        {"ours": ours, "trl": theirs}[whose](what, shape, pairs_of(shape, given.steps), Path(folder))
        return
    install()
    found = []
    for name in given.shapes:
        tokens = sum(2 * len(prompt) + len(better) + len(worse)
                     for prompt, better, worse in pairs_of(name, given.steps)) / given.steps
        with tempfile.TemporaryDirectory() as folder:
            make_models(SHAPES[name], Path(folder))
            for what in TRAININGS:
                measured: dict[str, list[dict[str, list[float]]]] = {"ours": [], "trl": []}
                for _ in range(given.rounds):
                    for whose, kept in measured.items():
                        arguments = ["--one", whose, what, name, folder, "--steps", str(given.steps)]
                        kept.append(in_own_process(__file__, arguments, trl=whose == "trl"))
                found.append({"shape": name, "training": what} | summary(measured, tokens))
    print(table(found))
    print(json.dumps(found))


def pairs_of(name: str, steps: int) -> list[Pair]:
    """Return random pairs for so many steps."""
    import torch

    shape, generator = SHAPES[name], torch.Generator().manual_seed(0)

    def ids(length: int) -> list[int]:
        found: list[int] = torch.randint(5, shape.vocabulary, (length,), generator=generator).tolist()
        return found

    def answer() -> list[int]:
        return ids(int(torch.randint(shape.response // 4, shape.response + 1, (), generator=generator)))

    return [(ids(shape.prompt), answer(), answer()) for _ in range(steps * PAIRS[name])]


def ours(what: str, name: str, pairs: list[Pair], folder: Path) -> None:
    """Train with Plumbline; print the seconds of each step and the peak memory."""
    import torch

    from plumbline.alignment.direct.decided import decided
    from plumbline.alignment.direct.pairwise import Pairwise
    from plumbline.alignment.reward import RewardModel
    from plumbline.alignment.reward_training import accumulate_gradient
    from plumbline.alignment.tokenized import TokenizedPair, TokenizedPreference, endless_batches
    from plumbline.config import candidate_params, load_params
    from plumbline.lm.base import LanguageModel
    from plumbline.lm.optim import adamw
    from plumbline.lm.ranks.sharding import clip_grad_norm

    torch.set_num_threads(THREADS)
    params, shape, size = load_params(ROOT), SHAPES[name], PAIRS[name]
    same = {"precision": shape.precision, "micro_batch_size": size}
    elements = [TokenizedPreference(prompt, [better, worse], [TokenizedPair(0, 1, 1.0, 0.0)], [0, 1])
                for prompt, better, worse in pairs]
    before = 0.0
    if what == "reward":
        of_reward = params.reward_model.model_copy(update=same)
        reward = RewardModel.load(folder / "reward")
        model, examples = reward.model.eval(), elements
        accumulate = partial(accumulate_gradient, reward, params=of_reward)
    else:
        of_dpo = candidate_params(params, "dpo").model_copy(update={**same, "beta": BETA})
        model = LanguageModel.load(folder / "policy").model
        decided(elements[:size], model, of_dpo, torch.Generator())  # warms up
        started = time.perf_counter()
        examples = decided(elements, model, of_dpo, torch.Generator())
        before = (time.perf_counter() - started) / (len(elements) / size)
        accumulate = Pairwise(model, of_dpo).accumulate
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = adamw(weights, LEARNING_RATE)
    ends = [time.perf_counter()]
    # The first warms up, and is none of those that are counted: batches are of similar lengths, and so differ.
    for batch in chain([list(islice(examples, size))], islice(endless_batches(examples, size, 0), len(pairs) // size)):
        accumulate(batch)
        clip_grad_norm(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.perf_counter())
    tell([before + end - start for start, end in pairwise(ends[1:])])


def theirs(what: str, name: str, pairs: list[Pair], folder: Path) -> None:
    """Train with TRL's trainer; print the same."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    torch.set_num_threads(THREADS)
    shape, ends = SHAPES[name], list[float]()

    def note() -> None:
        ends.append(time.perf_counter())

    same = {
        "output_dir": str(folder / "trl"), "per_device_train_batch_size": PAIRS[name],
        "gradient_accumulation_steps": 1, "num_train_epochs": 1, "learning_rate": LEARNING_RATE, "report_to": "none",
        "save_strategy": "no", "use_cpu": not torch.cuda.is_available(), "bf16": shape.precision == "bf16",
        "fp16": False, "gradient_checkpointing": False, "max_length": shape.prompt + shape.response}
    tokenizer, steps = AutoTokenizer.from_pretrained(folder / "policy"), at_each_step(note, note)
    if what == "reward":
        model = AutoModelForSequenceClassification.from_pretrained(folder / "reward", num_labels=1, dtype=torch.float32)
        rows = {"chosen_ids": [prompt + better for prompt, better, _ in pairs],
                "rejected_ids": [prompt + worse for prompt, _, worse in pairs]}
        trainer = RewardTrainer(model=model, args=RewardConfig(**same), train_dataset=Dataset.from_dict(rows),
                                processing_class=tokenizer, callbacks=[steps])
    else:
        # It would tokenize texts; here are their ids.
        model, reference = (AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32)
                            for _ in range(2))
        rows = {"prompt_ids": [prompt for prompt, _, _ in pairs], "chosen_ids": [better for _, better, _ in pairs],
                "rejected_ids": [worse for _, _, worse in pairs]}
        DPOTrainer._prepare_dataset = lambda _self, dataset, *_: dataset
        trainer = DPOTrainer(model=model, ref_model=reference, args=DPOConfig(beta=BETA, **same),
                             train_dataset=Dataset.from_dict(rows), processing_class=tokenizer, callbacks=[steps])
    trainer.train()
    tell([end - start for start, end in pairwise(ends[1:])])


def summary(measured: dict[str, list[dict[str, list[float]]]], tokens: float) -> dict[str, float]:
    """Return tokens a second, over all steps of all rounds, and memory, and ours over TRL's."""
    rate = {whose: tokens / statistics.mean(value for one in rounds for value in one["seconds"])
            for whose, rounds in measured.items()}
    gib = {whose: max(value for one in rounds for value in one["gib"]) for whose, rounds in measured.items()}
    return {"tokens_ours": rate["ours"], "tokens_trl": rate["trl"], "faster": rate["ours"] / rate["trl"],
            "gib_ours": gib["ours"], "gib_trl": gib["trl"], "memory": gib["ours"] / gib["trl"]}


def table(found: list[dict[str, float]]) -> str:
    """Return a line for each training of a shape."""
    lines = ["| training | shape | tokens a second: Plumbline | TRL | times as fast | memory, of TRL's |",
             "|---" * 6 + "|"]
    lines += [f"| {one['training']} | {one['shape']} | {one['tokens_ours']:,.0f} | {one['tokens_trl']:,.0f} | "
              f"{one['faster']:.2f} | {one['memory']:.2f} |" for one in found]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
