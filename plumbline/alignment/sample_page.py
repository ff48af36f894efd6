"""A Markdown page of samples: the models' answers to a few prompts, for a person to read."""

from collections.abc import Mapping, Sequence

import torch

from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import decode_response, encode_prompt, stop_tokens
from plumbline.lm.sampling import sample_all
from plumbline.preferences.types import Prompt


def respond(
    lm: LanguageModel, prompts: Sequence[Prompt], *, max_response: int, temperature: float, seed: int,
    batch_size: int = 64,
) -> list[str]:
    """Sample one response, as text, to each prompt; `max_response` is in tokens."""
    ids = [encode_prompt(lm.tokenizer, prompt) for prompt in prompts]
    responses = sample_all(
        lm.model, ids, max_response=max_response, stop=stop_tokens(lm.tokenizer, lm.model),
        temperature=temperature, generator=torch.Generator().manual_seed(seed), batch_size=batch_size)
    return [decode_response(lm.tokenizer, response.ids) for response in responses]


def shorter(lm: LanguageModel, prompts: Sequence[Prompt], most: int) -> list[Prompt]:
    """Return the prompts of at most so many tokens."""
    return [prompt for prompt in prompts if len(encode_prompt(lm.tokenizer, prompt)) <= most]


def samples_page(prompts: Sequence[Prompt], answers: Mapping[str, Sequence[str]]) -> str:
    """Return Markdown with each model's answer under each prompt, quoted so that none can be markup."""
    parts = ["# Samples"]
    for i, prompt in enumerate(prompts):
        parts.append(f"## {i + 1}")
        parts += [f"**{turn.role}**\n\n{_quote(turn.content)}" for turn in prompt]
        parts += [f"**→ {name}**\n\n{_quote(texts[i])}" for name, texts in answers.items()]
    return "\n\n".join(parts) + "\n"


def _quote(text: str) -> str:
    tildes = [len(word) for word in text.split() if set(word) == {"~"}]
    fence = "~" * max(3, 1 + max(tildes, default=0))
    return f"{fence}text\n{text}\n{fence}"
