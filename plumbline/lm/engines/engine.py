"""What every engine does: it samples responses with the weights that a model has now."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from transformers import PreTrainedModel

from plumbline.lm.sampling import Response, shared, uniforms


class Engine(Protocol):
    """Samples responses that end at one of the same stop tokens."""

    @property
    def part(self) -> int:
        """Return how many responses to ask for at once where there are very many: enough for the weights to
        be worth handing over, few enough to see the work go on.
        """

    def sample(
        self, model: PreTrainedModel, prompts: Sequence[list[int]], uniform_BR: torch.Tensor,
        temperature: float, batch_size: int | None = None,
    ) -> list[Response]:
        """Sample one response of at most R tokens to each prompt with the weights of `model`, and return them
        in the order of the prompts, with the log-probabilities that their tokens were drawn with.
        Temperature 0 is greedy, and its log-probabilities are 0.

        Row i of `uniform_BR` (see `sampling.uniforms`) alone decides what is drawn for prompt i, whichever
        other rows there are. `batch_size` is how many are sampled together, in the order of their lengths, by
        an engine that has to be told; None is all, in the order in which they came.

        Each of several ranks has an engine, and asks it for its own rows (`sampling.shared`).
        """

    def name(self) -> str:
        """Return what samples, with its version if it is not ours."""


def sample_by(
    engine: Engine,
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    max_response: int,
    temperature: float,
    generator: torch.Generator,
    batch_size: int | None = None,
) -> list[Response]:
    """Let the engine sample one response of at most `max_response` tokens to each prompt, which the ranks
    share; see `Engine.sample`. `generator` is a CPU generator, from which each row gets its random numbers.
    """
    uniform_BR = uniforms(len(prompts), max_response, generator)
    return shared(prompts, uniform_BR, partial(
        engine.sample, model, temperature=temperature, batch_size=batch_size))
