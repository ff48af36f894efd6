"""Make a project with many pipeline runs, for looking at the pages and measuring them.

    python benchmarks/many_runs.py /tmp/many 1000      # about as many seconds

Workspaces, receipts, MLflow, the registry, batches and snapshots are recorded by the real code. Left out are Prefect,
the training (see small_stages.py), and DVC, whose YAML would take most of the time: small_dvc.py decides in its place,
and leaves the same dvc.lock and cache. The runs vary: other parameters, nothing new, new preferences, changed code,
gates that say no, crashes, cancelled ones, promotions, rollbacks. The same seed plans the same runs. Called again on
the same folder it adds to what is there. `dvc repro` does nothing useful in such a project.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ruamel.yaml import YAML

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(Path(__file__).parent)]

from small_dvc import SmallDvc  # noqa: E402
from small_stages import CRASH_AT, PROGRAMS  # noqa: E402

from plumbline.data.changes import add  # noqa: E402
from plumbline.errors import UserError  # noqa: E402
from plumbline.preferences.reading.formats import Reading  # noqa: E402
from plumbline.progress import PROGRESS_FILE  # noqa: E402
from plumbline.project.dvc_yaml import StageSpec, is_code  # noqa: E402
from plumbline.project.home import find_home  # noqa: E402
from plumbline.project.run_record import Outcome  # noqa: E402
from plumbline.runs.pipeline import check_gate, pipeline_run  # noqa: E402
from plumbline.runs.stage_program import host_facts, run_stage  # noqa: E402
from plumbline.runs.stage_record import StageRecord  # noqa: E402
from plumbline.runs.stage_run import StageRun  # noqa: E402
from plumbline.runs.workspace import Request, Workspace  # noqa: E402
from plumbline.tracking.registry import Registry  # noqa: E402

NOUNS = ("kettle", "garden", "letter", "bridge", "window", "recipe", "journey", "violin", "harbor", "lantern", "market",
         "puzzle", "ladder", "compass", "meadow", "ticket")
VERBS = ("repair", "describe", "compare", "plan", "explain", "sell", "clean", "draw", "choose", "improve")
ROLLBACK_EVERY, BATCH_EVERY, CODE_EVERY = 40, 18, 30


def make_project(root: Path) -> None:
    """A checkout with the real parameters, and a dvc.yaml whose stages depend on their task's file alone."""
    (root / "tasks").mkdir(parents=True)
    stages = YAML(typ="safe").load((CHECKOUT / "dvc.yaml").read_text())
    for name, declared in stages["stages"].items():
        stage = declared.get("do", declared)
        stage["deps"] = [path for path in stage["deps"] if not is_code(path)] + [f"tasks/{name}.py"]
        (root / "tasks" / f"{name}.py").write_text(f'"""Stage `{name}` of benchmarks/many_runs.py."""\n')
    with (root / "dvc.yaml").open("w") as out:
        YAML().dump(stages, out)
    shutil.copytree(CHECKOUT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    for file in (".dvcignore", ".gitignore", "params.yaml"):
        shutil.copy(CHECKOUT / file, root / file)
    git(root, "init", "-q")
    commit(root, "start")


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=bench", "-c", "user.email=bench@example.org", *arguments], cwd=root,
                   check=True)


def commit(root: Path, message: str) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-qm", message)


def add_batch(home, number: int) -> None:
    """New preferences arrive: two to five dozen comparisons by a few annotators."""
    dice = random.Random(number)
    file = home.root / "incoming" / f"week-{number:03}.jsonl"
    file.parent.mkdir(exist_ok=True)
    with file.open("w", encoding="utf-8") as out:
        for row in range(dice.randint(24, 60)):
            prompt = f"{dice.choice(VERBS).title()} the {dice.choice(NOUNS)} and the {dice.choice(NOUNS)}, case {row}."
            answers = [" ".join(dice.choices(NOUNS, k=dice.randint(3, 12))) for _ in range(2)]
            out.write(json.dumps({"prompt": prompt, "chosen": answers[0], "rejected": answers[1],
                                  "annotator": dice.choice(("ada", "finn", "mia", "noor")),
                                  "source": f"feedback {number % 3}"}) + "\n")
    add(home, str(file.relative_to(home.root)), Reading())


CHOICES = {
    "ppo.kl_coef": ("0.02", "0.05", "0.08", "0.1", "0.2"), "ppo.learning_rate": ("1e-4", "3e-4", "5e-4"),
    "ppo.clip": ("0.1", "0.2", "0.3"), "ppo.epochs": ("1", "2", "4"), "ppo.batch_size": ("32", "64", "128"),
    "sft.epochs": ("1", "1.5", "2"), "sft.learning_rate": ("1e-3", "3e-3"),
    "reward_model.epochs": ("1", "2"), "reward_model.learning_rate": ("5e-4", "1e-3", "2e-3"),
    "preference_eval.temperature": ("0.7", "1.0"), "base.layers": ("4", "6"),
}
WEIGHTS = (8, 6, 6, 5, 5, 3, 2, 3, 3, 1, 0.2)


