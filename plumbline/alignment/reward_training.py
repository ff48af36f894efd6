"""Train a reward model on comparisons and rankings, which are sets of K responses to one prompt.

All pairs of a ranking are one element of a batch and share its weight (Ouyang et al. 2022, arXiv 2203.02155,
equation 1); `tokenized.py` says why, and what is dropped.

    loss of an element = mean over its pairs of -log sigmoid(r_better - r_worse - margin)

which for K = 2 is the Bradley-Terry loss (Christiano et al. 2017, arXiv 1706.03741, equation 1), computed as
softplus so that it stays finite. A tie counts as half a win for each side.

Preferences of some sources may be learnt first, as a course of their own (preference-model pretraining).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch.nn.functional import softplus

from plumbline.alignment.own_answers import finished_answers
from plumbline.alignment.reward import RewardModel, require_enough, scores_of
from plumbline.alignment.tokenized import (
    TokenizedPreference,
    TokenizedPreferences,
    encode,
    endless_batches,
    passes,
)
from plumbline.alignment.trunk import freeze_below, require_layers
from plumbline.config import PpoParams, RewardModelParams
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.branches import answer_states
from plumbline.lm.checkpoint import Checkpoint, Resumable, made_with
from plumbline.lm.optim import ReportStep, adamw, autocast, linear_schedule, require_finite
from plumbline.lm.ranks.sharding import clip_grad_norm, fill, inside, sharded
from plumbline.lm.ranks.world import world
from plumbline.preferences.lazy_rows import parted
from plumbline.preferences.types import Preference, Prompt

SUMS = ("loss", "right", "decided")
"""Sums over micro-batches: the elements' losses, the pairs that were right, the pairs that are no ties."""


def train_reward_model(
    reward: RewardModel, train: Sequence[Preference], validation: Sequence[Preference],
    params: RewardModelParams, seed: int, report: ReportStep, checkpoint_folder: Path,
) -> dict[str, float]:
    """Train `reward` in place; resume from a checkpoint in `checkpoint_folder` if there is one.

    Returns validation loss (nats a comparison, without margin and smoothing) and accuracy, the steps, and the
    pairs used and dropped; the accuracy is left out if every validation pair is a tie. Raises UserError if no
    pair is left to learn from, and if the training diverges.
    """
    torch.manual_seed(seed)
    courses, metrics = _courses(reward, train, params, checkpoint_folder)
    if params.pretrain_on:
        _, validation = _by_source(validation, params)
    held = encode(reward.tokenizer, validation, reward.max_length, checkpoint_folder / "validation")

    model = reward.model.eval()  # no dropout: a reward model compares, and noise on either side only blurs it
    if params.top_layers is not None:
        require_layers(model, params.top_layers, "reward_model.top_layers")
        freeze_below(model, params.top_layers)
        model.score.requires_grad_(True)
    learning = replace(reward, model=sharded(model))
    model = learning.model
    optimizer = adamw((weight for weight in model.parameters() if weight.requires_grad), params.learning_rate)
    steps = sum(course.steps for course in courses)
    data = [course.taught.elements.digest for course in courses]
    checkpoint = Checkpoint(checkpoint_folder, made_with("reward_model", params, seed, data))
    resumable = Resumable(model, optimizer, checkpoint, params.checkpoint_every)
    plan = (planned for course in courses for planned in course.plan(params, seed))
    for step, (learning_rate, batch) in islice(enumerate(plan), resumable.resume(), None):
        optimizer.param_groups[0]["lr"] = learning_rate
        measured = accumulate_gradient(learning, batch, params)
        measured["grad_norm"] = clip_grad_norm(model.parameters(), 1.0)
        require_finite(measured, "reward_model", f"step {step + 1} of {steps}")
        optimizer.step()
        optimizer.zero_grad()
        report(step + 1, steps, measured)
        resumable.keep(step + 1, steps)

    if held.elements:
        found = evaluate(learning, held.elements, params)
        figures = {f"validation_{name}": value for name, value in found.items()}
        require_finite(figures, "reward_model", "the end")
        report(steps, steps, figures | {"validation_pairs": held.pairs})
        metrics |= figures
    fill(reward.model, model)
    return metrics | {"steps": steps}


