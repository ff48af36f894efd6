"""Sampling responses, a batch at a time.

Departures from transformers' `generate`: the result is token ids, never text; positions are counted over real
tokens, so that left padding changes nothing; equal prompts are read once; finished rows leave the batch, so
that they cost nothing while longer ones go on; and each row has random numbers of its own, one a token, so
that a row's response does not depend on the others in its batch, but for the last digits of the logits.
Sampling is from the full distribution at a temperature: with a truncated one (top-k, top-p) the
log-probabilities that PPO computes would be wrong.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from transformers import PreTrainedModel

from plumbline.errors import UserError
from plumbline.lm.cache import RoomyCache, new_cache
from plumbline.lm.ranks.world import world

STEPS_UNSEEN = 8
"""Tokens drawn on an accelerator before the host looks which rows have ended, for which it has to wait."""


@dataclass(frozen=True)
class Response:
    """A sampled response. `ids` ends with a stop token if `stopped`, otherwise at the longest length."""

    ids: list[int]
    stopped: bool
    log_probs: Sequence[float] = field(default=(), compare=False, repr=False)
    """Log-probability, in nats, of each id when it was drawn: 0 for greedy ones. Empty if not known."""


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
    uniform_BR = uniforms(len(prompts), max_response, generator)
    return shared(prompts, uniform_BR, partial(sample_with, model, stop=stop, temperature=temperature))


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
    uniform_BR = uniforms(len(prompts), max_response, generator)
    return shared(prompts, uniform_BR, partial(
        sample_with, model, stop=stop, temperature=temperature, batch_size=batch_size))


def shared(
    prompts: Sequence[list[int]], uniform_BR: torch.Tensor,
    sample_mine: Callable[[list[list[int]], torch.Tensor], list[Response]],
) -> list[Response]:
    """Return the responses to all prompts, of which each rank samples some with their random numbers.

    All ranks have to call it, and a model that samples is whole on each.
    """
    here = world()
    mine = here.mine(prompts)
    return here.gathered(sample_mine(mine, uniform_BR[here.share]) if mine else [])


def sample_with(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    uniform_BR: torch.Tensor,
    *,
    stop: int | Collection[int],
    temperature: float,
    batch_size: int | None = None,
) -> list[Response]:
    """Sample as `sample_all` does, or as `sample` without a `batch_size`, with given random numbers, one for
    each token; but all prompts on this rank.
    """
    if batch_size is None:
        return _sample(model, prompts, uniform_BR, stop, temperature)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, Response] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = _sample(model, [prompts[i] for i in rows], uniform_BR[rows], stop, temperature)
        found.update(zip(rows, batch, strict=True))
    return [found[i] for i in range(len(prompts))]


@torch.no_grad()
def _sample(
    model: PreTrainedModel, prompts: Sequence[list[int]], uniform_BR: torch.Tensor,
    stop: int | Collection[int], temperature: float,
) -> list[Response]:
    """Sample with the random numbers `uniform_BR`, one for each token."""
    device, max_response = model.device, uniform_BR.shape[1]
    ends = torch.tensor(sorted({stop} if isinstance(stop, int) else set(stop)), device=device)
    mask_BT, cache, logits_BV = _read(model, prompts, max_response)
    uniform_BR = uniform_BR.to(device)
    token_BR = torch.zeros(len(prompts), max_response, dtype=torch.long, device=device)
    log_prob_BR = torch.zeros(len(prompts), max_response, device=device)
    # The rows that go on, by their place; they may change their order.
    active = torch.arange(len(prompts), device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    all_sound = torch.tensor(True, device=device)
    for t in range(max_response):
        all_sound &= sound(logits_BV)
        token_B, log_prob_B = draw(logits_BV, temperature, uniform_BR[active, t])
        token_BR[active, t], log_prob_BR[active, t] = token_B, log_prob_B
        ended |= torch.isin(token_B, ends)
        if t + 1 == max_response:
            break

        # Rows that ended leave the batch and the cache; the tokens just drawn are the next inputs.
        if device.type == "cpu" or (t + 1) % STEPS_UNSEEN == 0:
            require_sound(all_sound)
            rows = _closed_up(ended)
            if len(rows) == 0:
                break
            if len(rows) < len(active):
                cache.keep(rows)
                active, token_B, mask_BT, ended = active[rows], token_B[rows], mask_BT[rows], ended[rows]
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(active), 1)], dim=1)
        logits_BV = model(
            input_ids=token_B[:, None], position_ids=mask_BT.sum(1, keepdim=True) - 1, attention_mask=mask_BT,
            past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()
    require_sound(all_sound)
    return _responses(token_BR, log_prob_BR, ends)


def _read(
    model: PreTrainedModel, prompts: Sequence[list[int]], max_response: int
) -> tuple[torch.Tensor, RoomyCache, torch.Tensor]:
    """Let the model read the prompts, equal ones once; return their mask [B, T], the cache of all, and the
    logits [B, V] of the first token.
    """
    places: dict[tuple[int, ...], int] = {}
    row_of = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
    ids_BT, mask_BT = (padded.to(model.device) for padded in left_pad([list(ids) for ids in places], pad=0))
    cache = new_cache(model, ids_BT.shape[1] + max_response)
    logits_BV = model(
        input_ids=ids_BT, position_ids=positions(mask_BT), attention_mask=mask_BT, past_key_values=cache,
        use_cache=True, logits_to_keep=last_places(ids_BT, 1)).logits[:, -1].float()
    if len(places) < len(prompts):
        rows = torch.tensor(row_of, device=model.device)
        cache.keep(rows)
        mask_BT, logits_BV = mask_BT[rows], logits_BV[rows]
    return mask_BT, cache, logits_BV


def _closed_up(ended: torch.Tensor) -> torch.Tensor:
    """Return the rows that go on: in their places, but for those from the end that fill the gaps."""
    left = int((~ended).sum())
    rows = torch.arange(left, device=ended.device)
    gaps, movers = ended[:left].nonzero()[:, 0], left + (~ended[left:]).nonzero()[:, 0]
    rows[gaps] = movers
    return rows


def _responses(token_BR: torch.Tensor, log_prob_BR: torch.Tensor, ends: torch.Tensor) -> list[Response]:
    """Return each row up to its first stop token."""
    found = []
    is_end_BR = torch.isin(token_BR, ends)
    lengths = torch.where(is_end_BR.any(1), is_end_BR.long().argmax(1) + 1, token_BR.shape[1]).tolist()
    rows = zip(token_BR.tolist(), log_prob_BR.tolist(), lengths, is_end_BR.any(1).tolist(), strict=True)
    for ids, log_probs, length, stopped in rows:
        found.append(Response(ids[:length], stopped, log_probs[:length]))
    return found


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


def last_places(ids_BT: torch.Tensor, count: int) -> torch.Tensor:
    """Return the last `count` places of the rows, for the `logits_to_keep` of a model's forward pass.

    Given as a number they become a view, whose product with an output layer that does not learn copies the
    layer's weights once a row: 3.6 GB and nine seconds for 64 rows of SmolLM2-135M in bf16.
    """
    length = ids_BT.shape[1]
    return torch.arange(length - count, length, device=ids_BT.device)


def uniforms(rows: int, tokens: int, generator: torch.Generator) -> torch.Tensor:
    """Return a random number from 0 to 1 for each token of each row; [rows, tokens], on the CPU."""
    return torch.rand(rows, tokens, generator=generator)


def seed_named(seed: int, name: str) -> int:
    """Return a seed of its own for whatever has this name: 32 bits of a digest."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:4], "big")


