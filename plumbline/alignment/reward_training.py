"""Train a reward model on comparisons: the Bradley-Terry loss, -log sigmoid(r_chosen - r_rejected) (Christiano et al.
2017, equation 1), as softplus so that it stays finite. A tie is half a win for each side.

Pairs that truncation makes identical teach nothing (loss ln 2, gradient 0): they are dropped and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import softplus

from plumbline.alignment.reward import RewardModel, last_scores
from plumbline.config import RewardModel as RewardParams
from plumbline.errors import UserError
from plumbline.lm.optim import Report, adamw, autocast, linear_schedule, require_finite
from plumbline.lm.template import rearranged
from plumbline.preferences.types import Comparison

STRETCH = 8


@dataclass(frozen=True)
class Pair:
    """Two conversations as ids; `first_wins` is 1, 0, or 0.5 for a tie."""

    first: list[int]
    second: list[int]
    first_wins: float


def train_reward_model(
    reward: RewardModel,
    train: Sequence[Comparison],
    validation: Sequence[Comparison],
    params: RewardParams,
    seed: int,
    report: Report,
) -> dict[str, float]:
    """Train `reward` in place. Returns validation loss and accuracy, and how many pairs were used and dropped; the
    accuracy is left out where every validation pair is a tie.

    Raises UserError if truncation leaves no pair to learn from, and when the training diverges.
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
    steps = max(1, round(params.epochs * -(-len(pairs) // params.batch_size)))
    generator = torch.Generator().manual_seed(seed)
    batches: list[list[int]] = []
    for step in range(steps):
        batches = batches or shuffled_batches(pairs, params.batch_size, generator)
        batch = batches.pop()
        optimizer.param_groups[0]["lr"] = params.learning_rate * linear_schedule(step, steps, params.warmup)
        measured = _step(reward, [pairs[i] for i in batch], params)
        measured["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        require_finite(measured, "reward_model", f"step {step + 1} of {steps}")
        optimizer.step()
        optimizer.zero_grad()
        report(step + 1, steps, measured)
    if held:
        metrics |= {f"validation_{name}": value for name, value in evaluate(reward, held, params).items()}
        require_finite(metrics, "reward_model", "the end")
    return metrics | {"steps": steps}


def encode(reward: RewardModel, comparisons: Sequence[Comparison]) -> list[Pair]:
    """Both conversations of each comparison, cut as for scoring; pairs that became identical are left out."""
    wins = {"A": 1.0, "B": 0.0, "tie": 0.5}
    pairs = [Pair(reward.encode(c.prompt, c.responses[0]), reward.encode(c.prompt, c.responses[1]), wins[c.label])
             for c in comparisons]
    return [pair for pair in pairs if pair.first != pair.second]


def shuffled_batches(pairs: Sequence[Pair], size: int, generator: torch.Generator) -> list[list[int]]:
    """Indices of all pairs in random batches of similar length: pairs are sorted by length within random stretches of
    `STRETCH` batches, which halves the padding, and the batches are shuffled again."""
    order = torch.randperm(len(pairs), generator=generator).tolist()
    batches = []
    for start in range(0, len(order), STRETCH * size):
        stretch = sorted(order[start : start + STRETCH * size],
                         key=lambda i: max(len(pairs[i].first), len(pairs[i].second)))
        batches += [stretch[i : i + size] for i in range(0, len(stretch), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def bradley_terry(difference_B: torch.Tensor, first_wins_B: torch.Tensor) -> torch.Tensor:
    """Cross-entropy [B] between the observed outcome and sigmoid(difference)."""
    return first_wins_B * softplus(-difference_B) + (1 - first_wins_B) * softplus(difference_B)


@torch.no_grad()
def evaluate(reward: RewardModel, pairs: Sequence[Pair], params: RewardParams) -> dict[str, float]:
    """Mean `loss` and `accuracy` over examples; ties do not count for accuracy, equal scores count half."""
    losses, right, decided = 0.0, 0.0, 0
    for start in range(0, len(pairs), params.micro_batch_size):
        loss, hits, n = _forward(reward, pairs[start : start + params.micro_batch_size], params)
        losses, right, decided = losses + float(loss), right + hits, decided + n
    return _means(losses, len(pairs), right, decided)


def _step(reward: RewardModel, batch: Sequence[Pair], params: RewardParams) -> dict[str, float]:
    """Accumulate the gradient of the mean loss. Returns that loss, and the accuracy."""
    total, right, decided = 0.0, 0.0, 0
    for start in range(0, len(batch), params.micro_batch_size):
        loss, hits, n = _forward(reward, batch[start : start + params.micro_batch_size], params)
        (loss / len(batch)).backward()
        total, right, decided = total + float(loss.detach()), right + hits, decided + n
    return _means(total, len(batch), right, decided)


def _means(loss: float, pairs: int, right: float, decided: int) -> dict[str, float]:
    """Of ties alone there is no accuracy."""
    return {"loss": loss / pairs, **({"accuracy": right / decided} if decided else {})}


def _forward(reward: RewardModel, batch: Sequence[Pair], params: RewardParams) -> tuple[torch.Tensor, float, int]:
    """Sum of losses, number right (equal scores count half), number of comparisons that are not ties."""
    # One forward for both sides: they share their lengths more than two random conversations do.
    with autocast(params.precision):
        scores = last_scores(reward.model, [pair.first for pair in batch] + [pair.second for pair in batch])
    difference_B = scores[: len(batch)] - scores[len(batch) :]
    wins_B = torch.tensor([pair.first_wins for pair in batch], device=difference_B.device)
    decided_B = wins_B != 0.5
    right_B = torch.where(difference_B == 0, 0.5, ((difference_B > 0) == (wins_B == 1)).float())
    return bradley_terry(difference_B, wins_B).sum(), float(right_B[decided_B].sum()), int(decided_B.sum())
