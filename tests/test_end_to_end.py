"""The real pipeline, every stage of it, on a model of two layers, through the real command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testing.databases import Databases

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).parents[1]
CODE = ("plumbline", "tasks", "flows", "dvc.yaml", "params.yaml", ".dvcignore", ".dvc/config")
SMALL = {
    "snapshot.simulated_demonstrations": 150, "snapshot.simulated_comparisons": 150, "snapshot.simulated_rankings": 10,
    "base.hidden_size": 32, "base.layers": 2, "base.heads": 2, "base.tokens": 20000, "sft.epochs": 4,
    "sft.learning_rate": 1.0e-2,  # enough to end answers: rewards are centred on finished ones
    "reward_model.epochs": 0.5, "reward_model.centering_samples": 32, "reward_eval.min_accuracy": 0.0,
    "reward_eval.min_similar_length_accuracy": "null", "reward_eval.beats_length": "false",
    "reward_eval.min_kind_accuracy": "null", "reward_eval.max_probe_wins": "null",
    "reward_eval.probe_prompts": 4, "ppo.max_response": 48, "ppo.updates": 2,
    "ppo.batch_size": 8, "ppo.micro_batch_size": 4,
    "preference_eval.prompts": 8, "preference_eval.answers_per_prompt": 2, "preference_eval.best_of": 2,
    "preference_eval.bon_pool": 4, "preference_eval.bon_prompts": 4,
    "preference_eval.comparisons": 10,
    "promote.min_win_rate": 0.0,
}
STAGES = ["snapshot", "ingest", "base", "sft", "reward_model", "reward_eval", "judge", "ppo", "champion",
          "preference_eval", "promote"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the checkout in a folder of its own."""
    folder = tmp_path_factory.mktemp("project")
    for name in CODE:
        source, target = CHECKOUT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


def python(project: Path, home: str, *arguments: str, cwd: Path | None = None) -> str:
    """Run a module in `project`, with a home of its own; what it prints."""
    # The stages' commands say `python`: it must be this one.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PLUMBLINE_HOME": str(project / home), "PYTHONPATH": str(cwd or project), "PATH": path}
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=cwd or project, env=environment, capture_output=True,
                          text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run(project: Path, home: str, *more: str, command: str = "run") -> dict[str, object]:
    """`plumbline run --json` in `project`, with a home of its own."""
    options = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    found: dict[str, object] = json.loads(python(project, home, "plumbline", command, "--json", *options, *more))
    return found


def test_from_nothing_to_a_champion_and_the_same_again(project: Path) -> None:
    first = run(project, "one")
    assert list(first["stages"]) == STAGES
    assert {stage["status"] for stage in first["stages"].values()} == {"ran"}
    folder = project / "runs" / first["id"]
    assert json.loads((folder / "reports/promote/decision.json").read_text())["version"] is not None
    for left in ("models/policy/model/model.safetensors", "models/policy/samples.md", "reports/data/report.html",
                 "data/prepared/rows.csv", "reports/reward/report/report.md", "reports/preference/report/wins.png",
                 "models/champion/champion.json"):
        assert (folder / left).exists(), left
    receipt = json.loads((folder / "models/policy/receipt.json").read_text())
    assert {"models/sft/model", "models/reward/model", "data/prepared"} <= set(receipt["inputs"])

    again = run(project, "one")
    assert {stage["status"] for stage in again["stages"].values()} == {"reused"}
    assert again["results"] == first["results"]


@pytest.mark.evidence
def test_the_same_numbers_to_the_last_digit_elsewhere_and_after_all_was_deleted(
        project: Path, databases: Databases) -> None:
    first = run(project, "one")
    folder = project / "runs" / first["id"]
    # Nothing shared but parameters, data and machine.
    databases.give(project / "two")
    elsewhere = run(project, "two", "--until", "ppo")
    assert {stage["mlflow_run"] for stage in elsewhere["stages"].values()}.isdisjoint(
        {stage["mlflow_run"] for stage in first["stages"].values() if stage["mlflow_run"]})
    assert "models/policy" in elsewhere["results"]
    assert elsewhere["results"] == {place: first["results"][place] for place in elsewhere["results"]}

    # A run that is nowhere but in MLflow and in a DVC remote comes back, and evaluates to the same numbers.
    with (project / ".dvc/config").open("a") as config:
        config.write(f"['remote \"shelf\"']\n    url = {project / 'shelf'}\n")
    python(project, "one", "plumbline", "push", first["id"])
    metrics = json.loads((folder / "reports/preference/metrics.json").read_text())
    shutil.rmtree(folder)
    shutil.rmtree(project / "one/cache")
    shutil.rmtree(project / "one/answers")
    python(project, "one", "plumbline", "restore", first["id"])
    python(project, "one", "dvc", "repro", "--single-item", "--force", "preference_eval", cwd=folder)
    assert json.loads((folder / "reports/preference/metrics.json").read_text()) == metrics


def test_candidates_stand_beside_ppo_judged_as_it_is(project: Path) -> None:
    made = run(project, "one")
    found = run(project, "one", "dpo", "same", "--set", "candidates.same={method: ppo}", command="compare")
    new = ["candidate@dpo", "candidate_eval@dpo", "candidate@same", "candidate_eval@same"]
    assert list(found["stages"]) == [*STAGES[:-1], *new], "nothing is promoted"
    assert [name for name, stage in found["stages"].items() if stage["status"] == "ran"] == new

    # The same parameters are the same policy, judged alike: a candidate is trained as the stage `ppo` trains.
    results = found["results"]
    assert results["models/candidates/same"] == results["models/policy"] == made["results"]["models/policy"]
    assert results["models/candidates/dpo"]["pairs"] > 0
    ours, theirs = results["reports/candidates/same"], results["reports/preference"]
    assert {key: theirs[key] for key in ours} == ours
    folder = project / "runs" / found["id"] / "comparison"
    assert json.loads((folder / "comparison.json").read_text()) == found["comparison"]
    ppo, dpo, same = found["comparison"]["rows"]
    assert [ppo["name"], dpo["name"], same["name"]] == ["ppo", "dpo", "same"]
    assert same["win_rates"] == ppo["win_rates"] and same["difference"]["value"] == 0.0
    assert dpo["method"] == "dpo" and dpo["kl"] != ppo["kl"]
    assert (folder / "comparison.md").exists() and (folder / "comparison.png").stat().st_size > 1000
