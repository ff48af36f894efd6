"""The stage `ppo` by itself, with tiny models: which model is optimised against which, and on which prompts."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from plumbline.alignment.reward import RewardModel
from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.evaluation.gate import write_verdict
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt
from plumbline.lm.engines.own import OwnEngine
from plumbline.preferences.jsonl import jsonl
from plumbline.preferences.types import prompt_json
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home
from plumbline.runs.stage_run import StageRun
from plumbline.tracking.curves import findings
from tasks.ppo import program
from testing.tiny_models import copy_of, prompt
from testing.vllm_server import FakeVllm

ROOT = Path(__file__).resolve().parents[2]
SPLITS = {"train": ["name some colors", "colors", "say it"], "validation": ["which ones?", "a few"],
          "heldout": ["never asked", "nor this"]}
SMALL = ("ppo.updates=2", "ppo.value_warmup=1", "ppo.batch_size=6", "ppo.micro_batch_size=2", "ppo.epochs=2",
         "ppo.max_prompt=64", "ppo.max_response=8", "ppo.learning_rate=0.01")


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
    """Run the stage; return what its updates reported."""
    params = load_params(ROOT, None, [*SMALL, *settings])
    program(StageRun(root, Home(root, root / ".plumbline"), read_stages(ROOT)["ppo"], params, {}, "", None))
    curves = [json.loads(line) for line in (root / "models/policy/curves.jsonl").read_text().splitlines()]
    return [point for point in curves if not point["what"]]


def metrics_of(root: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((root / "models/policy/metrics.json").read_text())
    return found


def ids_of(tokenizer, split: str) -> list[list[int]]:
    return [encode_prompt(tokenizer, prompt(text)) for text in SPLITS[split]]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_reference_is_the_model_that_the_policy_starts_from(workspace: Path, precision: str) -> None:
    """To the last digit: another model, or the same one in another precision, would have another KL."""
    curve = run_ppo(workspace, f"ppo.precision={precision}")
    assert curve[0]["kl"] == 0
    assert curve[1]["kl"] != 0, "the policy moves, the reference does not"


def test_adapters_are_drawn_from_the_stages_seed_and_nothing_else(workspace: Path) -> None:
    """Otherwise a retry would be another training, and several ranks would have adapters that differ."""
    lora, curves = ("ppo.trainable=lora", "ppo.critic=shared"), []
    for before, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(before)
        curves.append(run_ppo(workspace, *lora, f"seed={seed}")[-1])
        shutil.rmtree(workspace / "models/policy")
        shutil.rmtree(workspace / ".plumbline")  # with its checkpoint, which has the adapters
    assert curves[0] == curves[1] != curves[2]


def test_only_prompts_of_train_are_learnt_from_and_of_validation_measured_on(
        workspace: Path, tokenizer, monkeypatch) -> None:
    learnt, measured, sample = [], [], OwnEngine.sample

    def sampled(engine, model, prompts, uniform_BR, temperature, batch_size=None):
        (measured if batch_size else learnt).extend(prompts)
        return sample(engine, model, prompts, uniform_BR, temperature, batch_size)

    monkeypatch.setattr(OwnEngine, "sample", sampled)
    run_ppo(workspace)
    assert sorted(learnt) == sorted(ids_of(tokenizer, "train") * 6), "three batches of six, each prompt equally often"
    assert sorted(measured) == sorted(ids_of(tokenizer, "validation") * 2), "of SFT, and of the policy at the end"


def test_the_second_reward_model_judges_where_there_is_one(workspace: Path) -> None:
    """Its win rate chooses the policy; without it the reward model that is optimised is no judge of that."""
    *_, alone = run_ppo(workspace)
    assert alone["validation_judge_score"] == alone["validation_reward"]
    assert metrics_of(workspace)["validation_judge"] == "reward"
    RewardModel.from_policy(workspace / "models/sft/model", 128, seed=1).save(workspace / "models/judge/model")
    *_, judged = run_ppo(workspace)
    assert judged["validation_reward"] == alone["validation_reward"]
    assert judged["validation_judge_score"] != judged["validation_reward"]
    assert metrics_of(workspace)["validation_judge"] == "second"


def test_a_note_in_place_of_a_second_reward_model_is_none(workspace: Path) -> None:
    (workspace / "models/judge/model").mkdir(parents=True)
    (workspace / "models/judge/model/NONE").write_text("There is none.")
    run_ppo(workspace)
    assert metrics_of(workspace)["validation_judge"] == "reward"


RULE = "def reds(rows):\n    return [text.count('red') + 0.01 * len(text) for _, text in rows]\n"


def test_a_function_and_another_reward_model_are_optimised_beside_the_own(workspace: Path) -> None:
    """Each has a curve in its own unit, before the first update too; weights are of deviations."""
    (workspace / "rules_of_stage.py").write_text(RULE)
    RewardModel.from_policy(workspace / "models/sft/model", 128, seed=7).save(workspace / "theirs")
    curve = run_ppo(workspace, "ppo.rewards={'rules_of_stage:reds': 1.0, reward: 1.0, theirs: 0.5}", "ppo.combine=min",
                    "ppo.length_penalty=0.1")
    assert {"reward_of_reds", "reward_of_reward", "reward_of_theirs", "length_penalty"} <= curve[0].keys()
    assert "repetition_penalty" not in curve[0]
    assert curve[0]["kl"] == 0, "what was measured on SFT's answers has not moved it"
    assert metrics_of(workspace)["reward_of_theirs"] != metrics_of(workspace)["reward_of_reward"]
    alone = run_ppo(workspace)
    assert not [name for point in alone for name in point if name.startswith("reward_of_") or "penalty" in name]


@pytest.mark.parametrize("trainable", ["top", "lora"])
def test_a_function_is_a_reward_however_the_policy_learns(workspace: Path, trainable: str) -> None:
    (workspace / "rules_of_stage.py").write_text(RULE)
    settings = (f"ppo.trainable={trainable}", "ppo.top_layers=1", "ppo.lora_rank=4",
                "ppo.critic=" + ("shared" if trainable == "lora" else "separate"))
    first, *_ = run_ppo(workspace, "ppo.rewards={'rules_of_stage:reds': 1.0, reward: 1.0}", *settings)
    plain, *_ = run_ppo(workspace, *settings)
    assert first["kl"] == plain["kl"] == 0
    assert first["reward_of_reward"] == pytest.approx(plain["score"], rel=0.5, abs=0.5)


def test_the_policy_that_is_saved_is_the_one_that_is_kept(workspace: Path, monkeypatch) -> None:
    """SFT, if nothing stays within the KL limit."""
    run_ppo(workspace, "ppo.kl_limit=1.0e-6")
    assert metrics_of(workspace)["best_update"] == 0 and metrics_of(workspace)["stopped_early"] == 2
    sft, policy = (LanguageModel.load(workspace / f"models/{name}/model").model.state_dict()
                   for name in ("sft", "policy"))
    assert all(torch.equal(weight, policy[name]) for name, weight in sft.items())
    run_ppo(workspace)
    policy = LanguageModel.load(workspace / "models/policy/model").model.state_dict()
    assert metrics_of(workspace)["best_update"] == 2
    assert not all(torch.equal(weight, policy[name]) for name, weight in sft.items())


def test_what_went_wrong_is_read_from_the_curves_that_the_stage_leaves(workspace: Path) -> None:
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / file, workspace)
    run_ppo(workspace, "ppo.updates=20", "ppo.learning_rate=1.0e-9")
    (finding,) = [one for one in findings(workspace)["ppo"] if one.name == "nothing learnt"]
    assert "Raise ppo.learning_rate" in finding.change
    run_ppo(workspace, "ppo.updates=12", "ppo.learning_rate=0.3", "ppo.kl_coef=0.0")
    assert {"KL runs away", "steps too large"} & {one.name for one in findings(workspace)["ppo"]}


def test_a_server_samples_where_the_parameters_say_so(workspace: Path, monkeypatch) -> None:
    """Validation, too: SFT's answers and the policy's; nothing of the weights is left behind."""
    with FakeVllm(workspace / "models/base/model") as fake:
        monkeypatch.setenv("PLUMBLINE_VLLM_URL", fake.url)
        curve = run_ppo(workspace, "ppo.engine=vllm", "ppo.rollout_correction=2.0")
    assert len(fake.loads) == 1 + 1 + 2 + 1, "SFT's answers, warm-up, two updates, the policy's answers"
    assert all(0 <= point["engine_gap"] < 1e-4 for point in curve)
    assert metrics_of(workspace)["engine"] == "vllm 0.32.0"
    assert not list((workspace / ".plumbline").rglob("*.safetensors"))


def test_without_the_address_of_a_server_nothing_is_sampled(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"PLUMBLINE_VLLM_URL.*found none"):
        run_ppo(workspace, "ppo.engine=vllm")
