"""A project whose stages take no time: the real flow, workspaces, DVC and MLflow around programs of a few lines.

A training stage waits after its first step while `holding` says so: a test interrupts it there, and opens the gate
when it has seen what it waited for. `ppo.updates` is the number of steps of the fake PPO, and `FAKE_STEP_SECONDS` how
long each step takes, for benchmarks that interrupt at random. The first line of each fake program's model is a digest
of what it was made from, so that a change shows.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plumbline.project.home import Home
from plumbline.project.run_record import find_run

CHECKOUT = Path(__file__).resolve().parents[1]
REAL_TASKS = ("__init__.py", "stage.py", "as_prefect_task.py", "champion.py", "promote.py")

HEADER = '''"""Stage `{name}` of a test."""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

from tasks.stage import Stage, StageRun


def program(run: StageRun) -> None:
{body}

{name} = Stage("{name}", program{options})

if __name__ == "__main__":
    {main}
'''

TRAINER = '''    folder = run.folder / "model"
    folder.mkdir(parents=True, exist_ok=True)
    (run.scratch() / "resume").write_text("half way")
    gate = Path(os.environ.get("FAKE_HOLD", "nowhere"), run.item or "{name}")
    for step in range(1, {steps} + 1):
        time.sleep(float(os.environ.get("FAKE_STEP_SECONDS", "0")))
        run.report(step, {steps}, {{"loss": 1.0 / step}}, "training")
        while gate.exists():
            time.sleep(0.05)
    made_from = [path.read_bytes() for path in sorted(run.root.glob("{source}")) if path.is_file()]
    text = hashlib.sha256(b"".join(made_from)).hexdigest() + repr({params}) + str(run.params.seed)
    (folder / "model.safetensors").write_text(text)
    if {samples}:
        (run.folder / "samples.md").write_text("# Samples")
    run.finish({{"validation_loss": 0.25, "kl": 1.5}})
'''

EVALUATION = '''    from plumbline.evaluation.samples import Sample, SampleAnswer, write_samples
    from plumbline.preferences.types import Message

    (run.folder / "report").mkdir(parents=True, exist_ok=True)
    (run.folder / "report" / "samples.md").write_text("# Side by side")
    answers = {name: SampleAnswer(f"{name} {run.item} says so.", True, {"reward": 1.0, "kl": 0.5})
               for name in ("policy", "sft")}
    write_samples(run.folder / "report" / "samples.jsonl", [
        Sample((Message("user", f"question {i}"),), answers, {"sft": 1.0}, {"sft": 0.75 + 0.05 * (i % 2)})
        for i in range(20)])
    rates = {"": 0.8, "_low": 0.7, "_high": 0.9, "_n": 400}
    FIGURES = {"judge": "gold", "characters_policy": 100.0, "characters_sft": 90.0, "kl_policy": 1.5, "prompts": 20}
'''


def trainer(name: str, steps: int | str, source: str, samples: bool = False, params: str = "") -> str:
    """The program of a stage that trains."""
    return TRAINER.format(name=name, steps=steps, source=source, samples=samples, params=params or f"run.params.{name}")


BODIES = {
    "snapshot": '''    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "manifest.json").write_text(repr(run.params.snapshot))
''',
    "ingest": '''    folder = run.root / "data/prepared"
    folder.mkdir(parents=True, exist_ok=True)
    text = (run.root / "data/snapshot/manifest.json").read_text()
    (folder / "preferences.jsonl").write_text(text + repr(run.params.ingest))
    (run.root / "reports/data").mkdir(parents=True, exist_ok=True)
    (run.root / "reports/data/report.md").write_text("# Data report")
    run.finish({"rows": 3})
''',
    "base": trainer("base", 2, "nothing"),
    "sft": trainer("sft", 2, "models/base/model/*", samples=True),
    "reward_model": trainer("reward_model", 2, "models/sft/model/*"),
    "reward_eval": '''    (run.folder / "report").mkdir(parents=True, exist_ok=True)
    (run.folder / "report" / "index.md").write_text("# Reward model")
    passed = run.params.reward_eval.min_accuracy <= 0.7
    reasons = [] if passed else ["accuracy 0.70 is too low"]
    (run.folder / "gate.json").write_text(json.dumps({"passed": passed, "reasons": reasons}))
    run.finish({"accuracy": 0.7, "accuracy_low": 0.6, "accuracy_high": 0.8, "n": 100})
''',
    "judge": '''    (run.folder / "model").mkdir(parents=True, exist_ok=True)
    (run.folder / "model" / "NONE").write_text("There is no second reward model.")
    run.finish({"pairs": 0})
''',
    "ppo": trainer("ppo", "run.params.ppo.updates", "models/[rs]*/model/*", samples=True),
    "candidate": trainer("candidate", "run.params.ppo.updates", "models/[rs]*/model/*", samples=True,
                         params="run.params.candidates[run.item]"),
    "preference_eval": EVALUATION + '''
    champion = json.loads((run.root / "models/champion/champion.json").read_text())["version"]
    others = ["sft"] if champion is None else ["sft", "champion"]
    found = {f"win_rate_vs_{other}{part}": rate for other in others for part, rate in rates.items()}
    found |= {f"win_rate_vs_sft_greedy{part}": rate for part, rate in rates.items()}
    run.finish(found | FIGURES)
''',
    "candidate_eval": EVALUATION + '''
    run.finish({f"win_rate_vs_sft{part}": rate for part, rate in rates.items()} | FIGURES)
''',
}
SHARED: dict[str, str] = {}
"""Variables that a fixture adds for a while: the address of a Prefect server that the tests of a folder share."""
OPTIONS = {"snapshot": ", resolver=True, kept_by_retry=True", "ppo": ", retries=1"}


def make_project(root: Path) -> Path:
    """A project in `root`, which must not exist yet."""
    shutil.copytree(CHECKOUT / "plumbline", root / "plumbline", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CHECKOUT / "flows", root / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CHECKOUT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    for file in ("dvc.yaml", ".dvcignore", "params.yaml"):
        shutil.copy(CHECKOUT / file, root / file)
    (root / "tasks").mkdir()
    for file in REAL_TASKS:
        shutil.copy(CHECKOUT / "tasks" / file, root / "tasks" / file)
    for name, body in BODIES.items():
        many = f"{name}.of(sys.argv[1]).main()" if name.startswith("candidate") else f"{name}.main()"
        text = HEADER.format(name=name, body=body, options=OPTIONS.get(name, ""), main=many)
        (root / "tasks" / f"{name}.py").write_text(text)
    (root / ".gitignore").write_text((CHECKOUT / ".gitignore").read_text())
    for command in (["git", "init", "-q"], ["git", "add", "-A"],
                    ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "start"]):
        subprocess.run(command, cwd=root, check=True)
    return root


def gates(root: Path) -> Path:
    """The folder that names the stages of a project that wait."""
    return root.with_name(f"{root.name}-gates")


@contextmanager
def holding(root: Path, stage: str) -> Iterator[None]:
    """Let a training stage of a project wait after its first step until the end of the block."""
    gates(root).mkdir(exist_ok=True)
    gate = gates(root) / stage
    gate.touch()
    try:
        yield
    finally:
        gate.unlink()


def environment(root: Path | None = None, **more: str) -> dict[str, str]:
    """The environment of a user who has set nothing of Plumbline's or its tools', working on a fake project."""
    ours = ("PLUMBLINE_", "PREFECT_", "MLFLOW_", "DVC_", "FAKE_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours) and name != "PYTHONPATH"}
    path = os.pathsep.join([str(Path(sys.executable).parent), clean.get("PATH", "")])
    fake = {"FAKE_HOLD": str(gates(root))} if root else {}
    return {**clean, "PATH": path, **SHARED, **fake, **more}


def plumbline(root: Path, *arguments: str, timeout: float = 300, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line in a project."""
    return subprocess.run([sys.executable, "-m", "plumbline", *arguments], cwd=root, env=environment(root, **more),
                          capture_output=True, text=True, timeout=timeout)


def newest(root: Path) -> Path:
    """Return the workspace of the project's newest run."""
    return find_run(Home(root, root / ".plumbline"), "latest")
