"""Measure what a model of some configuration takes, without its weights.

Fake tensors have shapes and no content: the model's own code runs on them, so that what a forward pass keeps
for its gradient, what the cache of a token takes and how many FLOPs there are is counted and not guessed,
whatever the architecture, in seconds and next to no memory. An 8 B model takes four seconds.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DynamicCache,
    PretrainedConfig,
    PreTrainedModel,
)

from plumbline.compute.footprint import KeptBytes, ModelSize
from plumbline.lm.hidden import hidden_states
from plumbline.lm.optim import autocast
from plumbline.lm.source import Source

SHORT, LONG = 64, 128
"""Tokens of the rows that are tried; from them follow all other lengths."""


def measure_source(name: str, root: Path) -> dict[str, Any] | None:
    """Return the size, as plain values, of the model that `base.source` names.

    None where the architecture's code does not work on tensors without content. Raises UserError for a model
    that is not there.
    """
    config = Source.find(name, root).config()
    try:
        return asdict(measure(config))
    except Exception:  # foreign code; a size that is not known refuses nothing
        return None


def classifier_weights(config: PretrainedConfig) -> int | None:
    """Return the weights of a sequence classifier of this configuration, those that are tied counted once.

    None where the architecture's code does not work on tensors without content.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
    except Exception:  # foreign code; a size that is not known refuses nothing
        return None
    return int(sum(weight.numel() for weight in model.parameters()))


def measure(config: PretrainedConfig) -> ModelSize:
    """Measure a causal language model of this configuration."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
        short, long = _flops(model, SHORT), _flops(model, LONG)
        a_pair = max(0.0, (long / LONG - short / SHORT) / (LONG - SHORT))
        layers = config.get_text_config().num_hidden_layers
        return ModelSize(
            weights=sum(weight.numel() for weight in model.parameters()),
            head=sum(weight.numel() for weight in head.parameters() if weight is not embeddings.weight),
            in_layers=_in_layers(model, layers), layers=layers, vocabulary=head.weight.shape[0],
            width=head.weight.shape[1],
            kept_fp32=_kept(model, "fp32"), kept_bf16=_kept(model, "bf16"),
            cache_per_token=_cache_bytes(model, LONG) // LONG,
            flops_per_token=short / SHORT - a_pair * SHORT, flops_per_pair=a_pair)


def _in_layers(model: PreTrainedModel, layers: int) -> int:
    """Return the weights of the longest list of modules, which are the decoder's layers."""
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == layers]
    return max(sum(weight.numel() for weight in part.parameters()) for part in lists)


def _kept(model: PreTrainedModel, precision: str) -> KeptBytes:
    """Fit fixed + per_token T + per_pair T^2, which three rows of one, two and four lengths determine."""
    one, two, four = (kept_bytes(model, 1, factor * SHORT, precision) for factor in (1, 2, 4))
    per_pair = ((four - two) / 2 - (two - one)) / (3 * SHORT**2)
    per_token = (two - one) / SHORT - 3 * SHORT * per_pair
    return KeptBytes(round(one - per_token * SHORT - per_pair * SHORT**2), per_token, per_pair)


def kept_bytes(model: PreTrainedModel, rows: int, tokens: int, precision: str) -> int:
    """Return the bytes that a pass of the body over rows of so many tokens keeps for its gradient.

    Those of the weights are left out.
    """
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
    found: dict[int, torch.UntypedStorage] = {}  # several tensors may be views of one storage

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            found[storage._cdata] = storage
        return tensor

    ids_BT = torch.zeros(rows, tokens, dtype=torch.long, device=model.device)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[:, :1] = 0  # of a row without padding the model would forget the mask
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(precision):
        _ = hidden_states(model.base_model, ids_BT, mask_BT)
    return sum(storage.nbytes() for storage in found.values())


def _flops(model: PreTrainedModel, tokens: int) -> int:
    # The fused kernels of a CPU are not counted; the plain products of attention are.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    return int(counter.get_total_flops())


def _cache_bytes(model: PreTrainedModel, tokens: int) -> int:
    """Return the bytes that the cache of a row holds; recurrent layers keep little, and count as nothing."""
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.zeros(1, tokens, dtype=torch.long), past_key_values=cache, use_cache=True)
    held = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    return sum(one.untyped_storage().nbytes() for one in held if isinstance(one, torch.Tensor))
