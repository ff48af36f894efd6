"""A model in parts, of which each rank has one: FSDP2 (`torch.distributed.fsdp.fully_shard`).

A training gets an ordinary model and leaves it an ordinary one. In between `sharded` gives it a copy in
parts, and `fill` gives back the weights that learnt; models that are only asked are taken apart for good.
With one rank the copy is the model itself, and everything here does nothing.

    learning = sharded(model)
    loss = inside(learning, lambda: loss_of(learning, rows))     # weights are gathered layer by layer
    fill(model, learning)

Departures from the usual: gradients are added up over the ranks, not averaged, because losses are divided by
the tokens of the whole minibatch. No mixed precision of FSDP: the passes run under autocast on any number of
ranks, so that all of them compute what one process does. It costs twice the traffic of weights gathered in
bf16. Weights are let go after each pass, those outside of the layers, too: one that is kept would not notice
that it has been loaded anew.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from plumbline.errors import UserError
from plumbline.lm.optim import device
from plumbline.lm.ranks.world import world

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integers that are as long as a weight, by its bytes."""
T = TypeVar("T")
Model = TypeVar("Model", bound=nn.Module)


def sharded(model: Model) -> Model:
    """Return a copy of the model in parts, the model itself with one rank; see `sharded_with`."""
    parts: Model = sharded_with(model)[0]
    return parts


@torch.no_grad()
def sharded_with(
    model: nn.Module, *views: Any  # noqa: ANN401 - transformers has no types
) -> tuple[Any, ...]:
    """Return a copy of the model in parts, and of its `views`, modules which share its layers, or None.

    Until `fill` the model itself lacks the weights that learn: it would hold memory for nothing. Raises
    UserError if the ranks' models differ.
    """
    here = world()
    if here.size == 1:
        return model, *views
    _require_same_weights(model)
    shared = {id(weight): weight for weight in model.parameters()}  # not copied
    parts, *copies = copy.deepcopy((model, *views), shared)
    mesh = init_device_mesh(device().type, (here.size,))
    for module in (*_layers(parts), parts):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    parts.inside = _call
    register_fsdp_forward_method(parts, "inside")
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.new_empty(0)
    return parts, *copies


def inside(model: nn.Module | None, compute: Callable[[], T]) -> T:
    """Return what `compute` returns, for which the weights of `model` are whole.

    Needed wherever something other than the model itself is called, such as its body, or a weight is looked
    at. All ranks have to call it; one call must not be within another of the same model; a result with a
    gradient is a tensor, or a tuple of tensors.
    """
    if not isinstance(model, FSDPModule):
        return compute()
    found: T = cast(Any, model).inside(compute)  # added by `sharded_with`
    return found


@torch.no_grad()
def fill(whole: nn.Module, parts: nn.Module) -> None:
    """Give `whole` the weights that learn of `parts`, whose copy it may be in another precision."""
    if whole is parts:
        return
    targets = dict(whole.named_parameters())
    for name, weight in parts.named_parameters():
        if weight.requires_grad:
            put(targets[name], weight)


@torch.no_grad()
def put(target: torch.Tensor, value: torch.Tensor) -> None:
    """Copy `value` into `target`: either may be in parts, and a target without memory gets some."""
    if isinstance(target, DTensor):
        target.copy_(like(value, target))
        return
    value = value.full_tensor() if isinstance(value, DTensor) else value
    if target.shape != value.shape:
        target.data = value.to(target.dtype)
    else:
        target.copy_(value)


def like(value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor of the weight's shape in parts, if the weight is."""
    if not isinstance(weight, DTensor) or isinstance(value, DTensor):
        return value
    here = value.to(weight.device)
    return distribute_tensor(here, weight.device_mesh, weight.placements, src_data_rank=None)


def clip_grad_norm(weights: Iterable[torch.Tensor], limit: float) -> float:
    """Scale the gradients so that their norm is at most `limit`; return the norm they had."""
    norm = torch.nn.utils.clip_grad_norm_(weights, limit)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def whole_state(state: T) -> T:
    """Return nested dictionaries and lists with the tensors that are in parts made whole, on the first rank's
    CPU; on the other ranks None is in their place.
    """
    if isinstance(state, DTensor):
        full = state.full_tensor()
        return full.cpu() if world().first else None  # type: ignore[return-value]
    if isinstance(state, Mapping):
        return {name: whole_state(value) for name, value in state.items()}  # type: ignore[return-value]
    if isinstance(state, list | tuple):
        return type(state)(whole_state(value) for value in state)
    return state


def load_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Take over whole weights, as `whole_state` of the model's state_dict."""
    if not isinstance(model, FSDPModule):
        model.load_state_dict(weights)
        return
    for name, target in model.state_dict().items():
        put(target, weights[name])


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over an optimizer's whole state, as `whole_state` of its state_dict, whatever ranks it is from."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    own = {place: {name: value if name == "step" else like(value, weights[place])
                   for name, value in of_one.items()} for place, of_one in state["state"].items()}
    optimizer.load_state_dict({**state, "state": own})


def _require_same_weights(model: nn.Module) -> None:
    """Raise UserError unless all ranks have the same weights, bit by bit."""
    # Sums of their bits as integers, which are the same in whatever order a machine adds them up.
    sums = {name: int(weight.view(BITS[weight.element_size()]).sum(dtype=torch.int64))
            for name, weight in model.named_parameters()}
    for rank, theirs in enumerate(found := world().from_all(sums)):
        if different := [name for name in sums if theirs.get(name) != found[0].get(name)]:
            raise UserError(f"All ranks must have the same weights, but {different[0]} of rank {rank} is not "
                            "that of rank 0. Let all of them see the same files, in a folder that their "
                            "machines share.")


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers: the members of the outermost lists, because of inner ones, experts, not all are used
    in each pass.
    """
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _layers(child)


def _call(compute: Callable[[], T]) -> T:
    return compute()
