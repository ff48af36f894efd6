"""Several answers to one prompt in one row, so that the prompt is read once.

A row holds the prompt and then its answers. Each answer sees the prompt and itself, and its positions go on
from the prompt's, so that every token is what it is with the prompt and its own answer alone. Whether an
architecture keeps to the mask is tried on a small twin of the model. The mask stands in place of a sliding
window, too, so answers to conversations that are longer than one have a row each.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel

from plumbline.lm.examination import twin
from plumbline.lm.hidden import hidden_states
from plumbline.lm.sampling import right_pad

LEAST_SAVED = 0.2
"""Share of the tokens that must be spared: the mask costs something, too."""
WINDOWS = ("sliding_window", "attention_chunk_size")
"""What configurations call the number of tokens that some of their layers look back at."""
_tried: dict[str, bool] = {}
"""Whether an architecture shares prompts, by its configuration."""
Answers = tuple[list[int], list[list[int]]]
"""A prompt and its answers, as ids."""


@dataclass(frozen=True)
class AnswerStates:
    """The hidden states of N answers' tokens, padded on the right to R."""

    before_NRD: torch.Tensor
    """Of the token before each: from it the token is chosen."""
    last_ND: torch.Tensor
    """Of each answer's last token."""
    ids_NR: torch.Tensor
    mask_NR: torch.Tensor


def answer_states(model: PreTrainedModel, elements: Sequence[Answers]) -> AnswerStates:
    """Return the states of all answers, in their order; a prompt is read once where that spares enough."""
    if _saved(elements) < LEAST_SAVED or _longest(elements) > _window(model.config):
        return apart(model.base_model, elements)
    key = model.config.to_json_string()
    if key not in _tried:
        _tried[key] = shares_prompts(model.config)
    return (branched if _tried[key] else apart)(model.base_model, elements)


def apart(body: PreTrainedModel, elements: Sequence[Answers]) -> AnswerStates:
    """Return the states of answers that have a row each."""
    return _states(body, [(prompt, [answer]) for prompt, answers in elements for answer in answers], False)


def branched(body: PreTrainedModel, elements: Sequence[Answers]) -> AnswerStates:
    """Return the states of answers that are in one row with their prompt."""
    return _states(body, elements, True)


@torch.no_grad()
def shares_prompts(config: PretrainedConfig) -> bool:
    """True if answers in one row are in this architecture what they are alone."""
    body = twin(config).base_model
    elements = [([9, 10, 11, 12], [[13, 14, 15], [16], [17, 18]]), ([20, 21], [[22], [23, 24, 25, 26]])]
    try:
        found = branched(body, elements)
    except (ValueError, TypeError, RuntimeError, IndexError):  # a mask of another form than this one takes
        return False
    alone = apart(body, elements)
    real_NR = alone.mask_NR.bool()
    differences = (found.before_NRD - alone.before_NRD)[real_NR], found.last_ND - alone.last_ND
    return all(bool(one.abs().max() < 1e-3 * alone.last_ND.abs().mean()) for one in differences)


def _saved(elements: Sequence[Answers]) -> float:
    """Return the share of the tokens that are spared when each prompt is read once."""
    one_each = sum(len(prompt) + len(answer) for prompt, answers in elements for answer in answers)
    together = sum(len(prompt) + sum(map(len, answers)) for prompt, answers in elements)
    return 1 - together / one_each


def _longest(elements: Sequence[Answers]) -> int:
    """Return the tokens of the longest prompt with one of its answers."""
    return max(len(prompt) + len(answer) for prompt, answers in elements for answer in answers)


def _window(config: PretrainedConfig) -> float:
    """Return the smallest window of the configuration, in tokens, whether layers use it or not; infinite if
    there is none.
    """
    values = config.get_text_config().to_dict()
    return min((values[name] for name in WINDOWS if values.get(name)), default=math.inf)


def _states(body: PreTrainedModel, elements: Sequence[Answers], several: bool) -> AnswerStates:
    """Return the states of the answers in rows; those with one answer each need no mask of their own."""
    rows, positions, segments, places = [], [], [], []
    for row, (prompt, answers) in enumerate(elements):
        ids, at, segment = list(prompt), list(range(len(prompt))), [0] * len(prompt)
        for number, answer in enumerate(answers, start=1):
            # The first token is chosen from the prompt's end, each other one from the token before it.
            start = len(ids)
            places.append((row, [len(prompt) - 1, *range(start, start + len(answer))]))
            ids += answer
            at += range(len(prompt), len(prompt) + len(answer))
            segment += [number] * len(answer)
        rows.append(ids)
        positions.append(at)
        segments.append(segment)

    ids_BT, mask_BT = (padded.to(body.device) for padded in right_pad(rows, pad=0))
    if several:
        segment_BT = right_pad(segments, pad=-1)[0].to(body.device)
        hidden_BTD = body(
            input_ids=ids_BT, attention_mask=_visible(segment_BT), use_cache=False,
            position_ids=right_pad(positions, pad=0)[0].to(body.device)).last_hidden_state
    else:
        hidden_BTD = hidden_states(body, ids_BT, mask_BT)

    at_NS, real_NS = (padded.to(body.device) for padded in right_pad([at for _, at in places], pad=0))
    row_N1 = torch.tensor([[row] for row, _ in places], device=body.device)
    states_NSD = hidden_BTD[row_N1, at_NS]
    last_N = real_NS.sum(1) - 1
    answers = [answer for _, answers in elements for answer in answers]
    ids_NR, mask_NR = (padded.to(body.device) for padded in right_pad(answers, pad=0))
    return AnswerStates(states_NSD[:, :-1], states_NSD[torch.arange(len(places)), last_N], ids_NR, mask_NR)


def _visible(segment_BT: torch.Tensor) -> torch.Tensor:
    """Return which tokens each sees, [B, 1, T, T]: earlier ones of the prompt (0) and of its own answer."""
    same = segment_BT[:, :, None] == segment_BT[:, None, :]
    prompt = (segment_BT == 0)[:, None, :]
    earlier = torch.ones(same.shape[1:], dtype=torch.bool, device=same.device).tril()
    return ((same | prompt) & earlier)[:, None]
