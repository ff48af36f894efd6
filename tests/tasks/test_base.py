"""The stage `base` by itself, as `dvc repro` runs it: it examines what it loads, and keeps nothing that it refuses."""

import json
from pathlib import Path

import pytest

from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home
from plumbline.runs.stage_run import StageRun
from tasks.base import program
from testing.tiny_models import small_causal, small_tokenizer

ROOT = Path(__file__).resolve().parents[2]
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"


def run_base(root: Path) -> dict[str, object]:
    params = load_params(ROOT, None, ["base.source=model"])
    program(StageRun(root, Home(root, root / ".plumbline"), read_stages(ROOT)["base"], params, {}, "", None))
    found: dict[str, object] = json.loads((root / "models/base/metrics.json").read_text())
    return found


def test_what_is_done_differently_for_a_model_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = small_tokenizer()
    tokenizer.chat_template = NO_SYSTEM + tokenizer.chat_template
    LanguageModel(small_causal("bloom", tokenizer), tokenizer).save(tmp_path / "model")
    found = run_base(tmp_path)
    assert "no system message" in str(found["notes"]) and "row of its own" in str(found["notes"])
    assert "model: The chat template takes no system message" in capsys.readouterr().err
    assert "context" not in found, "nothing limits it"


def test_a_model_that_a_later_stage_could_not_use_is_refused_and_not_kept(tmp_path: Path, tokenizer) -> None:
    LanguageModel(small_causal("granite", tokenizer), tokenizer).save(tmp_path / "model")
    with pytest.raises(UserError, match="AutoModelForSequenceClassification"):
        run_base(tmp_path)
    assert not (tmp_path / "models/base/model").exists()
