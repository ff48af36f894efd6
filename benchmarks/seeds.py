"""Does it learn? The embedded default over several seeds, each from nothing: own data, splits, base model, cache.

    python benchmarks/seeds.py 0 1 2 [--set ppo.kl_coef=0.1]

Prints a table for docs/results.md and draws docs/learning.png: win rates with their intervals, reward and KL over PPO.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from plumbline.statistics import over_seeds

ROOT = Path(__file__).parents[1]
HEAD = ("seed", "minutes", "win rate vs SFT (gold)", "greedy against greedy", "KL, nats", "gold SFT", "gold policy",
        "reward-model accuracy", "ceiling", "longer wins", "promoted")


def main() -> None:
    """Run the seeds one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="+", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    found = {}
    for seed in given.seeds:
        found[seed] = run(seed, given.set)
        print(row(seed, *found[seed]), flush=True)
    print("\n" + "\n".join(["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|",
                            *(row(seed, *one) for seed, one in found.items())]))
    for name in ("win_rate_vs_sft", "win_rate_vs_sft_greedy"):
        rates = [read(folder / "reports/preference/metrics.json")[name] for folder, _ in found.values()]
        if len(rates) > 1:
            print(f"{name} over training seeds, mean with Student's 95 % interval: {over_seeds(rates)}")
    draw({seed: folder for seed, (folder, _) in found.items()}, ROOT / "docs/learning.png")


def run(seed: int, settings: list[str]) -> tuple[Path, float]:
    """One run of the real command. Returns its workspace and the seconds it took."""
    home = ROOT / ".plumbline/seeds" / f"{seed}-{int(time.time())}"
    started = time.monotonic()
    command = [sys.executable, "-m", "plumbline", "run", "--json", "--set", f"seed={seed}",
               "--set", f"ingest.split_salt=seed-{seed}"]  # other prompts are held out
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PLUMBLINE_HOME": str(home)}, text=True,
                          stdout=subprocess.PIPE, check=True)
    return ROOT / "runs" / json.loads(done.stdout)["id"], time.monotonic() - started


def row(seed: int, folder: Path, seconds: float) -> str:
    """A line of the table."""
    reward, preference = (read(folder / f"reports/{name}/metrics.json") for name in ("reward", "preference"))
    decision = read(folder / "reports/promote/decision.json")
    kl = read(folder / "models/policy/metrics.json")["kl"]
    cells = [str(seed), f"{seconds / 60:.1f}", interval(preference, "win_rate_vs_sft"),
             interval(preference, "win_rate_vs_sft_greedy"), f"{kl:.2f}",
             f"{preference['gold_sft']:.2f}", f"{preference['gold_policy']:.2f}", interval(reward, "accuracy"),
             f"{reward['ceiling_accuracy']:.3f}", f"{reward['longer_baseline_accuracy']:.3f}",
             "yes" if decision["promoted"] else "no"]
    return "| " + " | ".join(cells) + " |"


def interval(metrics: dict[str, float], name: str) -> str:
    """`0.81 [0.76, 0.86]`."""
    return f"{metrics[name]:.3f} [{metrics[name + '_low']:.3f}, {metrics[name + '_high']:.3f}]"


def draw(folders: dict[int, Path], file: Path) -> None:
    """Win rates beside the course of PPO."""
    figure, (wins, reward, kl) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for place, (seed, folder) in enumerate(folders.items()):
        metrics = read(folder / "reports/preference/metrics.json")
        for name, marker, above in (("win_rate_vs_sft", "o", 0.12), ("win_rate_vs_sft_greedy", "D", -0.12)):
            rate, low, high = (metrics[f"{name}{end}"] for end in ("", "_low", "_high"))
            wins.errorbar(rate, place + above, xerr=[[rate - low], [high - rate]], fmt=marker, capsize=4,
                          color=f"C{place}")
        points = map(json.loads, (folder / "models/policy/curves.jsonl").read_text().splitlines())
        curve = [point for point in points if not point["what"]]  # without the value model's warm-up
        for panel, name in ((reward, "reward"), (kl, "kl")):
            panel.plot([point["step"] for point in curve], [point[name] for point in curve], color=f"C{place}",
                       label=f"seed {seed}")
    wins.axvline(0.5, color="grey", linestyle="--", linewidth=0.8)
    wins.set(xlim=(0, 1), yticks=range(len(folders)), title="PPO against SFT, held-out prompts",
             xlabel="win rate by the gold reward, 95 % interval\n● sampled against sampled   ◆ greedy against greedy")
    wins.set_yticklabels([f"seed {seed}" for seed in folders])
    reward.set(title="Reward-model score", xlabel="PPO update")
    kl.set(title="KL to SFT, nats a response", xlabel="PPO update")
    reward.legend(frameon=False, fontsize=8)
    for panel in (wins, reward, kl):
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def read(file: Path) -> dict[str, float]:
    """A file of metrics."""
    values: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    return values


if __name__ == "__main__":
    main()
