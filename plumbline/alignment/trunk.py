"""A model split in two: lower layers that stay frozen, the trunk, and the layers that learn, on top of it.

What a frozen trunk makes of a sequence never changes, so one pass of it serves the old policy, the reference,
the value model and all epochs over a batch (trlx shares the weights in this way, and computes them anew each
time). Both halves are views of the model they come from: they share its layers, and need no memory of their
own.
"""

import copy

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from plumbline.errors import UserError
from plumbline.lm.examination import twin
from plumbline.lm.hidden import hidden_states


def trunk_of(model: PreTrainedModel, top_layers: int) -> PreTrainedModel:
    """Return the body of `model` without its last `top_layers` layers and its last norm."""
    body = model.base_model
    layers, norm = _parts(body)
    kept = len(getattr(body, layers)) - top_layers
    trunk = _view(body, layers, slice(0, kept))
    trunk._modules[norm] = nn.Identity()
    return trunk


def top_of(model: PreTrainedModel, top_layers: int) -> PreTrainedModel:
    """Return the last `top_layers` layers of the body of `model`; it reads a trunk's output as embeddings."""
    body = model.base_model
    layers, _ = _parts(body)
    total = len(getattr(body, layers))
    return _view(body, layers, slice(total - top_layers, total))


def require_layers(model: PreTrainedModel, top_layers: int, parameter: str) -> None:
    """Raise UserError unless the model has more layers than `top_layers`, and can be split exactly.

    `parameter` is where the number stands.
    """
    layers = int(model.config.get_text_config().num_hidden_layers)
    if top_layers >= layers:
        raise UserError(f"{parameter} = {top_layers} leaves no layer frozen: the model has {layers}. "
                        "Lower it.")
    if unsplit := why_unsplit(model.config):
        raise UserError(unsplit)


def why_unsplit(config: PretrainedConfig) -> str | None:
    """Return why models of this configuration cannot be split; None if they can.

    The split is tried on a small twin: GPT-2, for one, adds positions to whatever it reads.
    """
    small = twin(config)
    try:
        layers, _ = _parts(small.base_model)
        exact = _exact(small, max(1, len(getattr(small.base_model, layers)) - 1))
    except UserError as error:
        return str(error)
    except Exception:  # foreign code, which takes no embeddings in place of ids
        exact = False
    return None if exact else (
        f"The architecture {config.model_type} cannot be split into a frozen trunk and top layers: the "
        "halves give other values than the whole. Let all layers learn, or adapters (ppo.trainable: lora).")


def freeze_below(model: PreTrainedModel, top_layers: int) -> None:
    """Let the last layers, the last norm and an output layer of its own learn, and nothing else.

    An output layer that shares its weights with the embeddings belongs to the trunk.
    """
    model.requires_grad_(False)
    top_of(model, top_layers).requires_grad_(True)
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    embeddings.requires_grad_(False)
    if head is not None and head.weight is not embeddings.weight:
        head.requires_grad_(True)


def _parts(body: PreTrainedModel) -> tuple[str, str]:
    """Return the names of the list of layers and of the norm after them."""
    children = list(body.named_children())
    layers = next((name for name, child in children if isinstance(child, nn.ModuleList)), None)
    norm = next((name for name, _ in reversed(children) if "norm" in name.lower() or name == "ln_f"), None)
    if layers is None or norm is None:
        raise UserError(f"The architecture {body.config.model_type} cannot be split into a frozen trunk and "
                        "top layers: it has no list of layers with a norm after it. Let all layers learn, "
                        "or adapters (ppo.trainable: lora).")
    return layers, norm


def _view(body: PreTrainedModel, layers: str, kept: slice) -> PreTrainedModel:
    """Return a body with some of the layers of `body`, which both share."""
    view = copy.copy(body)
    view._modules = dict(body._modules)
    view.config = _with_layers(body.config, kept)
    view._modules[layers] = nn.ModuleList(list(getattr(body, layers))[kept])
    return view


def _with_layers(config, kept: slice):  # type: ignore[no-untyped-def]  # any architecture's configuration
    """Return a configuration of the kept layers alone, with what it lists for each of them."""
    found = copy.deepcopy(config)
    text = found.get_text_config()
    total = text.num_hidden_layers
    for name, value in text.to_dict().items():
        if isinstance(value, list) and len(value) == total:
            setattr(text, name, value[kept])
    text.num_hidden_layers = len(range(total)[kept])
    return found


@torch.no_grad()
def _exact(model: PreTrainedModel, top_layers: int) -> bool:
    ids_BT = torch.arange(8, 24, device=model.device).reshape(2, 8)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[0, :3] = 0
    whole_BTD = hidden_states(model.base_model, ids_BT, mask_BT)
    trunk_BTD = hidden_states(trunk_of(model, top_layers), ids_BT, mask_BT)
    halves_BTD = hidden_states(top_of(model, top_layers), ids_BT, mask_BT, trunk_BTD)
    return torch.equal(whole_BTD[mask_BT.bool()], halves_BTD[mask_BT.bool()])
