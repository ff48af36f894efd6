"""What a vLLM server is given to load, read back by transformers."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from plumbline.lm.engines.weights import main, write_untied
from testing.tiny_models import small_causal, small_model

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_the_output_layer_is_written_out_and_the_model_is_the_same(tokenizer, tmp_path, tied, dtype):
    model = small_model(tokenizer, tie_word_embeddings=tied)
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    write_untied(model, tmp_path)
    found = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    assert found.dtype == dtype
    assert found.lm_head.weight.data_ptr() != found.get_input_embeddings().weight.data_ptr()
    with torch.no_grad():
        assert torch.equal(found(IDS).logits, model(IDS).logits)
    assert model.config.tie_word_embeddings is tied, "the model itself stays as it is"


@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "gemma3_text", "mixtral"])
def test_other_architectures_are_the_same_too(tokenizer, tmp_path, kind):
    model = small_causal(kind, tokenizer)
    write_untied(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits, model(IDS).logits)


def test_a_folder_to_start_a_server_from_has_a_tokenizer(taught_folder, tmp_path):
    main(str(taught_folder), str(tmp_path / "served"))
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {
        file.name for file in (tmp_path / "served").iterdir()}
