"""Base models: kept and read back unchanged, and refused with a paragraph where they cannot be used."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma2Config, Gemma2ForCausalLM

from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel, load_base
from plumbline.lm.chat import encode_prompt, stop_token
from plumbline.lm.examination import examine
from testing.tiny_models import copy_of, prompt, small_model, small_tokenizer

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


def test_a_base_model_without_chat_template_is_refused(folder):
    (folder / "chat_template.jinja").unlink()
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
    for load in (examine, load_base):
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
        examine(str(tmp_path), tmp_path)


def test_code_that_comes_with_a_model_is_not_run(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "homemade",
               "auto_map": {"AutoConfig": "made.Config", "AutoModelForCausalLM": "made.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "made.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    for load in (examine, load_base):
        with pytest.raises(UserError, match="program code of its own") as caught:
            load("model", folder.parent)
        assert "trust_remote_code" not in str(caught.value), "no advice to run it after all"
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("values", [{"do_sample": False, "temperature": 0.7}, {"num_beams": 1, "length_penalty": 2.0}])
def test_a_generation_config_that_contradicts_itself_does_not_keep_the_model_from_being_saved(folder, tmp_path, values):
    (folder / "generation_config.json").write_text(json.dumps(values))
    lm = load_base("model", folder.parent)
    lm.save(tmp_path / "kept")
    LanguageModel.load(tmp_path / "kept").save(tmp_path / "again")
    assert LanguageModel.load(tmp_path / "again").model.generation_config.eos_token_id == stop_token(lm.tokenizer)


def test_weights_that_are_missing_are_not_made_up(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 of its weights.*layers\.1\.mlp\.up_proj"):
        load_base("model", folder.parent)


@pytest.mark.parametrize("damage", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_are_neither_loaded_nor_kept(random_lm, folder, tmp_path, damage):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = damage
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"not a number, the first in model\.norm\.weight"):
        load_base("model", folder.parent)
    with pytest.raises(UserError, match="not a number"):
        LanguageModel.load(folder).save(tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("where", ["tokenizer", "config"])
def test_padding_outside_of_the_embedding_is_replaced(tmp_path, where):
    tokenizer = small_tokenizer()
    model = small_model(tokenizer)
    if where == "tokenizer":
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    LanguageModel(model, tokenizer).save(tmp_path)
    if where == "config":
        values = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(values | {"pad_token_id": 100_000}))
    lm = load_base(str(tmp_path), tmp_path)
    assert lm.model.config.pad_token_id == lm.tokenizer.pad_token_id < lm.model.get_input_embeddings().num_embeddings
    assert lm.tokenizer.pad_token_id not in (lm.tokenizer.eos_token_id, stop_token(lm.tokenizer))
