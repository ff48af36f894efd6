"""Train a reward model on comparisons with the Bradley-Terry loss, -log sigmoid(r_chosen - r_rejected)
(Christiano et al. 2017, arXiv 1706.03741, equation 1), computed as softplus so that it stays finite.

A tie counts as half a win for each side. Pairs that truncation makes identical teach nothing (loss ln 2,
gradient 0): they are dropped and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import softplus

from plumbline.alignment.reward import RewardModel, last_scores
from plumbline.config import PpoParams, RewardModelParams
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, stop_token
from plumbline.lm.optim import ReportStep, adamw, autocast, linear_schedule, require_finite
from plumbline.lm.sampling import sample_all
from plumbline.lm.template import rearranged
from plumbline.preferences.types import Comparison, Prompt

STRETCH = 8
"""Batches that are sorted by length together."""
CENTERING_BATCH = 64
"""Answers that are sampled together."""
SUMS = ("loss", "right", "decided")
"""Sums over micro-batches: the losses, the pairs that were right, the pairs that are no ties."""
FIRST_WINS = {"A": 1.0, "B": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class TokenizedComparison:
    """Two conversations as ids; `first_wins` is 1, 0, or 0.5 for a tie."""

    first: list[int]
    second: list[int]
    first_wins: float


def train_reward_model(
    reward: RewardModel, train: Sequence[Comparison], validation: Sequence[Comparison],
    params: RewardModelParams, seed: int, report: ReportStep,
) -> dict[str, float]:
    """Train `reward` in place.

    Returns validation loss (nats a pair) and accuracy, the steps, and the pairs used and dropped; the
    accuracy is left out if every validation pair is a tie. Raises UserError if truncation leaves no pair to
    learn from, and if the training diverges.
    """
    torch.manual_seed(seed)
    pairs, held = encode(reward, train), encode(reward, validation)
    if not pairs:
        raise UserError(f"None of the {len(train)} comparisons differs within reward_model.max_length = "
                        f"{params.max_length} tokens. Raise it.")
    metrics: dict[str, float] = {"pairs": len(pairs), "dropped_identical": len(train) - len(pairs)}
    if moved := rearranged(reward.tokenizer, [pair.prompt for pair in train]):
        metrics["system_before_user"] = moved

    model = reward.model.eval()  # no dropout: a reward model compares, and noise on either side only blurs it
    optimizer = adamw(model.parameters(), params.learning_rate)
    batches_an_epoch = -(-len(pairs) // params.batch_size)
    steps = max(1, round(params.epochs * batches_an_epoch))
    generator = torch.Generator().manual_seed(seed)
    batches: list[list[int]] = []
    for step in range(steps):
        batches = batches or shuffled_batches(pairs, params.batch_size, generator)  # a new epoch
        batch = [pairs[i] for i in batches.pop()]
        optimizer.param_groups[0]["lr"] = params.learning_rate * linear_schedule(step, steps, params.warmup)
        measured = accumulate_gradient(reward, batch, params)
        measured["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        require_finite(measured, "reward_model", f"step {step + 1} of {steps}")
        optimizer.step()
        optimizer.zero_grad()
        report(step + 1, steps, measured)

    if held:
        metrics |= {f"validation_{name}": value for name, value in evaluate(reward, held, params).items()}
        require_finite(metrics, "reward_model", "the end")
    return metrics | {"steps": steps}


def centre(
    reward: RewardModel, sft: LanguageModel, prompts: Sequence[Prompt], answering: PpoParams, samples: int,
    seed: int,
) -> dict[str, float]:
    """Centre `reward` on answers of `sft` to `samples` random prompts, sampled as PPO will sample.

    Only answers that end count: PPO gives the others no score. Returns `offset`, `std`, and the answers that
    were finished. Raises UserError if no prompt fits `ppo.max_prompt`, and if too few answers end.
    """
    generator = torch.Generator().manual_seed(seed)
    encoded = [ids for prompt in prompts
               if len(ids := encode_prompt(sft.tokenizer, prompt)) <= answering.max_prompt]
    if not encoded:
        raise UserError(f"None of the {len(prompts)} prompts fits ppo.max_prompt = {answering.max_prompt} "
                        "tokens. Raise it.")
    asked = [encoded[i] for i in torch.randperm(len(encoded), generator=generator)[:samples].tolist()]
    answers = sample_all(sft.model, asked, max_response=answering.max_response,
                         stop=stop_token(sft.tokenizer), temperature=answering.temperature,
                         generator=generator, batch_size=CENTERING_BATCH)
    finished = [prompt + answer.ids for prompt, answer in zip(asked, answers, strict=True) if answer.stopped]
    reward.centre(finished)
    return {"offset": reward.model.config.reward_offset, "std": reward.std,
            "centering_finished": len(finished)}


def encode(reward: RewardModel, comparisons: Sequence[Comparison]) -> list[TokenizedComparison]:
    """Encode both conversations of each comparison, cut as for scoring; drop pairs that became identical."""
    pairs = []
    for comparison in comparisons:
        first, second = (reward.encode(comparison.prompt, response) for response in comparison.responses)
        if first != second:
            pairs.append(TokenizedComparison(first, second, FIRST_WINS[comparison.label]))
    return pairs


def shuffled_batches(
    pairs: Sequence[TokenizedComparison], size: int, generator: torch.Generator
) -> list[list[int]]:
    """Divide the indices of all pairs into random batches of at most `size` pairs of similar length.

    Pairs are sorted by length within random stretches of `STRETCH` batches, which halves the padding, and the
    batches are shuffled again.
    """
    def longest(i: int) -> int:
        return max(len(pairs[i].first), len(pairs[i].second))

    order = torch.randperm(len(pairs), generator=generator).tolist()
    batches = []
    for start in range(0, len(order), STRETCH * size):
        stretch = sorted(order[start : start + STRETCH * size], key=longest)
        batches += [stretch[i : i + size] for i in range(0, len(stretch), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def bradley_terry(difference_B: torch.Tensor, first_wins_B: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy [B], in nats, between observed outcome and sigmoid(difference of rewards)."""
    return first_wins_B * softplus(-difference_B) + (1 - first_wins_B) * softplus(difference_B)


