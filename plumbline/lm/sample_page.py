"""A page of samples: what the models say to a few prompts, for a person to read."""

from collections.abc import Mapping, Sequence

import torch

from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import decode_response, encode_prompt, stop_token
from plumbline.lm.sampling import sample_all
from plumbline.preferences.types import Prompt


def respond(
    lm: LanguageModel, prompts: Sequence[Prompt], *, max_response: int, temperature: float, seed: int,
    batch_size: int = 64,
) -> list[str]:
    """One response, as text, to each prompt."""
    generator = torch.Generator().manual_seed(seed)
    responses = sample_all(lm.model, [encode_prompt(lm.tokenizer, prompt) for prompt in prompts],
                           max_response=max_response, stop=stop_token(lm.tokenizer), temperature=temperature,
                           generator=generator, batch_size=batch_size)
    return [decode_response(lm.tokenizer, response.ids) for response in responses]


def samples_page(prompts: Sequence[Prompt], answers: Mapping[str, Sequence[str]]) -> str:
    """Markdown with the answers of each model under each prompt, quoted so that they cannot pass for part of it."""
    parts = ["# Samples"]
    for i, prompt in enumerate(prompts):
        parts.append(f"## {i + 1}\n\n" + "\n\n".join(f"**{turn.role}**\n\n{_quote(turn.content)}" for turn in prompt))
        parts += [f"**→ {name}**\n\n{_quote(texts[i])}" for name, texts in answers.items()]
    return "\n\n".join(parts) + "\n"


def _quote(text: str) -> str:
    fence = "~" * max(3, 1 + max((len(run) for run in text.split() if set(run) == {"~"}), default=0))
    return f"{fence}text\n{text}\n{fence}"
