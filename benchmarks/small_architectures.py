"""Small random models of many architectures, for `architectures.py`: two layers each, a tokenizer of their own, and
chat templates in the manners of real ones."""

from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from plumbline.lm.pretrain import CHATML, train_tokenizer

SIZES = {
    "hidden_size": 48, "n_embd": 48, "d_model": 48, "word_embed_proj_dim": 48, "intermediate_size": 96, "ffn_dim": 96,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_attention_heads": 4, "n_head": 4, "n_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 512, "n_positions": 512, "max_seq_len": 512,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 48, "shared_expert_intermediate_size": 48, "moe_num_experts": 4, "num_encoder_layers": 2,
    "state_size": 8, "initializer_range": 0.1,
}
"""By every name that an architecture may have for it."""
SPECIAL = {
    "gptj": {"rotary_dim": 8}, "codegen": {"rotary_dim": 8}, "gpt_oss": {"sliding_window": 16},
    "mistral": {"sliding_window": 16}, "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
                   "linear_num_value_heads": 2, "linear_key_head_dim": 12, "linear_value_head_dim": 12},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
              "use_mamba_kernels": False},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4},
    "deepseek_v3": {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8,
                    "v_head_dim": 12, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "head_dim": 4,
                    "num_key_value_heads": 4},
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 24, "mamba_d_state": 8, "mamba_n_groups": 1,
              "attn_layer_indices": [1]},
    "t5": {"num_layers": 2, "d_ff": 96, "d_kv": 12, "num_heads": 4},
    "ctrl": {"dff": 96},
    "stablelm": {"partial_rotary_factor": 0.5},
    "granite": {"logits_scaling": 1.0},
}
ARCHITECTURES = (
    "llama", "mistral", "gemma", "gemma3_text", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next", "phi", "phi3",
    "gpt2", "gpt_bigcode", "gptj", "gpt_neo", "gpt_neox", "gpt_oss", "bloom", "opt", "falcon", "mpt", "stablelm",
    "starcoder2", "persimmon", "nemotron", "helium", "glm", "glm4", "olmo2", "arcee", "smollm3", "seed_oss", "mixtral",
    "deepseek_v3", "ministral", "jamba", "granite", "cohere", "gemma2", "mamba", "mamba2", "lfm2", "bamba", "rwkv",
    "codegen", "xglm", "ctrl", "openai-gpt", "bert", "t5", "bart",
)
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
OPENING = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
STRICT = ("{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}{{ raise_exception('no such role') }}"
          "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + OPENING)
TEMPLATES = {
    "dated": "<|im_start|>system\nToday is {{ strftime_now('%A %d.%m.%Y') }}.<|im_end|>\n" + TURNS + OPENING,
    "clock": "{% set how = '%d' ~ '.%m' %}{{ strftime_now(how) }}" + TURNS + OPENING,
    "no_system": STRICT,
    "silent_system": TURNS.replace("messages", "messages if m.role != 'system'") + OPENING,
    "thinks": TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    "may_think": TURNS + OPENING + "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking "
                                   "%}<think>\n\n</think>\n\n{% endif %}",
    "channel": "{% for m in messages %}<|im_start|>{{ m.role }}{{ '=final' if m.role == 'assistant' else '' }}\n"
               "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}",
    "forgets": "<|im_start|>user\n{{ messages[-1].content }}<|im_end|>\n" + OPENING,
    "parts": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content[0]['text'] }}<|im_end|>\n{% endfor %}"
             + OPENING,
    "broken": "{% for m in messages %}{{ m.content }",
}
"""On a Llama each."""


def make_all(folder: Path, report: Callable[[str], None]) -> None:
    """Make every model that transformers makes at this size; `report` is told of the others."""
    for name, make in makers():
        if (folder / name).exists():
            continue
        try:
            model, tokenizer = make()
        except Exception as error:  # the installed transformers may not have it, or not so small
            report(f"{name} could not be made: {type(error).__name__}: {str(error)[:200]}")
            continue
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def makers() -> Iterator[tuple[str, Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerFast]]]]:
    for kind in ARCHITECTURES:
        yield kind, lambda kind=kind: architecture(kind)
    for name, template in TEMPLATES.items():
        yield f"llama_{name}", lambda template=template: architecture("llama", template)
    yield "llama_grown_tokenizer", grown


def architecture(kind: str, template: str = CHATML) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = words("" if kind == "t5" else template)
    config = small(kind, tokenizer)
    torch.manual_seed(0)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return auto.from_config(config), tokenizer


def grown() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The end of a turn was added to the tokenizer and not to the model."""
    model, tokenizer = architecture("llama", CHATML.replace("<|im_end|>", "<|turn|>"))
    tokenizer.add_tokens([AddedToken("<|turn|>", special=True)], special_tokens=True)
    return model, tokenizer


def words(template: str) -> PreTrainedTokenizerFast:
    subjects, verbs = cycle(("dogs", "ships", "clouds")), cycle(("sail", "sleep", "wait", "wait at sea", "sleep here"))
    texts = [f"{next(subjects)} {next(verbs)}, and {next(subjects)} do not." for _ in range(300)]
    tokenizer = train_tokenizer(texts, 400)
    tokenizer.chat_template = template or None
    return tokenizer


def small(kind: str, tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    known = {*AutoConfig.for_model(kind).to_dict(), *AutoConfig.for_model(kind).attribute_map}
    wanted = {name: size for name, size in SIZES.items() if name in known} | {
        "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None, "decoder_start_token_id": tokenizer.pad_token_id}
    return AutoConfig.for_model(kind, **wanted | SPECIAL.get(kind, {}))
