"""What every engine does: it samples responses with the weights that a model has now."""

from collections.abc import Sequence
from typing import Protocol

import torch
from transformers import PreTrainedModel

from plumbline.lm.sampling import Response


class Engine(Protocol):
    """Samples at one temperature; a response ends at one of the same stop tokens."""

    def sample(
        self, model: PreTrainedModel, prompts: Sequence[list[int]], uniform_BR: torch.Tensor,
        batch_size: int | None = None,
    ) -> list[Response]:
        """Sample one response of at most R tokens to each prompt with the weights of `model`, and return them
        in the order of the prompts, with the log-probabilities that their tokens were drawn with.

        Row i of `uniform_BR` (see `sampling.uniforms`) alone decides what is drawn for prompt i, whichever
        other rows there are. `batch_size` is how many are sampled together, in the order of their lengths, by
        an engine that has to be told; None is all, in the order in which they came.

        Each of several ranks has an engine, and asks it for its own rows (`sampling.shared`).
        """

    def name(self) -> str:
        """Return what samples, with its version if it is not ours."""
