"""The learning alone, without Prefect, DVC and MLflow: the stages' programs one after another, for several seeds.

    python benchmarks/learning.py out --params params/smollm2.yaml --seeds 0 1 2
    python benchmarks/learning.py out --table                          # of what is there

For machines that have no more than torch and transformers, and for comparing settings. Each seed has its own split of
the prompts (`ingest.split_salt`), so that seeds share no held-out prompts but by chance. A stage that has finished in
`out/SEED` is not repeated. It says how long each stage took, and what its curves say went wrong.
"""

import argparse
import importlib
import json
import shutil
import time
from pathlib import Path

from plumbline.config import Params, check_params, load_params
from plumbline.evaluation.gate import write_verdict
from plumbline.preferences.batches.snapshot import Simulation, fix_snapshot
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home
from plumbline.runs.stage_program import run_unrecorded
from plumbline.tracking.curves import findings

ROOT = Path(__file__).parents[1]
STAGES = ("ingest", "base", "sft", "reward_model", "reward_eval", "judge", "ppo", "preference_eval")
SHOWN = ("judge", "win_rate_vs_sft", "win_rate_vs_sft_greedy", "win_rate_vs_best_of_8", "kl_policy")


def main() -> None:
    """Run the seeds, or print the table of those that have been run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--params", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1])
    parser.add_argument("--base", type=Path, help="a folder with the base model, made before: spares loading it anew")
    parser.add_argument("--table", action="store_true", help="print the table, and run nothing")
    given = parser.parse_args()
    if not given.table:
        for seed in given.seeds:
            settings = [f"seed={seed}", f"ingest.split_salt='{seed}'", *given.set]
            run(given.out / str(seed), load_params(ROOT, given.params, settings), given.until, given.base)
    print(table(given.out))


def run(root: Path, params: Params, until: str, base: Path | None) -> None:
    """Run the stages in the folder `root` up to the last one wanted."""
    root.mkdir(parents=True, exist_ok=True)
    root = root.resolve()
    shutil.copy(ROOT / "dvc.yaml", root)
    # JSON is YAML too; the stages read their parameters from this file.
    (root / "params.yaml").write_text(json.dumps(params.model_dump(mode="json")), encoding="utf-8")
    params = check_params(json.loads((root / "params.yaml").read_text()), "params.yaml")
    home, stages = Home(ROOT, root / "home"), read_stages(root)
    times_file = root / "seconds.json"
    seconds = json.loads(times_file.read_text()) if times_file.exists() else {}
    if not (root / "data/snapshot").exists():
        fix_snapshot(params.snapshot.sources, Simulation.of(params), home.preferences, root / "data/snapshot")
    (root / "models/champion").mkdir(parents=True, exist_ok=True)  # there is none
    if base and not (root / "models/base").exists():
        shutil.copytree(base, root / "models/base")
        seconds["base"] = 0.0
    for name in STAGES[: STAGES.index(until) + 1]:
        if name in seconds:
            continue
        started = time.monotonic()
        program = getattr(importlib.import_module(f"tasks.{name}"), name).program
        run_unrecorded(root, home, stages[name], params, program)
        seconds[name] = round(time.monotonic() - started, 1)
        if name == "reward_eval":
            pass_gate(root / "reports/reward/gate.json")
        times_file.write_text(json.dumps(seconds))
        print(f"{root.name}: {name} {seconds[name]} s", flush=True)
        for finding in findings(root).get(name, ()):
            print(f"{root.name}: {name}: {finding}", flush=True)


def pass_gate(file: Path) -> None:
    """Say why the reward model would be refused, if it would, and let PPO go on: this only measures."""
    if reasons := json.loads(file.read_text())["reasons"]:
        print(f"The reward model would be refused: {'; '.join(reasons)}", flush=True)
        write_verdict(file, [])


def table(out: Path) -> str:
    """Return a line of figures a seed."""
    lines = ["| seed | minutes | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 2) + "|"]
    for file in sorted(out.glob("*/reports/preference/metrics.json")):
        root = file.parents[2]
        found = json.loads(file.read_text())
        minutes = sum(json.loads((root / "seconds.json").read_text()).values()) / 60
        cells = [root.name, f"{minutes:.1f}", *(cell(found, name) for name in SHOWN)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(found: dict[str, object], name: str) -> str:
    """Return a figure, with its interval where there is one."""
    value = found.get(name)
    if not isinstance(value, float):
        return str(value)
    ends = [found.get(f"{name}_{end}") for end in ("low", "high")]
    return f"{value:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]" if None not in ends else f"{value:.2f}"


if __name__ == "__main__":
    main()