@torch.no_grad()
def evaluate(
    reward: RewardModel, pairs: Sequence[TokenizedComparison], params: RewardModelParams
) -> dict[str, float]:
    """Return mean `loss` and `accuracy`; the accuracy leaves ties out, and equal scores count half."""
    sums = dict.fromkeys(SUMS, 0.0)
    for start in range(0, len(pairs), params.micro_batch_size):
        _loss_sum(reward, pairs[start : start + params.micro_batch_size], params, sums)
    return _means(sums, len(pairs))


def accumulate_gradient(
    reward: RewardModel, batch: Sequence[TokenizedComparison], params: RewardModelParams
) -> dict[str, float]:
    """Add the gradient of the batch's mean loss, however it is split. Return `loss` and `accuracy`."""
    sums = dict.fromkeys(SUMS, 0.0)
    for start in range(0, len(batch), params.micro_batch_size):
        loss = _loss_sum(reward, batch[start : start + params.micro_batch_size], params, sums)
        (loss / len(batch)).backward()
    return _means(sums, len(batch))


def _means(sums: dict[str, float], pairs: int) -> dict[str, float]:
    """Return the mean loss of so many pairs, and the accuracy unless all of them are ties."""
    means = {"loss": sums["loss"] / pairs}
    if sums["decided"]:
        means["accuracy"] = sums["right"] / sums["decided"]
    return means


def _loss_sum(
    reward: RewardModel, batch: Sequence[TokenizedComparison], params: RewardModelParams,
    sums: dict[str, float],
) -> torch.Tensor:
    """Return the sum of the losses of a micro-batch, with its graph. Adds its figures to `sums`."""
    # One forward for both sides: they share their lengths more than two random conversations do.
    rows = [pair.first for pair in batch] + [pair.second for pair in batch]
    with autocast(params.precision):
        scores = last_scores(reward.model, rows)
    difference_B = scores[: len(batch)] - scores[len(batch) :]
    wins_B = torch.tensor([pair.first_wins for pair in batch], device=difference_B.device)
    loss = bradley_terry(difference_B, wins_B).sum()

    decided_B = wins_B != 0.5
    right_B = torch.where(difference_B == 0, 0.5, ((difference_B > 0) == (wins_B == 1)).float())
    for name, total in zip(SUMS, (loss, right_B[decided_B].sum(), decided_B.sum()), strict=True):
        sums[name] += float(total.detach())
    return loss
