"""Kill each training at random moments until it ends, and compare with one that nothing disturbed: `make chaos`.

    python benchmarks/kills.py
    python benchmarks/kills.py --only sft ppo dpo --kills 5 --seed 7

Small models learn from sixty rows, through the real programs (`python -m tasks.sft`), started as a flow starts them.
The methods beside PPO are those whose trainings keep something that others do not: `CANDIDATES` says what.
One kill -9 in five comes while the program starts or resumes, the others after its first report: in a step, in a
checkpoint, at the end. Then it is started again, its outputs cleared, as a flow does. A training that ends must have
left the bytes of the undisturbed one (weights, metrics, curves, samples), and another one begins, until all kills are
spent.
"""

import argparse
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]

import architectures  # noqa: E402

from plumbline.config import METHODS, load_params  # noqa: E402
from plumbline.progress import PROGRESS_FILE  # noqa: E402
from plumbline.project.digests import digest  # noqa: E402
from plumbline.project.dvc_yaml import StageSpec, read_stages  # noqa: E402
from plumbline.project.home import HOME, Home  # noqa: E402
from plumbline.runs.stage_program import GIVEN  # noqa: E402
from plumbline.runs.stage_run import drop_scratch  # noqa: E402

STAGES = ("base", "sft", "reward_model", "reward_eval", "judge", "ppo")
TRAINED = tuple(name for name in STAGES if name != "reward_eval")
CANDIDATES = {
    "grpo": "a policy without a critic, and groups of answers",
    "nlpo": "the older policy that masks tokens",
    "trpo": "a policy without an optimizer",
    "ppo-top": "upper layers on a frozen trunk",
    "ppo-lora": "adapters",
    "dpo": "the reference's log-probabilities",
    "ilql": "two critics and their slow copies",
    "rejection": "answers that are sampled before",
}
SETTINGS = (
    *architectures.SETTINGS, "base.hidden_size=64", "base.layers=2", "base.heads=2", "base.vocabulary=400",
    "base.context=256", "base.tokens=60000", "base.batch_size=4", "base.checkpoint_every=5", "sft.epochs=15",
    "sft.checkpoint_every=5", "reward_model.epochs=15", "reward_model.checkpoint_every=5", "ppo.updates=12",
    "ppo.value_warmup=2", "ppo.evaluate_every=3", "ppo.validation_prompts=4", "ppo.checkpoint_every=2",
    "candidates.grpo.answers_per_prompt=3", "candidates.ppo-top.top_layers=1", "candidates.nlpo.mask_every=2",
    "direct.epochs=10", "direct.batch_size=8", "direct.max_length=192", "direct.checkpoint_every=5",
    "candidates.ilql={method: ilql, expectile: 0.7, gamma: 0.99, conservatism: 0.1, likelihood_weight: 1.0, "
    "target_rate: 0.1, steering: 1.0}",
    "candidates.rejection.epochs=10", "candidates.rejection.max_response=32", "candidates.rejection.prompts=24")


