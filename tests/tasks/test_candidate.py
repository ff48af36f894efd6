"""The stage `candidate` by itself, with tiny models: which method learns from what, and what it leaves."""

import json
from pathlib import Path

import pytest
import torch

from plumbline.alignment.reward import RewardModel
from plumbline.config import load_params, read_yaml
from plumbline.errors import GateFailed, UserError
from plumbline.evaluation.gate import write_verdict
from plumbline.lm.base import LanguageModel
from plumbline.preferences.jsonl import jsonl
from plumbline.preferences.types import Comparison, Demonstration, Origin, prompt_json, to_json
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home
from plumbline.runs.stage_run import StageRun
from tasks import ppo
from tasks.candidate import program
from testing.tiny_models import copy_of, prompt, share_saying

ROOT = Path(__file__).resolve().parents[2]
PEOPLE = Origin("people")
SMALL = ("ppo.updates=2", "ppo.value_warmup=1", "ppo.batch_size=6", "ppo.micro_batch_size=2", "ppo.epochs=1",
         "ppo.max_prompt=64", "ppo.max_response=8", "ppo.learning_rate=0.01", "direct.batch_size=4",
         "direct.learning_rate=0.01", "sft.learning_rate=0.01")
METHODS = {"ppo-2": "{method: ppo, kl_coef: 0.5}", "rloo": "{method: rloo, answers_per_prompt: 2}",
           "dpo": "{method: dpo, beta: 0.1, label_smoothing: 0.0}",
           "orpo": "{method: orpo, odds_ratio_weight: 0.1}",
           "rejection": "{method: rejection, samples: 4, prompts: 6, temperature: 1.0, max_response: 8}"}
LEAVES = {"curves.jsonl", "metrics.json", "samples.md", "model"}


@pytest.fixture
def workspace(taught_lm, tmp_path: Path) -> Path:
    """What the stages before leave: people prefer the answer `red` to others."""
    copy_of(taught_lm).save(tmp_path / "models/sft/model")
    RewardModel.from_policy(tmp_path / "models/sft/model", 128, seed=0).save(tmp_path / "models/reward/model")
    prepared = tmp_path / "data/prepared"
    for split, texts in {"train": [f"say {i}" for i in range(12)], "validation": ["which ones?", "a few"]}.items():
        kept = {"prompts": [{"prompt": prompt_json(prompt(text))} for text in texts],
                "demonstrations": [to_json(Demonstration(prompt(text), "red blue", PEOPLE)) for text in texts],
                "preferences": [to_json(Comparison(prompt(text), ("red", "names names"), "A", PEOPLE))
                                for text in texts]}
        for part, rows in kept.items():
            (prepared / part).mkdir(parents=True, exist_ok=True)
            (prepared / part / f"{split}.jsonl").write_text(jsonl(rows), encoding="utf-8")
    (tmp_path / "reports/reward").mkdir(parents=True)
    write_verdict(tmp_path / "reports/reward/gate.json", [])
    return tmp_path


def stage_run(root: Path, stage: str, *settings: str) -> StageRun:
    params = load_params(ROOT, None, [*SMALL, *settings])
    group, _, name = stage.partition("@")
    values = {**read_yaml(ROOT / "params.yaml"), "compare": {name: "ppo"} if group == "candidate" else {}}
    return StageRun(root, Home(root, root / ".plumbline"), read_stages(ROOT, values)[stage], params, {}, "", None)


def make(root: Path, name: str, *settings: str) -> LanguageModel:
    """Train a candidate; return its policy."""
    program(stage_run(root, f"candidate@{name}", f"candidates.{name}={METHODS[name]}", *settings))
    folder = root / "models/candidates" / name
    assert {path.name for path in folder.iterdir()} == LEAVES
    assert (folder / "curves.jsonl").read_text() and json.loads((folder / "metrics.json").read_text())
    assert "policy" in (folder / "samples.md").read_text()
    return LanguageModel.load(folder / "model")


def same(one: LanguageModel, other: LanguageModel) -> bool:
    weights = other.model.state_dict()
    return all(torch.equal(weight, weights[name]) for name, weight in one.model.state_dict().items())


def test_values_that_contradict_each_other_are_named_where_they_stand(workspace: Path) -> None:
    alone = "candidates.alone={method: rloo, answers_per_prompt: 1}"
    with pytest.raises(UserError, match=r"candidates\.alone\.answers_per_prompt must be at least 2"):
        program(stage_run(workspace, "candidate@alone", alone))


@pytest.mark.parametrize("method", METHODS)
def test_each_method_leaves_another_policy_with_its_records(workspace: Path, method: str) -> None:
    assert not same(make(workspace, method), LanguageModel.load(workspace / "models/sft/model"))


def test_ppo_with_the_same_parameters_is_the_stage_ppo(workspace: Path) -> None:
    ppo.program(stage_run(workspace, "ppo", "ppo.kl_coef=0.5"))
    assert same(make(workspace, "ppo-2"), LanguageModel.load(workspace / "models/policy/model"))
    assert (workspace / "models/policy/metrics.json").read_text() == (
        workspace / "models/candidates/ppo-2/metrics.json").read_text()


def test_methods_that_use_the_reward_model_ask_its_gate(workspace: Path) -> None:
    write_verdict(workspace / "reports/reward/gate.json", ["accuracy is too low"])
    for method in ("ppo-2", "rejection"):
        with pytest.raises(GateFailed, match="accuracy is too low"):
            make(workspace, method)
    make(workspace, "dpo")


def test_rejection_sampling_learns_what_a_function_likes(workspace: Path) -> None:
    (workspace / "rules_of_candidate.py").write_text(
        "def blues(rows):\n    return [text.count('blue') - 0.01 * len(text) for _, text in rows]\n")
    more = METHODS["rejection"].replace("samples: 4, prompts: 6", "samples: 16, prompts: 12, epochs: 12")
    taught = make(workspace, "rejection", f"candidates.rejection={more}",
                  "candidates.rejection.rewards={'rules_of_candidate:blues': 1.0}")
    assert share_saying("blue", taught) > share_saying("blue", LanguageModel.load(workspace / "models/sft/model")) + 0.2


def test_a_name_that_dvc_yaml_does_not_declare_is_explained(workspace: Path) -> None:
    from plumbline.runs.stage_program import run_stage

    for file in ("params.yaml", "dvc.yaml"):
        (workspace / file).write_text((ROOT / file).read_text())
    (workspace / ".dvc").mkdir()
    with pytest.raises(UserError, match=r"no stage `candidate@nobody`"):
        run_stage(workspace, "candidate@nobody", program)
