"""Our own sampler, in this process: from the very model that it is given, not from a copy."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from transformers import PreTrainedModel

from plumbline.lm.sampling import Response, sample_with


@dataclass(frozen=True)
class OwnEngine:
    """See `Engine`."""

    part: ClassVar[int] = 128
    stop: int | Collection[int]

    def sample(
        self, model: PreTrainedModel, prompts: Sequence[list[int]], uniform_BR: torch.Tensor,
        temperature: float, batch_size: int | None = None,
    ) -> list[Response]:
        """Sample one response to each prompt; see `Engine`.

        Raises UserError if the model's logits are not numbers.
        """
        return sample_with(model, prompts, uniform_BR, stop=self.stop, temperature=temperature,
                           batch_size=batch_size)

    def name(self) -> str:
        """Return the parameter's word for it."""
        return "own"