@dataclass(frozen=True)
class Course:
    """Preferences that are learnt from by themselves, in so many steps."""

    taught: TokenizedPreferences
    steps: int

    def plan(
        self, params: RewardModelParams, seed: int
    ) -> Iterator[tuple[float, list[TokenizedPreference]]]:
        """Yield the learning rate and the batch of each step."""
        batches = endless_batches(self.taught.elements, params.batch_size, seed)
        for step, batch in enumerate(islice(batches, self.steps)):
            yield params.learning_rate * linear_schedule(step, self.steps, params.warmup), batch


def _courses(
    reward: RewardModel, train: Sequence[Preference], params: RewardModelParams, folder: Path
) -> tuple[list[Course], dict[str, float]]:
    """Encode what is learnt from: the sources that are pretrained on, if there are any, and the others.

    Returns the pairs used and dropped, too. Raises UserError if a course has no pair.
    """
    parts = {"": train}
    if params.pretrain_on:
        first, others = _by_source(train, params)
        parts = {"pretraining_": first, "": others}
    courses, metrics = [], dict[str, float]()
    for name, rows in parts.items():
        taught = encode(reward.tokenizer, rows, reward.max_length, folder / f"{name}train")
        if not taught.elements:
            raise UserError(_nothing_to_learn(rows, taught, params, pretraining=bool(name)))
        epochs = params.pretrain_epochs if name else params.epochs
        steps = max(1, round(epochs * -(-len(taught.elements) // params.batch_size)))
        courses.append(Course(taught, steps))
        metrics |= {f"{name}pairs": taught.pairs, f"{name}dropped_too_long": taught.too_long,
                    f"{name}dropped_identical": taught.identical}
        if taught.rearranged:
            metrics[f"{name}system_before_user"] = taught.rearranged
    return courses, metrics


def _by_source(
    rows: Sequence[Preference], params: RewardModelParams
) -> tuple[Sequence[Preference], Sequence[Preference]]:
    """Return the preferences of the sources that are pretrained on, and all others."""
    return parted(rows, lambda row: row.origin.source in params.pretrain_on)


def _nothing_to_learn(
    rows: Sequence[Preference], taught: TokenizedPreferences, params: RewardModelParams, *, pretraining: bool
) -> str:
    """Return what to say of rows without a pair to learn from."""
    if not rows and params.pretrain_on:
        named = f"reward_model.pretrain_on = {', '.join(params.pretrain_on)}"
        if pretraining:
            return (f"No comparison or ranking to learn from comes from {named}. `plumbline data show` tells "
                    "the names of the sources.")
        return (f"All comparisons and rankings to learn from come from {named}, so that none is left to "
                "learn after them. Take a source out.")
    return (f"None of the pairs in {len(rows)} comparisons and rankings can be learnt from: of "
            f"{taught.too_long} a side is longer than reward_model.max_length = {params.max_length} tokens, "
            f"and {taught.identical} have two equal sides. Raise reward_model.max_length, or add shorter "
            "responses.")


def answers_to_centre_on(
    sft: LanguageModel, prompts: Sequence[Prompt], answering: PpoParams, samples: int, seed: int
) -> list[list[int]]:
    """Return the finished ones of `samples` answers of `sft`, each after its prompt, in ids.

    The prompts are random ones, each asked again if they are fewer, and the answers are sampled as PPO will
    sample. Only those that end count: PPO gives the others no score. Raises UserError if no prompt fits
    `ppo.max_prompt`, and if too few answers end: both depend on SFT alone, so ask before the training.
    """
    found = finished_answers(sft, prompts, samples, seed, max_prompt=answering.max_prompt,
                             max_response=answering.max_response, temperature=answering.temperature)
    finished = [prompt + answer.ids for prompt, answer in found]
    require_enough(finished)
    return finished


def centre(reward: RewardModel, finished: Sequence[list[int]]) -> dict[str, float]:
    """Centre `reward` on prompts with finished answers of SFT, in ids. Returns `offset`, `std`, and how many.

    Raises UserError if all of them have the same reward.
    """
    reward.centre(finished)
    return {"offset": reward.model.config.reward_offset, "std": reward.std,
            "centering_finished": len(finished)}


def bradley_terry(
    difference_B: torch.Tensor, first_wins_B: torch.Tensor, margin_B: torch.Tensor | float = 0.0,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the cross-entropy [B], in nats, between observed outcome and sigmoid(difference of rewards).

    The better side must be ahead by `margin_B`, in units of reward (Touvron et al. 2023, equation 2); a tie
    has no better side. With `smoothing` each label is taken to be wrong with that probability.
    """
    difference_B = difference_B - margin_B * (2 * first_wins_B - 1)
    first_wins_B = first_wins_B * (1 - 2 * smoothing) + smoothing
    return first_wins_B * softplus(-difference_B) + (1 - first_wins_B) * softplus(difference_B)


def plackett_luce(scores_K: torch.Tensor) -> torch.Tensor:
    """Return the mean, in nats a choice, of -log P(best of those that are left), the best score first.

    P(i) = exp(r_i) / sum of exp(r_j) over i and all that are ranked below it; K responses are K-1 choices
    (Plackett 1975; Luce 1959). For K = 2 it is the Bradley-Terry loss.
    """
    left_K = scores_K.flip(0).logcumsumexp(0).flip(0)
    return (left_K - scores_K)[:-1].mean()


@torch.no_grad()
def evaluate(
    reward: RewardModel, elements: Sequence[TokenizedPreference], params: RewardModelParams
) -> dict[str, float]:
    """Return mean Bradley-Terry `loss` of an element, and `accuracy` over pairs.

    The accuracy leaves ties out, and equal scores count half.
    """
    plain = params.model_copy(update={"ranking_loss": "pairs", "margin_scale": 0.0, "label_smoothing": 0.0})
    sums = dict.fromkeys(SUMS, 0.0)
    for part, weight in passes(elements, params.micro_batch_size):
        _loss_sum(reward, part, plain, sums if weight else sums.copy())
    return _means(world().summed(sums), len(elements))


def accumulate_gradient(
    reward: RewardModel, batch: Sequence[TokenizedPreference], params: RewardModelParams
) -> dict[str, float]:
    """Add the gradient of the batch's mean loss, however it is split. Return `loss` and `accuracy`."""
    sums = dict.fromkeys(SUMS, 0.0)
    for part, weight in passes(batch, params.micro_batch_size):
        loss = _loss_sum(reward, part, params, sums if weight else sums.copy())
        (weight * loss / len(batch)).backward()
    return _means(world().summed(sums), len(batch))


def _means(sums: dict[str, float], elements: int) -> dict[str, float]:
    """Return the mean loss of so many elements, and the accuracy unless all their pairs are ties."""
    means = {"loss": sums["loss"] / elements}
    if sums["decided"]:
        means["accuracy"] = sums["right"] / sums["decided"]
    return means


def _loss_sum(
    reward: RewardModel, batch: Sequence[TokenizedPreference], params: RewardModelParams,
    sums: dict[str, float],
) -> torch.Tensor:
    """Return the sum of the losses of a micro-batch, with its graph. Adds its figures to `sums`."""
    scores_N = inside(reward.model, lambda: _scores(reward, batch, params))
    loss = scores_N.new_zeros(())
    sizes = [len(element.responses) for element in batch]
    for element, scores_K in zip(batch, scores_N.split(sizes), strict=True):
        first_P, second_P = [pair.first for pair in element.pairs], [pair.second for pair in element.pairs]
        difference_P = scores_K[first_P] - scores_K[second_P]
        wins_P = scores_K.new_tensor([pair.first_wins for pair in element.pairs])
        if params.ranking_loss == "plackett_luce" and len(scores_K) > 2 and element.best_first:
            loss = loss + plackett_luce(scores_K[element.best_first])
        else:
            margin_P = scores_K.new_tensor([pair.strength for pair in element.pairs]) * params.margin_scale
            loss = loss + bradley_terry(difference_P, wins_P, margin_P, params.label_smoothing).mean()

        decided_P = wins_P != 0.5
        right_P = torch.where(difference_P == 0, 0.5, ((difference_P > 0) == (wins_P == 1)).float())
        sums["right"] += float(right_P[decided_P].sum())
        sums["decided"] += float(decided_P.sum())
    sums["loss"] += float(loss.detach())
    return loss


def _scores(
    reward: RewardModel, batch: Sequence[TokenizedPreference], params: RewardModelParams
) -> torch.Tensor:
    """Return the scores [N] of all answers of all elements, each at its last token, in one pass."""
    answers = [(element.prompt, element.responses) for element in batch]
    with autocast(params.precision):
        states = answer_states(reward.model, answers)
        return scores_of(states.last_ND, reward.model.score.weight)
