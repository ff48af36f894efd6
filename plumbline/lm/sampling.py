"""Sampling responses, a batch at a time.

Departures from transformers' `generate`: the result is token ids, never text; positions are counted over real
tokens, so that left padding changes nothing; and finished rows leave the batch, so that they cost nothing
while longer ones go on. Sampling is from the full distribution at a temperature: with a truncated one (top-k,
top-p) the log-probabilities that PPO computes would be wrong.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache, PreTrainedModel

from plumbline.errors import UserError


@dataclass(frozen=True)
class Response:
    """A sampled response. `ids` ends with a stop token if `stopped`, otherwise at the longest length."""

    ids: list[int]
    stopped: bool
    log_probs: Sequence[float] = field(default=(), compare=False, repr=False)
    """Log-probability, in nats, of each id when it was drawn: 0 for greedy ones. Empty if not known."""


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    max_response: int,
    stop: int | Collection[int],
    temperature: float,
    generator: torch.Generator,
) -> list[Response]:
    """Sample one response of at most `max_response` tokens to each prompt; temperature 0 is greedy.

    `stop` is the id, or all ids, at which a response ends. `generator` is a CPU generator: the same seed
    gives the same responses on the same machine. Raises UserError if the model's logits are not numbers.
    """
    ids_BT, mask_BT = (padded.to(model.device) for padded in left_pad(prompts, pad=0))
    cache = model.new_cache() if hasattr(model, "new_cache") else DynamicCache(config=model.config)
    ends = {stop} if isinstance(stop, int) else set(stop)
    responses: list[list[int]] = [[] for _ in prompts]
    log_probs: list[list[float]] = [[] for _ in prompts]
    active = list(range(len(prompts)))
    inputs = {"input_ids": ids_BT, "position_ids": positions(mask_BT)}
    for _ in range(max_response):
        # One token for every row that has not ended.
        logits_BV = model(**inputs, attention_mask=mask_BT, past_key_values=cache, use_cache=True,
                          logits_to_keep=1).logits[:, -1].float().cpu()
        token_B = draw(logits_BV, temperature, generator)
        drawn = zip(active, token_B.tolist(), _log_probs(logits_BV, token_B, temperature), strict=True)
        keep = []
        for row, (index, token, log_prob) in enumerate(drawn):
            responses[index].append(token)
            log_probs[index].append(log_prob)
            if token not in ends:
                keep.append(row)
        if not keep:
            break

        # The tokens just drawn are the next inputs; rows that ended leave the batch and the cache.
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(active), 1)], dim=1)
        if len(keep) < len(active):
            rows = torch.tensor(keep, device=model.device)
            cache.reorder_cache(rows)  # unlike batch_select_indices, recurrent layers have it
            mask_BT = mask_BT[rows]
            token_B = token_B[keep]
            active = [active[row] for row in keep]
        inputs = {"input_ids": token_B[:, None].to(model.device),
                  "position_ids": mask_BT.sum(1, keepdim=True) - 1}
    return [Response(ids, ids[-1] in ends, each) for ids, each in zip(responses, log_probs, strict=True)]


def sample_all(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    max_response: int,
    stop: int | Collection[int],
    temperature: float,
    generator: torch.Generator,
    batch_size: int,
) -> list[Response]:
    """Sample one response to each prompt, in batches of prompts of similar length; see `sample`.

    Returns the responses in the order of the prompts.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, Response] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = sample(model, [prompts[i] for i in rows], max_response=max_response, stop=stop,
                       temperature=temperature, generator=generator)
        found.update(zip(rows, batch, strict=True))
    return [found[i] for i in range(len(prompts))]


def left_pad(rows: Sequence[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids [B, T] padded on the left, and their mask [B, T]: 1 at real tokens, whatever `pad` is."""
    longest = max(map(len, rows))
    ids_BT = torch.full((len(rows), longest), pad)
    mask_BT = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        if row:
            ids_BT[i, -len(row) :] = torch.tensor(row)
            mask_BT[i, -len(row) :] = 1
    return ids_BT, mask_BT


def right_pad(rows: Sequence[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids [B, T] padded on the right, and their mask [B, T]: 1 at real tokens."""
    longest = max(map(len, rows))
    ids_BT = torch.full((len(rows), longest), pad)
    mask_BT = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        ids_BT[i, : len(row)] = torch.tensor(row)
        mask_BT[i, : len(row)] = 1
    return ids_BT, mask_BT


def positions(mask_BT: torch.Tensor) -> torch.Tensor:
    """Return positions [B, T] counted over real tokens only, so that padding does not move them."""
    return (mask_BT.cumsum(1) - 1).clamp(min=0)


def draw(logits_BV: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    """Draw a token [B] for each row of fp32 logits on the CPU; take the likeliest at temperature 0.

    Raises UserError if a row's largest logit is infinite or not a number.
    """
    # A logit of -inf is no fault, some models rule tokens out by it; a row of them is.
    if not bool(logits_BV.amax(-1).isfinite().all()):
        raise UserError("The model's logits are infinite or not a number, so there is nothing to sample "
                        "from: its training diverged. Lower the learning rate of the stage that made it, or "
                        "set precision: fp32 if it is bf16.")
    if temperature == 0:
        return logits_BV.argmax(-1)
    return torch.multinomial((logits_BV / temperature).softmax(-1), 1, generator=generator).squeeze(1)


def _log_probs(logits_BV: torch.Tensor, token_B: torch.Tensor, temperature: float) -> list[float]:
    """Return the log-probability with which each token was drawn."""
    if temperature == 0:
        return [0.0] * len(token_B)
    found: list[float] = (logits_BV / temperature).log_softmax(-1).gather(1, token_B[:, None])[:, 0].tolist()
    return found
