"""The stages of `many_runs.py`: what each leaves has the form of the real one, made up in milliseconds.

Data stages are the real ones. A "model" is a text of one line that holds its quality, a number that follows from the
parameters, the data and the seed; examination, evaluation and samples come from the real code, given answers and scores
of that quality. There are no pictures: they would take most of the time.
"""

import hashlib
import json
import math
import random
from pathlib import Path

from plumbline.errors import UserError
from plumbline.evaluation import reward_report
from plumbline.evaluation.examination import ScoredComparison, examine
from plumbline.evaluation.gate import write_verdict
from plumbline.evaluation.judging.judges import NamedJudge, ScoreJudge
from plumbline.evaluation.matches import Contestant, evaluate
from plumbline.evaluation.samples import SAMPLES, write_samples
from plumbline.preferences.prepare import reader as prepared
from plumbline.preferences.types import comparisons_of
from plumbline.runs.stage_run import StageRun
from tasks import champion, ingest, promote, snapshot

WEIGHTS = "model.safetensors"
WORDS = ("answer", "because", "careful", "detail", "example", "first", "good", "however", "indeed", "kind")
CRASH_AT = 13
"""With so many updates PPO "diverges"."""


def rng(*parts: object) -> random.Random:
    return random.Random(hashlib.sha256(repr(parts).encode()).hexdigest())


def read_quality(folder: Path) -> float:
    return float((folder / WEIGHTS).read_text().split()[1])


def save_model(run: StageRun, quality: float, *made_from: object) -> None:
    folder = run.folder / "model"
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(repr(made_from).encode()).hexdigest()
    (folder / WEIGHTS).write_text(f"quality {quality:.4f} {name}\n")
    (folder / "config.json").write_text(json.dumps({"hidden_size": 128, "num_hidden_layers": 4}) + "\n")


def curve(run: StageRun, name: str, start: float, end: float, steps: int = 12, **more: float) -> None:
    noise = rng(name, start, end)
    for step in range(1, steps + 1):
        value = end + (start - end) * math.exp(-3 * step / steps) + noise.gauss(0, 0.02)
        run.report(step, steps, {name: value, **{other: at * step / steps for other, at in more.items()}})


