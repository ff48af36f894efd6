"""The stage `sft` by itself, with tiny models: it starts from the base model and learns from train alone."""

import json
from pathlib import Path

from plumbline.alignment.sample_page import respond
from plumbline.config import load_params
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt
from plumbline.preferences.jsonl import jsonl
from plumbline.preferences.types import Demonstration, Origin, prompt_json, to_json
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home
from plumbline.runs.stage_run import StageRun
from tasks.sft import program
from testing.tiny_models import PROMPTS, copy_of

ROOT = Path(__file__).resolve().parents[2]
SHOWN = {"train": "red red", "validation": "green", "heldout": "blue", "judge": "black"}
"""What the demonstrations of each split answer, to anything."""
SMALL = ("sft.max_length=64", "sft.epochs=8", "sft.batch_size=4", "sft.micro_batch_size=4", "sft.learning_rate=0.01")


def run_sft(root: Path, random_lm, *settings: str) -> dict[str, float]:
    copy_of(random_lm).save(root / "models/base/model")
    for split, answer in SHOWN.items():
        rows = {"demonstrations": [to_json(Demonstration(one, answer, Origin("test"))) for one in PROMPTS * 6],
                "prompts": [{"prompt": prompt_json(one)} for one in PROMPTS]}
        for part, values in rows.items():
            file = root / f"data/prepared/{part}/{split}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(jsonl(values), encoding="utf-8")
    params = load_params(ROOT, None, [*SMALL, *settings])
    program(StageRun(root, Home(root, root / ".plumbline"), read_stages(ROOT)["sft"], params, {}, "", None))
    found: dict[str, float] = json.loads((root / "models/sft/metrics.json").read_text())
    return found


def test_it_answers_as_the_demonstrations_of_train_do(tmp_path: Path, random_lm) -> None:
    measured = run_sft(tmp_path, random_lm)
    sft = LanguageModel.load(tmp_path / "models/sft/model")
    answers = respond(sft, PROMPTS, max_response=8, temperature=0.0, seed=0)
    assert set(answers) == {SHOWN["train"]}
    assert measured["examples"] == 30 and measured["cut"] == 0


def test_a_prompt_that_leaves_no_room_for_an_answer_is_not_among_the_samples(tmp_path: Path, random_lm) -> None:
    """With learned positions it would end the stage each time, after all of its steps."""
    run_sft(tmp_path, random_lm, "sft.epochs=0", "sft.max_length=24")
    fitting = [one for one in PROMPTS if len(encode_prompt(random_lm.tokenizer, one)) <= 12]
    page = (tmp_path / "models/sft/samples.md").read_text()
    assert page.count("**→ sft**") == len(fitting) < len(PROMPTS)


def test_without_an_epoch_it_is_the_base_model(tmp_path: Path, random_lm) -> None:
    measured = run_sft(tmp_path, random_lm, "sft.epochs=0")
    assert measured["validation_loss"] == measured["validation_loss_before"]
    sft, base = (LanguageModel.load(tmp_path / f"models/{name}/model").model.state_dict() for name in ("sft", "base"))
    assert all(weight.equal(base[name]) for name, weight in sft.items())
