"""The SFT policy's own answers, which say what unit a reward has: it is centred, and measured, on them."""

from collections.abc import Sequence
from itertools import islice

import torch

from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, stop_tokens
from plumbline.lm.sampling import Response, sample_all
from plumbline.preferences.types import Prompt

BATCH = 64
"""Answers that are sampled together."""
Answered = tuple[list[int], Response]
"""The ids of a prompt, and an answer to it."""


def finished_answers(
    sft: LanguageModel, prompts: Sequence[Prompt], samples: int, seed: int, *, max_prompt: int,
    max_response: int, temperature: float, room: str = "ppo.max_prompt",
) -> list[Answered]:
    """Return those of `samples` answers of `sft`, to random prompts, that end.

    Prompts longer than `max_prompt` tokens, which `room` names in a message, are passed over; if those that
    fit are fewer than `samples`, they are asked again. No more are encoded than it takes. Raises UserError if
    none fits.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(prompts), generator=generator).numpy()
    encoded = (encode_prompt(sft.tokenizer, prompts[int(number)]) for number in order)
    fitting = list(islice((ids for ids in encoded if len(ids) <= max_prompt), samples))
    if not fitting:
        raise UserError(f"None of the {len(prompts)} prompts fits {room} = {max_prompt} tokens. Raise it.")
    asked = [fitting[i % len(fitting)] for i in range(samples)]
    answers = sample_all(sft.model, asked, max_response=max_response,
                         stop=stop_tokens(sft.tokenizer, sft.model), temperature=temperature,
                         generator=generator, batch_size=BATCH)
    return [(prompt, answer) for prompt, answer in zip(asked, answers, strict=True) if answer.stopped]