def page(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(text)


def weights(run: StageRun, model: str) -> str:
    return (run.root / "models" / model / "model" / WEIGHTS).read_text()


def base(run: StageRun) -> None:
    curve(run, "loss", 6.5, 2.9)
    save_model(run, 0.0, run.params.base, run.params.seed)
    run.finish({"parameters": 1_200_000, "vocabulary": run.params.base.vocabulary, "context": run.params.base.context})


def sft(run: StageRun) -> None:
    examples = len(prepared.demonstrations(run.root / "data/prepared", "train"))
    loss = 2.2 - 0.3 * min(run.params.sft.epochs, 3) / 3 - 0.002 * examples
    curve(run, "loss", 2.9, loss)
    save_model(run, 0.1, weights(run, "base"), run.params.sft, examples)
    (run.folder / "samples.md").write_text("# Samples\n\n    A first answer.\n")
    run.finish({"validation_loss": loss, "validation_loss_before": 2.9, "examples": examples, "steps": 12})


def reward_model(run: StageRun) -> None:
    pairs = len(prepared.preferences(run.root / "data/prepared", "train"))
    chance = rng(run.params.reward_model, pairs, weights(run, "sft"))
    accuracy = min(0.62 + 0.05 * math.log10(pairs) + chance.uniform(-0.03, 0.05), 0.95)
    curve(run, "loss", 0.69, 0.45)
    save_model(run, accuracy, weights(run, "sft"), run.params.reward_model, pairs)
    run.finish({"pairs": pairs, "validation_accuracy": accuracy, "validation_loss": 0.46, "offset": 0.1, "steps": 12})


def reward_eval(run: StageRun) -> None:
    chosen, accuracy = run.params.reward_eval, read_quality(run.root / "models/reward/model")
    chance = rng(weights(run, "reward"))
    heldout = prepared.preferences(run.root / "data/prepared", "heldout")
    pairs = [pair for row in heldout for pair in comparisons_of(row)]
    scored = []
    for pair in pairs:
        right = abs(chance.gauss(0, 1)) * (1 if chance.random() < accuracy else -1)
        scored.append(ScoredComparison(pair, (-right, 0.0) if pair.label == "B" else (right, 0.0)))
    found = examine(scored, None)
    reasons = reward_report.gate(found, [], chosen)
    page(run.folder / "report", f"# Reward model on held-out preferences\n\nAccuracy {found.accuracy.value:.4f}.\n")
    write_verdict(run.folder / "gate.json", reasons)
    run.finish(found.metrics() | {"passed": not reasons})


def judge(run: StageRun) -> None:
    pairs = len(prepared.preferences(run.root / "data/prepared", "judge"))
    save_model(run, 0.7, weights(run, "sft"), run.params.reward_model, pairs)
    run.finish({"pairs": pairs})


def ppo(run: StageRun) -> None:
    chosen = run.params.ppo
    if chosen.updates == CRASH_AT:
        raise UserError("The policy's loss is not finite at update 9. Lower ppo.learning_rate, or raise ppo.kl_coef.")
    chance = rng(chosen, weights(run, "sft"), weights(run, "reward"))
    reward = read_quality(run.root / "models/reward/model")
    kl = min(0.25 / max(chosen.kl_coef, 0.01), 12.0)
    quality = 2.2 * (reward - 0.5) + 0.25 * math.log1p(kl) - 0.04 * kl + chance.gauss(0, 0.35)
    curve(run, "reward", 0.0, quality, kl=kl, length=60)
    save_model(run, quality, chosen, weights(run, "sft"), weights(run, "reward"))
    (run.folder / "samples.md").write_text("# Samples\n\n    A better answer.\n")
    run.finish({"reward": quality, "kl": kl, "kl_coef": chosen.kl_coef, "entropy": 2.4, "length": 60.0, "prompts": 24,
                "policy_loss": -0.01, "value_loss": 0.3, "clip_fraction": 0.02, "stopped": 0.9})


def preference_eval(run: StageRun) -> None:
    asked = prepared.prompts(run.root / "data/prepared", "heldout")[: run.params.preference_eval.prompts]
    worth: dict[str, float] = {}
    contestants = []
    for name in ("policy", "sft", "champion", "policy_greedy", "sft_greedy"):
        folder = run.root / "models" / name.removesuffix("_greedy") / "model"
        if not folder.exists():
            continue
        quality, chance = read_quality(folder), rng(name, (folder / WEIGHTS).read_text())
        rewards = [quality + chance.gauss(0, 0.5) for _ in asked]
        answers = [" ".join(chance.choices(WORDS, k=chance.randint(4, 16))) + f" {i}" for i in range(len(asked))]
        worth |= dict(zip(answers, rewards, strict=True))
        measured = {"reward": rewards}
        if not name.startswith("sft"):
            measured["kl"] = [chance.uniform(1, 5) for _ in asked]
        contestants.append(Contestant.of_one(name, answers, [chance.random() < 0.9 for _ in asked], measured))
    judge = ScoreJudge.of_texts(lambda texts: [worth[text] for _, text in texts])
    found = evaluate(asked, contestants, [NamedJudge("gold", judge)], ["made up"] * len(asked))
    page(run.folder / "report", "# The policy on held-out prompts\n\nA tie counts as half a win.\n")
    write_samples(run.folder / "report" / SAMPLES, found.samples())
    run.finish(found.metrics())


PROGRAMS = {
    "snapshot": snapshot.program, "ingest": ingest.program, "base": base, "sft": sft, "reward_model": reward_model,
    "reward_eval": reward_eval, "judge": judge, "ppo": ppo, "champion": champion.program,
    "preference_eval": preference_eval, "promote": promote.program,
}