class Plan:
    """What each run is asked for: mostly one parameter other than the last time, often one tried before."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.settings: dict[str, str] = {}

    def next(self) -> Request:
        """The next run."""
        what = self.dice.random()
        extra: dict[str, str] = {}
        until = None
        if what < 0.06:
            extra["reward_eval.min_accuracy"] = "0.97"
        elif what < 0.09:
            extra["ppo.updates"] = str(CRASH_AT)
        elif what < 0.11:
            extra["ingest.min_heldout_preferences"] = "1000000"
        elif what < 0.14:
            until = "reward_eval"
        elif what < 0.86:
            (key,) = self.dice.choices(list(CHOICES), WEIGHTS)
            self.settings[key] = self.dice.choice([one for one in CHOICES[key] if one != self.settings.get(key)])
        fixed = {"snapshot.simulated_demonstrations": "60", "snapshot.simulated_comparisons": "120",
                 "snapshot.simulated_rankings": "8", "reward_eval.min_accuracy": "0.5",
                 "reward_eval.min_similar_length_accuracy": "null", "reward_eval.min_kind_accuracy": "null",
                 "preference_eval.judges": "[reward]", "preference_eval.prompts": "40"}
        settings = [f"{key}={value}" for key, value in {**fixed, **self.settings, **extra}.items()]
        trigger = self.dice.choice(("command line", "command line", "schedule", "new preferences"))
        return Request(settings=settings, until=until, trigger=trigger)


def one_run(request: Request, cancelled_before: str | None = None) -> None:
    """One pass through the pipeline, as flows/retrain.py has it. What ends a run stays in its record."""
    try:
        with pipeline_run(request) as run:
            for name in PROGRAMS:
                if name == "ppo":
                    check_gate(run)
                if name == cancelled_before:
                    raise KeyboardInterrupt
                if not run.complete:
                    do_stage(run, name)
    except (UserError, KeyboardInterrupt):
        pass


def do_stage(run: Workspace, name: str) -> None:
    """As tasks/as_prefect_task.py does it, without Prefect and without a child process."""
    started, log = time.monotonic(), run.folder / "logs" / f"{name}.log"
    os.environ[PROGRESS_FILE] = str(log.with_suffix(".progress.jsonl"))
    stage, record = run.stages[name], None
    try:
        done = SmallDvc(run, stage)
        if not done.restore():
            log.write_text(f"Running stage '{name}':\n> python -m tasks.{name}\n", encoding="utf-8")
            if stage.receipt is None:
                run_stage(run.folder, name, PROGRAMS[name])
            else:
                record = StageRecord(run.home, run.folder, run.stages, name, run.params)
                record_stage(run, stage, record)
            done.commit()
    except BaseException as error:
        run.done(name, Outcome(status="failed", seconds=round(time.monotonic() - started, 2), reason=str(error),
                               mlflow_run=record.recording.run_id if record else None))
        raise
    finally:
        os.environ.pop(PROGRESS_FILE)
    run.done(name, done.outcome(time.monotonic() - started))


def record_stage(run: Workspace, stage: StageSpec, record: StageRecord) -> None:
    """Run a stage's program, and record it."""
    try:
        PROGRAMS[stage.name](StageRun(run.folder, run.home, stage, run.params, record.inputs, record.code,
                                      record.recording, record.pipeline_run))
        record.complete(host_facts())
    except BaseException:
        record.recording.end("FAILED")
        raise


def change_code(root: Path, number: int) -> None:
    with (root / "tasks" / "ppo.py").open("a") as out:
        out.write(f"# change {number}\n")
    commit(root, f"change {number}")


def roll_back(home) -> None:
    registry = Registry.open(home, "policy")
    before = registry.aliased("previous")
    if before:
        registry.make_champion(before.version, "answers were too long", "bench")


def main(root: Path, runs: int) -> None:
    if not (root / "dvc.yaml").exists():
        make_project(root)
    os.chdir(root)
    home = find_home(root)
    done = len(list(home.runs.glob("*/run.json")))
    plan, clock = Plan(0), time.monotonic()
    for number in range(done + runs):
        request = plan.next()
        if number < done:
            continue
        if number % BATCH_EVERY == 0:
            add_batch(home, number)
        if number % CODE_EVERY == CODE_EVERY - 1:
            change_code(root, number)
        one_run(request, cancelled_before="ppo" if number % 50 == 27 else None)
        if number % ROLLBACK_EVERY == ROLLBACK_EVERY - 1:
            roll_back(home)
        if number % 10 == 9:
            each = (time.monotonic() - clock) / (number + 1 - done)
            print(f"{number + 1} runs, {each:.2f} s each", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]))
