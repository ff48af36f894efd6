"""A cache of earlier tokens with room for those to come.

transformers' own cache is made anew for each token, all earlier ones copied. Here a new token is written in
place, and rows that have ended make room in place, too: a row from the end moves into the gap. Layers of
other kinds, such as sliding windows and recurrences, stay transformers' own.
"""

from typing import Any

import torch
from transformers import Cache, DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """A layer of at most `longest` tokens; `keys` and `values` [B, H, T, D] are views of what is filled."""

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any  # noqa: ANN401
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new tokens behind the others; return all."""
        rows, heads, new, width = key_states.shape
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.filled = 0
            self.all_keys = key_states.new_empty(rows, heads, self.longest, width)
            self.all_values = value_states.new_empty(rows, heads, self.longest, value_states.shape[-1])
        self.all_keys[:rows, :, self.filled : self.filled + new] = key_states
        self.all_values[:rows, :, self.filled : self.filled + new] = value_states
        self.filled += new
        self._view(rows)
        return self.keys, self.values

    def keep(self, rows: torch.Tensor) -> None:
        """Let row i become what row `rows[i]` was; there may be fewer or more than before."""
        if not self.is_initialized:  # as in transformers' own layers: one that shares another's has no keys
            return
        there = self.keys.shape[0]
        if len(rows) > there:
            self.all_keys, self.all_values = self.all_keys[rows], self.all_values[rows]
        else:
            moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
            self.all_keys[moved, :, : self.filled] = self.keys[rows[moved]]
            self.all_values[moved, :, : self.filled] = self.values[rows[moved]]
        self._view(len(rows))

    def _view(self, rows: int) -> None:
        self.keys = self.all_keys[:rows, :, : self.filled]
        self.values = self.all_values[:rows, :, : self.filled]


def new_cache(model: PreTrainedModel, longest: int) -> Cache:
    """Return an empty cache for `model` with room for `longest` tokens, of its own kind if it has one."""
    if hasattr(model, "new_cache"):
        return model.new_cache(longest)
    return RoomyCache(model.config, longest)


class RoomyCache(DynamicCache):  # type: ignore[misc]
    """The cache of a model with room for `longest` tokens, prompt and response together."""

    def __init__(self, config: PretrainedConfig, longest: int) -> None:
        super().__init__(config=config)
        for place, layer in enumerate(self.layers):
            if type(layer) is DynamicLayer:
                self.layers[place] = RoomyLayer(longest)

    def keep(self, rows: torch.Tensor) -> None:
        """Let row i become what row `rows[i]` was."""
        for layer in self.layers:
            if isinstance(layer, RoomyLayer):
                layer.keep(rows)
            else:
                layer.reorder_cache(rows)  # unlike batch_select_indices, recurrent layers have it
