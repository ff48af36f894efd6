"""Likelihoods that a language model gives to texts, without sampling."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, encode_response
from plumbline.lm.sampling import last_places, left_pad, positions, right_pad
from plumbline.lm.source import context_of
from plumbline.preferences.types import Message, Prompt

TOKENS_A_BATCH = 2048
"""A token takes logits over the whole vocabulary: 0.2 MB for a vocabulary of 49,152."""

OnProgress = Callable[[int, int], None]


@torch.no_grad()
def response_log_likelihoods(
    lm: LanguageModel,
    conversations: Sequence[tuple[Prompt, str]],
    progress: OnProgress = lambda _done, _total: None,
) -> list[float]:
    """Return the mean log-probability, in nats a token, of each response with its stop token, given its
    prompt.

    `progress` is called with the responses done and their total. Raises UserError if a result is not a
    number.
    """
    rows = [(encode_prompt(lm.tokenizer, prompt), encode_response(lm.tokenizer, text))
            for prompt, text in conversations]
    found: dict[int, float] = {}
    for batch in _batches([len(prompt) + len(response) for prompt, response in rows]):
        for i, total in zip(batch, _batch(lm, [rows[i] for i in batch], 1.0), strict=True):
            found[i] = total / len(rows[i][1])
        progress(len(found), len(rows))
    _require_numbers(list(found.values()))
    return [found[i] for i in range(len(rows))]


@torch.no_grad()
def sampled_log_likelihoods(
    lm: LanguageModel, prompts: Sequence[list[int]], responses: Sequence[list[int]], temperature: float
) -> list[float]:
    """Return the log-probability, in nats, of each response's tokens together, as they were sampled.

    Logits are divided by `temperature`. Raises UserError if a result is not a number.
    """
    rows = list(zip(prompts, responses, strict=True))
    found: dict[int, float] = {}
    for batch in _batches([len(prompt) + len(response) for prompt, response in rows]):
        found.update(zip(batch, _batch(lm, [rows[i] for i in batch], temperature), strict=True))
    _require_numbers(list(found.values()))
    return [found[i] for i in range(len(rows))]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield batches of rows of similar length, at most TOKENS_A_BATCH with padding, or a single row."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[row] > TOKENS_A_BATCH:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _batch(
    lm: LanguageModel, rows: Sequence[tuple[list[int], list[int]]], temperature: float
) -> list[float]:
    """Return the log-probability, in nats, of each response in rows of (prompt, response)."""
    prompt_BP, prompt_mask_BP = left_pad([prompt for prompt, _ in rows], pad=0)
    response_BR, mask_BR = right_pad([response for _, response in rows], pad=0)
    ids_BT = torch.cat([prompt_BP, response_BR], 1).to(lm.model.device)
    mask_BT = torch.cat([prompt_mask_BP, mask_BR], 1).to(lm.model.device)
    logits_BRV = lm.model(
        input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions(mask_BT), use_cache=False,
        logits_to_keep=last_places(ids_BT, response_BR.shape[1] + 1)).logits[:, :-1]
    totals = []
    for logits_RV, (_, response) in zip(logits_BRV, rows, strict=True):
        # A row at a time: in fp32 all rows would not fit.
        logits_NV = logits_RV[: len(response)].float() / temperature
        chosen_N = logits_NV[torch.arange(len(response)), torch.tensor(response, device=logits_NV.device)]
        totals.append((chosen_N - logits_NV.logsumexp(-1)).sum().item())
    return totals


@torch.no_grad()
def next_token_log_probs(
    lm: LanguageModel, texts: Sequence[str], options: Sequence[str]
) -> list[list[float]]:
    """Return, for each text as a user's message, the log-probability (nats) of each option's first token as
    answer.

    Raises UserError if a text is longer than the model's context, before any is read, or if a result is not
    a number.
    """
    # After a chat template the answer begins at once, so the options lose the space before them.
    ids = [lm.tokenizer(option.strip(), add_special_tokens=False)["input_ids"][0] for option in options]
    asked = [encode_prompt(lm.tokenizer, (Message("user", text),)) for text in texts]
    longest, context = max(map(len, asked), default=0), context_of(lm.model.config)
    if context is not None and longest > context:
        raise UserError(f"The judge reads at most {context} tokens, but a question with a prompt and two "
                        f"answers has {longest}. Lower ppo.max_prompt or preference_eval.max_response, or "
                        "name a judge with a longer context in preference_eval.judges.")
    found = []
    for prompt in asked:
        ids_1T = torch.tensor([prompt], device=lm.model.device)
        logits_V = lm.model(input_ids=ids_1T, use_cache=False, logits_to_keep=1).logits[0, -1].float()
        found.append(logits_V.log_softmax(-1)[ids].tolist())
        _require_numbers(found[-1])
    return found


def _require_numbers(log_probs: Sequence[float]) -> None:
    broken = sum(math.isnan(value) for value in log_probs)
    if broken:
        raise UserError(f"{broken} of {len(log_probs)} log-probabilities are not a number, so the model "
                        "cannot tell which text is likelier: its training diverged, or its files are "
                        "damaged. Lower the learning rate of the stage that made it, or set precision: fp32 "
                        "if it is bf16.")
