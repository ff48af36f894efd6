"""The SFT policy's own answers, which say what unit a reward has: it is centred, and measured, on them."""

from collections.abc import Sequence

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
    max_response: int, temperature: float,
) -> list[Answered]:
    """Return those of `samples` answers of `sft`, to random prompts, that end.

    If the prompts are fewer, each is asked again. Raises UserError if no prompt fits `max_prompt`.
    """
    generator = torch.Generator().manual_seed(seed)
    encoded = [ids for prompt in prompts
               if len(ids := encode_prompt(sft.tokenizer, prompt)) <= max_prompt]
    if not encoded:
        raise UserError(f"None of the {len(prompts)} prompts fits ppo.max_prompt = {max_prompt} "
                        "tokens. Raise it.")
    order = torch.randperm(len(encoded), generator=generator).tolist()
    asked = [encoded[order[i % len(order)]] for i in range(samples)]
    answers = sample_all(sft.model, asked, max_response=max_response,
                         stop=stop_tokens(sft.tokenizer, sft.model), temperature=temperature,
                         generator=generator, batch_size=BATCH)
    return [(prompt, answer) for prompt, answer in zip(asked, answers, strict=True) if answer.stopped]
