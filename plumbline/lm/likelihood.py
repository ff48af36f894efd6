"""What a language model thinks of given text, without sampling."""

from collections.abc import Sequence

import torch

from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, encode_response
from plumbline.lm.sampling import left_pad, positions, right_pad
from plumbline.preferences.types import Message, Prompt


@torch.no_grad()
def response_log_likelihoods(
    lm: LanguageModel,
    conversations: Sequence[tuple[Prompt, str]],
    batch_size: int = 16,
) -> list[float]:
    """Mean log-probability, in nats a token, of each response with its stop token, given its prompt."""
    rows = [(encode_prompt(lm.tokenizer, prompt), encode_response(lm.tokenizer, text))
            for prompt, text in conversations]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    found: dict[int, float] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        found.update(zip(batch, _batch(lm, [rows[i] for i in batch]), strict=True))
    return [found[i] for i in range(len(rows))]


def _batch(lm: LanguageModel, rows: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    prompt_BP, prompt_mask_BP = left_pad([prompt for prompt, _ in rows], pad=0)
    response_BR, mask_BR = right_pad([response for _, response in rows], pad=0)
    mask_BT = torch.cat([prompt_mask_BP, mask_BR], 1).to(lm.model.device)
    logits_BRV = lm.model(input_ids=torch.cat([prompt_BP, response_BR], 1).to(lm.model.device), attention_mask=mask_BT,
                          position_ids=positions(mask_BT), use_cache=False,
                          logits_to_keep=response_BR.shape[1] + 1).logits[:, :-1]
    log_probs_BR = logits_BRV.float().log_softmax(-1).gather(-1, response_BR[..., None].to(lm.model.device)).squeeze(-1)
    mask_BR = mask_BR.to(log_probs_BR.device)
    means: list[float] = ((log_probs_BR * mask_BR).sum(1) / mask_BR.sum(1)).tolist()
    return means


@torch.no_grad()
def next_token_log_probs(lm: LanguageModel, texts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
    """For each text, put as a user's message: the log-probability of the first token of each option as the answer."""
    # A chat template leaves the answer to begin at once, so the options count without the space before them.
    ids = [lm.tokenizer(option.strip(), add_special_tokens=False)["input_ids"][0] for option in options]
    found = []
    for text in texts:
        prompt = torch.tensor([encode_prompt(lm.tokenizer, (Message("user", text),))], device=lm.model.device)
        logits_V = lm.model(input_ids=prompt, use_cache=False, logits_to_keep=1).logits[0, -1].float()
        found.append(logits_V.log_softmax(-1)[ids].tolist())
    return found
