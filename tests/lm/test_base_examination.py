"""The examination of a base model: what packs, what is refused in one paragraph, and that it would notice."""

import json

import pytest
import torch
from transformers import (
    AutoConfig,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertLMHeadModel,
    Gemma3Config,
)

from plumbline.errors import UserError
from plumbline.lm import examination
from plumbline.lm.base import LanguageModel, load_base
from plumbline.lm.examination import examine, examine_architecture, packs, twin
from plumbline.lm.source import context_of
from testing.tiny_models import small_causal, small_config, small_model

LAYERS = {"layer_types": ["linear_attention", "full_attention"]}


@pytest.mark.parametrize(("kind", "more", "packed"), [
    ("llama", {}, True), ("qwen3", {}, True), ("gpt_neox", {}, True), ("gemma3_text", {}, True),
    ("opt", {}, False), ("falcon", {}, False), ("bloom", {"initializer_range": 1e-4}, False), ("mpt", {}, False),
    ("gpt_oss", {"layer_types": ["sliding_attention", "full_attention"]}, False), ("qwen3_5_text", LAYERS, False),
])
def test_what_leaks_between_packed_demonstrations_is_noticed_whatever_its_weights(tokenizer, kind, more, packed):
    assert examine_architecture(small_config(kind, tokenizer, **more)) is packed


@pytest.mark.parametrize(("kind", "more"), [("opt", {}), ("qwen3_5_text", LAYERS), ("llama", {})])
def test_the_verdict_on_packing_is_that_of_the_model_itself(tokenizer, kind, more):
    """The second part of a row, with two different first parts, in float64."""
    model = small_causal(kind, tokenizer, **more).double()
    at, second = torch.arange(9).repeat(2)[None], list(range(40, 49))
    with torch.no_grad():
        one, other = (model.base_model(torch.tensor([[*first, *second]]), position_ids=at, use_cache=False)
                      .last_hidden_state[0, 9:] for first in (range(100, 109), range(200, 209)))
    assert packs(model.config) is bool((one - other).abs().max() < 1e-9)


@pytest.mark.parametrize(("kind", "more", "words"), [
    ("granite", {}, "AutoModelForSequenceClassification"),
    ("lfm2", {"layer_types": ["conv", "full_attention"]}, "AutoModelForSequenceClassification"),
    ("gemma2", {"final_logit_softcapping": 3.0}, "soft-capping"),
    ("granite", {"logits_scaling": 4.0}, "none for the architecture granite"),
])
def test_what_no_stage_could_work_with_is_refused_in_one_paragraph(tokenizer, tmp_path, kind, more, words):
    LanguageModel(small_causal(kind, tokenizer, **more), tokenizer).save(tmp_path / "base")
    with pytest.raises(UserError, match=words) as caught:
        examine("base", tmp_path)
    assert "The base model base cannot be used." in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [
    lambda size: BartForConditionalGeneration(BartConfig(
        vocab_size=size, d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=64)),
    lambda size: BertLMHeadModel(BertConfig(vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                            num_attention_heads=2, max_position_embeddings=64)),
], ids=["another encoder-decoder", "encoder"])
def test_only_a_t5_and_what_reads_from_left_to_right_is_a_base_model(tokenizer, tmp_path, model):
    LanguageModel(model(len(tokenizer)), tokenizer).save(tmp_path / "base")
    with pytest.raises(UserError, match=r"(not|neither) a causal language model"):
        examine("base", tmp_path)


@pytest.mark.parametrize(("quantisation", "words"), [
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quantised checkpoint (4 bit, bitsandbytes)"),
    ({"quant_method": "gptq", "bits": 3, "group_size": 128}, "quantised checkpoint (3 bit, gptq)"),
    ({"quant_method": "fp8"}, "quantised checkpoint (fp8)"),
])
def test_a_quantised_checkpoint_is_refused_before_its_weights_are_read(random_lm, tmp_path, quantisation, words):
    random_lm.save(tmp_path)
    change(tmp_path / "config.json", quantization_config=quantisation)
    for load in (examine, load_base):
        with pytest.raises(UserError) as caught:
            load(str(tmp_path), tmp_path)
        assert words in str(caught.value)


@pytest.mark.parametrize("adapter", [json.dumps({"base_model_name_or_path": "some/model"}), "{}", "broken"])
def test_an_adapter_is_no_model_even_beside_one(random_lm, tmp_path, adapter):
    random_lm.save(tmp_path)
    (tmp_path / "adapter_config.json").write_text(adapter)
    with pytest.raises(UserError, match="is an adapter") as caught:
        examine(str(tmp_path), tmp_path)
    assert ("some/model" in str(caught.value)) is ("some/model" in adapter)


def test_a_conversation_outside_the_embedding_is_refused(tokenizer, tmp_path):
    """Tokens were added to the tokenizer, and the model was not resized."""
    LanguageModel(small_model(tokenizer, vocab_size=len(tokenizer) - 20), tokenizer).save(tmp_path)
    with pytest.raises(UserError, match=rf"embedding of {len(tokenizer) - 20} rows.*resize_token_embeddings"):
        examine(str(tmp_path), tmp_path)


@pytest.mark.parametrize(("config", "context"), [
    (AutoConfig.for_model("gpt2", n_positions=77), 77), (AutoConfig.for_model("mpt", max_seq_len=99), 99),
    (AutoConfig.for_model("bloom"), None), (AutoConfig.for_model("mamba"), None),
    (Gemma3Config(text_config={"max_position_embeddings": 4321}), 4321),
], ids=lambda value: getattr(value, "model_type", str(value)))
def test_the_context_is_where_the_architecture_keeps_it(config, context):
    assert context_of(config) == context


def test_the_twin_of_a_deep_model_is_small_has_every_kind_of_layer_and_draws_nothing(tokenizer):
    kinds = (["linear_attention"] * 3 + ["full_attention"]) * 6
    config = small_config("qwen3_5_text", tokenizer, num_hidden_layers=24, layer_types=kinds, vocab_size=150_000)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    small = twin(config)
    assert torch.equal(torch.rand(1), expected), "the random state is as it was"
    assert small.config.layer_types == kinds[:4] and small.config.vocab_size <= 1000
    assert (config.num_hidden_layers, config.vocab_size) == (24, 150_000)
    assert not packs(config)


def test_a_cache_that_forgets_is_noticed(tokenizer):
    model = small_causal("llama", tokenizer)
    forward = model.forward
    model.forward = lambda *args, past_key_values=None, **kwargs: forward(*args, **kwargs)
    with pytest.raises(UserError, match="Sampling with its cache"):
        examination._require_exact_sampling(model)


def test_padding_that_is_read_as_text_is_noticed(tokenizer):
    model = small_causal("opt", tokenizer)
    forward = model.model.forward
    model.model.forward = lambda *args, attention_mask=None, **kwargs: forward(*args, **kwargs)
    with pytest.raises(UserError, match="padding on the left"):
        examination._require_exact_padding(model)


def test_whatever_an_architecture_raises_is_a_paragraph(tokenizer, monkeypatch):
    def broken(_model):
        raise KeyError("no such thing")
    monkeypatch.setattr(examination, "_require_causal", broken)
    with pytest.raises(UserError, match=r"llama does not work.*KeyError.*no such thing"):
        examine_architecture(small_config("llama", tokenizer))


def change(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
