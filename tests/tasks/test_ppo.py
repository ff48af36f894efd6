"""The stage `ppo` by itself, with tiny models: which model is optimised against which, and on which prompts."""

import json
from pathlib import Path

import pytest

from plumbline.alignment import ppo as training
from plumbline.alignment.reward import RewardModel
from plumbline.config import load_params
from plumbline.evaluation.gate import write_verdict
from plumbline.lm.chat import encode_prompt
from plumbline.preferences.jsonl import jsonl
from plumbline.preferences.types import prompt_json
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home
from plumbline.runs.stage_program import StageRun
from tasks.ppo import program
from testing.tiny_models import copy_of, prompt

ROOT = Path(__file__).resolve().parents[2]
SPLITS = {"train": ["name some colors", "colors", "say it"], "validation": ["which ones?", "a few"],
          "heldout": ["never asked", "nor this"]}
SMALL = ("ppo.updates=2", "ppo.batch_size=6", "ppo.micro_batch_size=2", "ppo.epochs=2", "ppo.max_prompt=64",
         "ppo.max_response=8", "ppo.learning_rate=0.01")


@pytest.fixture
def workspace(taught_lm, random_lm, tmp_path: Path) -> Path:
    """What the stages before PPO leave: `base` is untrained, `sft` taught; each split has prompts of its own."""
    copy_of(random_lm).save(tmp_path / "models/base/model")
    copy_of(taught_lm).save(tmp_path / "models/sft/model")
    RewardModel.from_policy(tmp_path / "models/sft/model", 128, seed=0).save(tmp_path / "models/reward/model")
    (tmp_path / "data/prepared/prompts").mkdir(parents=True)
    for split, texts in SPLITS.items():
        rows = jsonl([{"prompt": prompt_json(prompt(text))} for text in texts])
        (tmp_path / f"data/prepared/prompts/{split}.jsonl").write_text(rows, encoding="utf-8")
    (tmp_path / "reports/reward").mkdir(parents=True)
    write_verdict(tmp_path / "reports/reward/gate.json", [])
    return tmp_path


def run_ppo(root: Path, *settings: str) -> list[dict[str, float]]:
    """Run the stage; return its curve."""
    params = load_params(ROOT, None, [*SMALL, *settings])
    program(StageRun(root, Home(root, root / ".plumbline"), read_stages(ROOT)["ppo"], params, {}, "", None))
    return [json.loads(line) for line in (root / "models/policy/curves.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_reference_is_the_model_that_the_policy_starts_from(workspace: Path, precision: str) -> None:
    """To the last digit: another model, or the same one in another precision, would have another KL."""
    curve = run_ppo(workspace, f"ppo.precision={precision}")
    assert curve[0]["kl"] == 0
    assert curve[1]["kl"] != 0, "the policy moves, the reference does not"


def test_only_prompts_of_train_are_learnt_from(workspace: Path, tokenizer, monkeypatch) -> None:
    asked, sample = [], training.sample
    monkeypatch.setattr(training, "sample", lambda model, batch, **options: asked.extend(batch) or sample(
        model, batch, **options))
    run_ppo(workspace)
    train = [encode_prompt(tokenizer, prompt(text)) for text in SPLITS["train"]]
    assert sorted(asked) == sorted(train * 4), "two batches of six, each prompt as often as any other"