@dataclass
class Training:
    """A stage's program in a project, which is started again and again."""

    root: Path
    name: str
    """As dvc.yaml names it."""

    def clear(self) -> None:
        """Delete the outputs, as a flow does before each start."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.progress.write_text("")

    def start(self) -> subprocess.Popen[bytes]:
        given = self.root / "given.json"
        given.write_text(json.dumps({"inputs": {}, "code": "", "pipeline_run": "kills"}))
        environment = {name: value for name, value in os.environ.items() if name != HOME}
        environment["OMP_NUM_THREADS"] = "1"  # a second thread only costs on models of this size
        with (self.root / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *shlex.split(self.stage.command)[1:]], cwd=self.root, stdout=log, stderr=log,
                env={**environment, "PYTHONPATH": str(ROOT), GIVEN: str(given), PROGRESS_FILE: str(self.progress)})

    @property
    def stage(self) -> StageSpec:
        return read_stages(self.root, json.loads((self.root / "params.yaml").read_text()))[self.name]

    @property
    def folder(self) -> Path:
        return self.root / self.stage.folder

    @property
    def progress(self) -> Path:
        return self.root / f"{self.name}.progress.jsonl"

    def reported(self) -> int:
        """The first step that this process has reported, 0 if none yet."""
        lines = self.progress.read_text().splitlines(keepends=True)
        steps = (json.loads(line).get("step", 0) for line in lines if line.endswith("\n"))
        return next((int(step) for step in steps if step), 0)

    def undisturbed(self) -> tuple[str, float, float]:
        """Run to the end; return the digest of what it left, and the seconds before and after the first report."""
        self.clear()
        started, process = time.monotonic(), self.start()
        while not self.reported() and process.poll() is None:
            time.sleep(0.02)
        first = time.monotonic()
        if process.wait():
            raise SystemExit((self.root / f"{self.name}.log").read_text()[-3000:])
        self.keep()
        return digest(self.folder), first - started, time.monotonic() - first

    def killed(self, after: float, from_report: bool) -> bool:
        """Start, and kill after so many seconds, perhaps only from the first report on; False if it ended before."""
        self.clear()
        process, since = self.start(), time.monotonic()
        while process.poll() is None:
            if from_report and not self.reported():
                since = time.monotonic()
            if time.monotonic() - since >= after:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.005)
        if process.returncode:
            raise SystemExit((self.root / f"{self.name}.log").read_text()[-3000:])
        self.keep()
        return False

    def keep(self) -> None:
        """Delete the checkpoints, as a flow does when what the stage left is in the cache."""
        for line in self.progress.read_text().splitlines():
            if scratch := json.loads(line).get("scratch"):
                drop_scratch(Path(scratch))


def torture(training: Training, kills: int, chance: random.Random) -> str:
    """Kill a training so often; return what came out, as a line. Raises AssertionError for a difference."""
    began = time.monotonic()
    expected, starting, learning = training.undisturbed()
    ended = resumed = done = 0
    while done < kills:
        from_report = chance.random() < 0.8
        if training.killed(chance.uniform(0, learning / 3 if from_report else starting), from_report):
            done += 1
        else:
            ended += 1
            assert digest(training.folder) == expected, f"{training.folder} is not what an undisturbed training makes"
        resumed += training.reported() > 1
    assert training.undisturbed()[0] == expected, f"{training.folder} is not what an undisturbed training makes"
    resumed += training.reported() > 1
    left = list(Home(training.root, training.root / ".plumbline").scratch.glob(f"{training.name}-*"))
    assert not left, f"{left} was left behind"
    return (f"{training.name:<19} {done} kills; {resumed} starts went on from a checkpoint; {ended + 1} trainings "
            f"ended, all as the undisturbed one ({learning:.1f} s of learning; {time.monotonic() - began:.0f} s)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each training")
    every = (*TRAINED, *CANDIDATES)
    parser.add_argument("--only", nargs="+", choices=every, default=every)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    chance = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory(prefix="plumbline-kills-") as folder:
        root = Path(folder)
        architectures.prepare(root)
        shutil.copy(ROOT / "dvc.yaml", root)
        params = load_params(ROOT, None, SETTINGS)
        compared = {name: METHODS[params.candidates[name]["method"]][0] for name in CANDIDATES}
        # JSON is YAML, too.
        (root / "params.yaml").write_text(json.dumps(params.model_dump(mode="json") | {"compare": compared}))
        for name in STAGES:
            if name in chosen.only:
                print(torture(Training(root, name), chosen.kills, chance), flush=True)
            else:
                Training(root, name).undisturbed()
        for name in CANDIDATES:
            if name in chosen.only:
                print(torture(Training(root, f"candidate@{name}"), chosen.kills, chance), flush=True)


if __name__ == "__main__":
    main()
