"""What is counted without weights, against the tensors of a real pass."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, PretrainedConfig, RobertaConfig

from plumbline.compute.model_size import classifier_weights, kept_bytes, measure, measure_source
from plumbline.errors import UserError
from plumbline.lm.cache import RoomyCache
from testing.tiny_models import small_causal

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "mistral", "gpt_neox", "phi")


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_weights_of_the_whole_and_of_its_parts(kind: str, tokenizer) -> None:
    model = small_causal(kind, tokenizer)
    size = measure(model.config)
    assert size.weights == sum(weight.numel() for weight in model.parameters())
    embeddings = model.get_input_embeddings().weight.numel()
    rest = size.weights - size.in_layers - embeddings - size.head
    assert 0 <= rest <= 4 * model.config.hidden_size  # the last norm; nothing counted twice or forgotten
    assert size.body == sum(weight.numel() for weight in model.base_model.parameters())


@pytest.mark.parametrize("config", [
    LlamaConfig(hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4, vocab_size=300,
                num_labels=1, pad_token_id=0),
    RobertaConfig(hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4, vocab_size=300,
                  num_labels=1)])
def test_the_weights_of_a_reward_model_are_counted_without_it(config) -> None:
    real = AutoModelForSequenceClassification.from_config(config)
    assert classifier_weights(config) == sum(weight.numel() for weight in real.parameters())


def test_an_architecture_that_cannot_be_counted_has_no_number_of_weights() -> None:
    assert classifier_weights(PretrainedConfig()) is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_what_a_pass_keeps_is_what_a_real_one_keeps(kind: str, precision: str, tokenizer) -> None:
    model = small_causal(kind, tokenizer).eval()
    size = measure(model.config)
    for rows, tokens in ((1, 40), (3, 25), (2, 200)):
        assert size.kept(rows, tokens, precision) == pytest.approx(kept_bytes(model, rows, tokens, precision), rel=0.01)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_cache_is_what_a_real_one_holds(kind: str, tokenizer) -> None:
    model = small_causal(kind, tokenizer).eval()
    cache = RoomyCache(model.config, 24)
    with torch.no_grad():
        model(input_ids=torch.zeros(3, 24, dtype=torch.long), past_key_values=cache, use_cache=True)
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert 3 * 24 * measure(model.config).cache_per_token == real


def test_flops_are_those_of_the_matrices() -> None:
    config = LlamaConfig(hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=300, tie_word_embeddings=False)
    tokens = 50
    queries, keys_and_values, output = 64 * 64, 2 * 64 * 32, 64 * 64
    attention = 2 * tokens * 64  # each token's queries with all keys, and the weighted values: not halved by causality
    layer = queries + keys_and_values + output + 3 * 64 * 160
    by_hand = 2 * tokens * (3 * (layer + attention) + 64 * 300)
    assert measure(config).flops(tokens) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.evidence
def test_an_8b_model_is_measured_without_its_weights() -> None:
    config = LlamaConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                         num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=False)
    size = measure(config)
    assert size.weights == 8_030_261_248  # as Llama 3 8B's card says
    assert size.cache_per_token == 32 * 2 * 8 * 128 * 4
    assert size.flops(1) == pytest.approx(2 * (size.weights - size.head), rel=0.01)


def test_a_model_that_is_not_there(tmp_path) -> None:
    with pytest.raises(UserError):
        measure_source("nowhere/at/all", tmp_path)
