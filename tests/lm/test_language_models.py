"""Base models: kept and read back unchanged, and refused with a paragraph where they cannot be used."""

import json
import time

import pytest
import torch
from tiny_models import copy_of, prompt, small_model, small_tokenizer
from transformers import Gemma2Config, Gemma2ForCausalLM

from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel, describe, load_base
from plumbline.lm.chat import encode_prompt, stop_token

IDS = torch.arange(3, 23)[None]


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.fixture
def folder(random_lm, tmp_path):
    copy_of(random_lm).save(tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_comes_back_with_identical_logits_tokens_and_template(random_lm, folder):
    found = LanguageModel.load(folder)
    assert torch.equal(logits(found.model), logits(random_lm.model))
    assert encode_prompt(found.tokenizer, prompt("colors")) == encode_prompt(random_lm.tokenizer, prompt("colors"))
    assert stop_token(found.tokenizer) == stop_token(random_lm.tokenizer)
    assert not found.model.training


def test_saving_what_was_loaded_in_bf16_still_writes_fp32(folder, tmp_path):
    lm = LanguageModel.load(folder, "bf16")
    assert lm.model.dtype == torch.bfloat16
    lm.save(tmp_path / "again")
    assert LanguageModel.load(tmp_path / "again").model.dtype == torch.float32


def test_a_folder_is_a_base_model_relative_to_the_root(random_lm, folder):
    lm = load_base("model", folder.parent)
    assert torch.equal(logits(lm.model), logits(random_lm.model))
    found = describe(str(folder), folder.parent)
    assert (found.context, found.has_chat_template) == (128, True)


def test_a_base_model_without_chat_template_is_refused(folder):
    (folder / "chat_template.jinja").unlink()
    assert not describe("model", folder.parent).has_chat_template
    with pytest.raises(UserError, match=r"no chat template.*chat_template\.jinja"):
        load_base("model", folder.parent)


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "nested/in/nowhere", "nowhere.gguf",
                                    "package:no_such_package_here/model.gguf"])
def test_a_missing_file_or_folder_is_named(source, tmp_path):
    with pytest.raises(UserError, match=r"does not exist|is not installed"):
        load_base(source, tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded"):
        load_base("empty", tmp_path)


def test_a_hub_name_without_a_hub_fails_within_seconds(tmp_path, monkeypatch):
    """Port 9 of this machine stands for a hub that cannot be reached."""
    import huggingface_hub.constants
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
        url = getattr(huggingface_hub.constants, name).replace("https://huggingface.co", "http://127.0.0.1:9")
        monkeypatch.setattr(huggingface_hub.constants, name, url)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    for load in (describe, load_base):
        with pytest.raises(UserError, match=r"nobody/no-model cannot be loaded.*network"):
            load("nobody/no-model", tmp_path)
    assert time.monotonic() - start < 10


def test_padding_gets_a_token_that_ends_nothing(tmp_path):
    tokenizer = small_tokenizer()
    tokenizer.add_special_tokens({"unk_token": "<unk>"})
    tokenizer.pad_token = tokenizer.eos_token
    LanguageModel(small_model(tokenizer), tokenizer).save(tmp_path)
    lm = load_base(str(tmp_path), tmp_path)
    assert lm.tokenizer.pad_token_id not in (lm.tokenizer.eos_token_id, stop_token(lm.tokenizer))
    assert lm.model.config.pad_token_id == lm.tokenizer.pad_token_id


def test_the_end_of_turn_does_not_become_the_padding_either(tmp_path):
    tokenizer = small_tokenizer()
    tokenizer.add_special_tokens({"unk_token": "<|end|>"})
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|end|>")
    tokenizer.pad_token = tokenizer.eos_token
    LanguageModel(small_model(tokenizer), tokenizer).save(tmp_path)
    found = load_base(str(tmp_path), tmp_path).tokenizer
    assert found.pad_token == "<|pad|>" and found.decode([stop_token(found)]) == "<|end|>"


def test_a_model_that_caps_its_logits_is_refused(tokenizer, tmp_path):
    torch.manual_seed(0)
    capped = Gemma2ForCausalLM(Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, initializer_range=0.5, final_logit_softcapping=3.0, pad_token_id=0))
    LanguageModel(capped, tokenizer).save(tmp_path)
    with pytest.raises(UserError, match="soft-capping"):
        load_base(str(tmp_path), tmp_path)


def test_code_that_comes_with_a_model_is_not_run(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "homemade",
               "auto_map": {"AutoConfig": "made.Config", "AutoModelForCausalLM": "made.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "made.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_base("model", folder.parent)
    assert not (folder / "ran").exists()