def sound(logits_BV: torch.Tensor) -> torch.Tensor:
    """Return whether each row has a number as its largest logit, as one truth value on the device.

    A logit of -inf is no fault, some models rule tokens out by it; a row of them is.
    """
    return logits_BV.amax(-1).isfinite().all()


def require_sound(all_sound: torch.Tensor) -> None:
    """Raise UserError if `sound` was not true."""
    if not bool(all_sound):
        raise UserError("The model's logits are infinite or not a number, so there is nothing to sample "
                        "from: its training diverged. Lower the learning rate of the stage that made it, or "
                        "set precision: fp32 if it is bf16.")


def draw(
    logits_BV: torch.Tensor, temperature: float, uniform_B: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a token [B] for each row of fp32 logits, and the log-probability, in nats, of drawing it.

    It is the first token at which the cumulated probability exceeds the row's uniform number; at temperature
    0 it is the likeliest, with log-probability 0.
    """
    if temperature == 0:
        return logits_BV.argmax(-1), torch.zeros(len(logits_BV), device=logits_BV.device)
    probability_BV = (logits_BV / temperature).softmax(-1)
    cumulated_BV = probability_BV.cumsum(-1)
    # To the right of equal ones: a token of probability 0 is never drawn.
    wanted_B1 = uniform_B[:, None] * cumulated_BV[:, -1:]
    token_B1 = torch.searchsorted(cumulated_BV, wanted_B1, right=True).clamp(max=logits_BV.shape[1] - 1)
    return token_B1[:, 0], probability_BV.gather(1, token_B1)[:, 0].log()
