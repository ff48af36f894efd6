"""Does every architecture either go through the whole pipeline or stop in words before anything is trained?

    python benchmarks/architectures.py [FOLDER] [--only NAME ...]

FOLDER holds models, a folder each; without it, small random ones are made (small_architectures.py). Each goes through
the pre-flight check and then, in this process, through base, SFT, reward model, examination, PPO and evaluation, on a
few dozen rows with system messages and several turns. Prints a table. Exit status 1 if anything ended in a traceback,
or was refused later than by the pre-flight check.
"""

import argparse
import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from small_architectures import make_all  # noqa: E402

from plumbline.config import Params, load_params  # noqa: E402
from plumbline.errors import UserError  # noqa: E402
from plumbline.project.dvc_yaml import read_stages  # noqa: E402
from plumbline.project.home import Home  # noqa: E402
from plumbline.runs.preflight import preflight  # noqa: E402
from plumbline.runs.stage_run import StageRun  # noqa: E402

DATA_STAGES = ("snapshot", "ingest")
STAGES = ("base", "sft", "reward_model", "reward_eval", "judge", "ppo", "preference_eval")
ROWS = 60
SETTINGS = (
    "snapshot.sources=[rows.jsonl]", "ingest.near_duplicate=null",
    "sft.epochs=1", "sft.batch_size=8", "sft.micro_batch_size=4", "sft.max_length=192", "sft.learning_rate=1e-3",
    "reward_model.batch_size=8", "reward_model.micro_batch_size=8", "reward_model.max_length=192",
    "reward_model.centering_samples=256", "reward_eval.min_accuracy=0",
    "reward_eval.min_similar_length_accuracy=null", "reward_eval.beats_length=false",
    "reward_eval.min_kind_accuracy=null", "reward_eval.max_probe_wins=null",
    "ppo.updates=2", "ppo.batch_size=6", "ppo.minibatches=1", "ppo.micro_batch_size=3", "ppo.max_prompt=160",
    "ppo.max_response=32", "ppo.checkpoint_every=1", "preference_eval.judges=[reward]", "preference_eval.prompts=6",
    "preference_eval.bon_pool=0", "preference_eval.comparisons=6", "preference_eval.max_response=32",
)


@dataclass(frozen=True)
class Verdict:
    """What became of a model."""

    name: str
    outcome: str
    """`passed`, `refused`, `LATE` (refused by a stage), `TRACEBACK`."""
    words: str
    seconds: float

    @property
    def good(self) -> bool:
        return self.outcome in ("passed", "refused")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--only", nargs="+")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        models = given.folder.resolve() if given.folder else root / "made"
        if not given.folder:
            make_all(models, print)
        prepare(root)
        names = given.only or sorted(folder.name for folder in models.iterdir() if folder.is_dir())
        found = [show(judge(root, models / name)) for name in names]
    passed = sum(one.outcome == "passed" for one in found)
    print(f"{len(found)} models: {passed} passed, {sum(one.outcome == 'refused' for one in found)} refused, "
          f"{sum(not one.good for one in found)} neither")
    return 0 if all(one.good for one in found) else 1


def prepare(root: Path) -> None:
    """Rows in the project `root`, and what ingest makes of them, the same for every model."""
    (root / ".plumbline").mkdir()
    chance = random.Random(0)
    with (root / "rows.jsonl").open("w", encoding="utf-8") as out:
        for i in range(ROWS):
            turns = [{"role": "user", "content": f"Where do the {chance.choice(('dogs', 'ships'))} wait, number {i}?"}]
            if i % 3 == 0:
                turns = [*turns, {"role": "assistant", "content": "Here."}, {"role": "user", "content": f"All {i}?"}]
            if i % 4 == 0:
                turns = [{"role": "system", "content": "Answer briefly."}, *turns]
            good, bad = "They wait at sea.", f"Clouds sleep {'here ' * chance.randint(1, 9)}"
            for row in ({"kind": "demonstration", "prompt": turns, "response": good},
                        {"kind": "comparison", "prompt": turns, "responses": [good, bad], "label": "A"}):
                out.write(json.dumps(row) + "\n")
    for stage in DATA_STAGES:
        run_stage(root, stage, load_params(ROOT, None, SETTINGS))


def judge(root: Path, model: Path) -> Verdict:
    """Send one model through everything."""
    started = time.monotonic()
    params = load_params(ROOT, None, [*SETTINGS, f"base.source={model}"])
    where = "pre-flight"
    try:
        preflight(Home(root, root / ".plumbline"), params)
        for where in STAGES:
            run_stage(root, where, params)
        outcome, words = "passed", json.loads((root / "models/base/metrics.json").read_text()).get("notes", "")
    except UserError as error:
        outcome, words = ("refused" if where == "pre-flight" else "LATE"), f"{where}: {error}"
    except Exception as error:
        traceback.print_exc()
        outcome, words = "TRACEBACK", f"{where}: {type(error).__name__}: {error}"
    for folder in (root / "models", root / "reports", Home(root, root / ".plumbline").scratch):
        shutil.rmtree(folder, ignore_errors=True)
    return Verdict(model.name, outcome, " ".join(words.split()), time.monotonic() - started)


def run_stage(root: Path, name: str, params: Params) -> None:
    stage = read_stages(ROOT)[name]
    run = StageRun(root, Home(root, root / ".plumbline"), stage, params, {}, "", None)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        import_module(f"tasks.{name}").program(run)


def show(one: Verdict) -> Verdict:
    print(f"{one.name:24} {one.outcome:10} {one.seconds:6.1f} s  {one.words[:160]}", flush=True)
    return one


if __name__ == "__main__":
    sys.exit(main())
