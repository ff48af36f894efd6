"""The stage `reward_eval` by itself, with a tiny reward model: what it is examined on, and what the gate says."""

import json
import math
import random
import shutil
from pathlib import Path
from statistics import fmean

import pytest

from plumbline.alignment.reward import RewardModel
from plumbline.alignment.reward_training import train_reward_model
from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.preferences.jsonl import jsonl
from plumbline.preferences.types import Comparison, Origin, to_json
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home
from plumbline.runs.stage_run import StageRun
from tasks.reward_eval import program
from testing.tiny_models import ASKED, NOWHERE, copy_of, prompt, reward_params

ROOT = Path(__file__).resolve().parents[2]
BEST = {"train": "red", "validation": "blue", "judge": "blue", "heldout": "green"}
"""The word that wins in each split, whatever stands against it."""
COUNTS = {"train": 61, "validation": 62, "judge": 63, "heldout": 64}
MANIFEST = {"digest": "0" * 64, "batches": [
    {"digest": "1" * 64, "source": "test", "rows": 250, "kinds": {}, "quarantined": 0, "simulated": False}]}


def comparisons(best: str, count: int) -> list[Comparison]:
    rng, found = random.Random(0), []
    for i in range(count):
        words = (best, rng.choice([word for word in ("red", "green", "blue", "black") if word != best]))
        one = Comparison(prompt(f"{rng.choice(ASKED)} {i % 40}"), words, "A", Origin("test"))
        found.append(one if rng.random() < 0.5 else one.swap())
    return found


@pytest.fixture
def workspace(taught_lm, tmp_path: Path) -> Path:
    """A reward model that has learnt train: red wins."""
    copy_of(taught_lm).save(tmp_path / "models/sft/model")
    reward = RewardModel.from_policy(tmp_path / "models/sft/model", 64, seed=0)
    train_reward_model(reward, comparisons("red", 200), [], reward_params(epochs=2), 0, lambda *_: None, NOWHERE)
    reward.save(tmp_path / "models/reward/model")
    for split, best in BEST.items():
        write(tmp_path, split, comparisons(best, COUNTS[split]))
    (tmp_path / "data/prepared/manifest.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
    return tmp_path


def write(root: Path, split: str, rows: list[Comparison]) -> None:
    file = root / f"data/prepared/preferences/{split}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(jsonl([to_json(one) for one in rows]), encoding="utf-8")


def run_stage(root: Path, *settings: str) -> tuple[dict[str, float], dict[str, object]]:
    """Run the stage; return its metrics and the gate's decision."""
    params = load_params(ROOT, None, [*settings])
    program(StageRun(root, Home(root, root / ".plumbline"), read_stages(ROOT)["reward_eval"], params, {}, "", None))
    folder = root / "reports/reward"
    return json.loads((folder / "metrics.json").read_text()), json.loads((folder / "gate.json").read_text())


def test_it_is_examined_on_held_out_comparisons_alone(workspace: Path) -> None:
    """What it was trained on would say that it is nearly always right; here other words win."""
    metrics, verdict = run_stage(workspace)
    assert metrics["n"] == COUNTS["heldout"] and metrics["accuracy"] < 0.7
    assert not verdict["passed"] and "min_accuracy" in " ".join(verdict["reasons"])
    assert not metrics["passed"]

    write(workspace, "heldout", comparisons("red", 64))
    assert run_stage(workspace)[0]["accuracy"] > 0.9, "so it has learnt train, and would pass on it"


def test_an_ensemble_is_examined_as_a_whole_and_by_member(workspace: Path) -> None:
    """The second member has learnt nothing, and its weight is a third of what the first and its copy say."""
    folder = workspace / "models/reward/model"
    write(workspace, "heldout", comparisons("red", 64))
    alone = run_stage(workspace)[0]["accuracy"]
    assert "accuracy_member_1" not in run_stage(workspace)[0]
    config = json.loads((folder / "config.json").read_text())
    shutil.copytree(folder, workspace / "copy")
    (folder / "config.json").write_text(json.dumps({**config, "reward_mean_std": 1.0}))
    RewardModel.from_policy(workspace / "models/sft/model", 64, seed=5).save(folder / "members/2")
    shutil.copytree(workspace / "copy", folder / "members/3")
    metrics, _ = run_stage(workspace)
    assert metrics["accuracy_member_1"] == metrics["accuracy_member_3"] == alone > metrics["accuracy_member_2"]
    assert metrics["accuracy_members_agree_n"] + metrics["accuracy_members_differ_n"] == metrics["n"]
    whole = RewardModel.load(folder)
    margins = [score[0] - score[1] if pair.label == "A" else score[1] - score[0]
               for pair in comparisons("red", 64)
               for score in [whole.score([(pair.prompt, text) for text in pair.responses])]]
    assert metrics["accuracy"] == sum(margin > 0 for margin in margins) / 64
    assert metrics["bt_loss"] == pytest.approx(fmean(math.log1p(math.exp(-margin)) for margin in margins), abs=1e-5)
    report = (workspace / "reports/reward/report/report.md").read_text()
    assert "| member 2 of the ensemble |" in report
    assert "| the ensemble's members | accuracy" in report


def test_the_probes_ask_the_model_that_was_trained(workspace: Path) -> None:
    """It has seen no answer but one word, and no reason to dislike others: whatever they find is measured and told."""
    write(workspace, "heldout", comparisons("red", 64))
    metrics, verdict = run_stage(workspace)
    report = (workspace / "reports/reward/report/report.md").read_text()
    failed = [name for name in ("empty", "refusal", "echo") if metrics[f"probe_{name}_wins_low"] > 0.5]
    assert all(f"probe `{name}`" in " ".join(verdict["reasons"]) for name in failed)
    assert all(f"| {name} |" in report for name in ("empty", "repeated", "echo", "refusal", "trigger"))
    assert "probe_padded_wins" not in metrics, "in tokens of a letter or two it does not fit"
    assert "probe_other_wins" not in metrics, "the answers chosen elsewhere are the same word"


def test_comparisons_that_do_not_fit_are_left_out_and_counted(workspace: Path) -> None:
    long = Comparison(prompt("colors"), ("red " * 100, "blue"), "A", Origin("test"))
    write(workspace, "heldout", [*comparisons("red", 64), long, long.swap()])
    metrics, _ = run_stage(workspace)
    assert (metrics["n"], metrics["dropped_too_long"]) == (64, 2)
    write(workspace, "heldout", [long])
    with pytest.raises(UserError, match=r"of 1 held-out comparisons 1 are longer than reward_model\.max_length"):
        run_stage(workspace)
