"""Language models with their tokenizers: loading and saving.

Whatever its source (`source.py`), a model is saved as fp32 safetensors with its tokenizer and its settled
chat template (`template.py`).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from plumbline.errors import UserError
from plumbline.lm.chat import stop_tokens
from plumbline.lm.encoder_decoder import CausalT5
from plumbline.lm.optim import device, require_finite_weights
from plumbline.lm.ranks.world import world
from plumbline.lm.source import Source
from plumbline.lm.template import settle

VECTOR_FUNCTIONS = (
    torch.cos, torch.sin, torch.exp, torch.log, torch.log2, torch.sqrt, torch.tanh, torch.erf)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

# oneMKL chooses the kernel of each vector function at the function's first call. If two threads make this
# call at once, one of them may get a less exact kernel (pytorch/pytorch#188792): in one process of six the
# first forward pass then had other last digits. Therefore make the first calls here, from one thread, on one
# element each.
for _function in VECTOR_FUNCTIONS:
    for _dtype in (torch.float32, torch.float64):
        _function(torch.ones(1, dtype=_dtype))


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def load(cls, folder: Path, precision: str = "fp32") -> "LanguageModel":
        """Load the model that `save` wrote to `folder`, its weights in `precision` (`fp32` or `bf16`)."""
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[precision], trust_remote_code=False)
        return cls(model.to(device()).eval(), AutoTokenizer.from_pretrained(folder, trust_remote_code=False))

    def save(self, folder: Path) -> None:
        """Write the model as fp32 safetensors, its tokenizer and its chat template to `folder`.

        All ranks have to call it, of which the first one writes. Raises UserError, and writes nothing, if a
        weight is infinite or not a number.
        """
        require_finite_weights(self.model)
        save_pretrained(self.model.float(), self.tokenizer, folder)


def save_pretrained(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Let the first rank write model and tokenizer, and the others wait for it."""
    def write() -> None:
        model.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)

    world().together(lambda: write() if world().first else None)


def load_base(name: str, root: Path) -> LanguageModel:
    """Load a base model in fp32; relative paths start at `root`. Raises UserError if it cannot be used."""
    source = Source.find(name, root)
    config = source.config()
    tokenizer = source.tokenizer(config)
    model, found = source.load(lambda: AutoModelForCausalLM.from_pretrained(
        source.where, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False,
        **source.options))
    if source.options:
        model = _without_quantization(model)
    missing = set(found["missing_keys"])
    if isinstance(model, CausalT5):
        model.settle_output(missing)
    if missing:
        raise UserError(f"The model {name} lacks {len(missing)} of its weights (the first is "
                        f"{min(missing)}), which would be filled at random. Its files are incomplete or "
                        "belong to another model: fetch them again.")
    settle(tokenizer)
    model.config.pad_token_id = tokenizer.pad_token_id
    _repair_generation_config(model, tokenizer)
    lm = LanguageModel(model.to(device()).eval(), tokenizer)
    require_finite_weights(lm.model)
    return lm


def _without_quantization(model: PreTrainedModel) -> PreTrainedModel:
    """Move a dequantised GGUF model's weights to a new model.

    Its own is still marked as quantised, and transformers refuses to save it.
    """
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    fresh: PreTrainedModel = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    fresh.load_state_dict(model.state_dict())
    fresh.tie_weights()
    return fresh


def _repair_generation_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Replace a generation_config.json that contradicts itself by one with the special tokens alone.

    Many on the hub do, and transformers refuses to save a model with such a file.
    """
    try:
        model.generation_config.validate(strict=True)
    except ValueError:
        first, *others = stop_tokens(tokenizer, model)
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id, eos_token_id=[first, *others] if others else first,
            pad_token_id=tokenizer.pad_token_id)
