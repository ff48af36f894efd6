"""Direct methods: a policy learns from people's preferences themselves, with no reward model and no sampling.

    method                       what it learns from                       where
    dpo, ipo, kto, simpo, orpo   pairs of answers, by one of the losses    pairwise.py, losses.py
    ilql                         each token's value, from the same pairs   ilql.py

One loop serves all: batches of elements of similar length, the gradient of their mean loss however a batch is
divided, clipped, and a step of AdamW. The reference is looked at before the first step only, so it may be the
policy itself, which then is the only model in memory:

    train_direct(lm, lm.model, train, validation, "dpo", params, seed, report, folder)

`params` are those of the method, such as IlqlParams for "ilql". SimPO and ORPO learn without a reference; it
is asked about the validation pairs alone, to measure how far the policy goes. ILQL does not ask it at all.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from transformers import PreTrainedModel

from plumbline.alignment.direct.decided import DecidedPreference, DecidedPreferences, decided
from plumbline.alignment.direct.ilql import Ilql
from plumbline.alignment.direct.pairwise import Pairwise
from plumbline.alignment.tokenized import TokenizedPreferences, encode, endless_batches
from plumbline.config import DirectParams
from plumbline.config.methods import DpoParams, IlqlParams, IpoParams, KtoParams
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.checkpoint import Checkpoint, Resumable, made_with
from plumbline.lm.optim import ReportStep, adamw, linear_schedule, require_finite
from plumbline.lm.ranks.sharding import clip_grad_norm
from plumbline.preferences.types import Preference

WITH_REFERENCE = (DpoParams, IpoParams, KtoParams)
"""Methods whose loss compares the policy with the reference."""


class Objective(Protocol):
    """What a method learns, and by which loss."""

    @property
    def module(self) -> torch.nn.Module:
        """Return all weights, of which those that require a gradient learn."""

    def accumulate(self, batch: Sequence[DecidedPreference]) -> dict[str, float]:
        """Add the gradient of the batch's mean loss. Return the batch's figures."""

    def evaluate(self, elements: Sequence[DecidedPreference]) -> dict[str, float]:
        """Return the figures of these elements, without learning from them."""

    def stepped(self) -> None:
        """Update what follows the weights that learn, after an optimizer step."""

    def finish(self) -> None:
        """Make the policy what was learnt."""


def train_direct(
    lm: LanguageModel, reference: PreTrainedModel, train: Sequence[Preference],
    validation: Sequence[Preference], method: str, params: DirectParams, seed: int, report: ReportStep,
    checkpoint_folder: Path,
) -> dict[str, float]:
    """Train `lm` in place; resume from a checkpoint in `checkpoint_folder` if there is one.

    `params` are those of the method, and `lm` is the SFT policy in either case. Returns the figures of the
    validation pairs, before and after (see the objective's `evaluate`), the steps, and the pairs used and
    left out. Raises UserError if no pair is left to learn from, for KTO if all have the same prompt, and if
    the training diverges.
    """
    torch.manual_seed(seed)
    taught, held = (encode(lm.tokenizer, rows, params.max_length, checkpoint_folder / name)
                    for name, rows in (("train", train), ("validation", validation)))
    generator = torch.Generator().manual_seed(seed)
    learnt_from = reference if isinstance(params, WITH_REFERENCE) else None
    examples = decided(taught.elements, learnt_from, params, generator)
    measured_on = _measured_on(held, reference, params, generator)
    metrics = _counts(taught, examples)
    if not examples:
        raise UserError(f"None of the pairs in {len(train)} comparisons and rankings can be learnt from: of "
                        f"{taught.too_long} a side is longer than direct.max_length = {params.max_length} "
                        f"tokens, {taught.identical} have two equal sides, and {metrics['dropped_ties']:g} "
                        "are ties. Raise direct.max_length, or add judgements that prefer a response.")
    if taught.rearranged:
        metrics["system_before_user"] = taught.rearranged

    objective: Objective = (Ilql(lm.model, params, seed) if isinstance(params, IlqlParams)
                            else Pairwise(lm.model, params))
    if measured_on:
        metrics |= {f"validation_{name}_before": value
                    for name, value in objective.evaluate(measured_on).items()}
    checkpoint = Checkpoint(checkpoint_folder,
                            {"method": method, **made_with("direct", params, seed, [taught.elements.digest])})
    steps = _learn(objective, examples, params, seed, report, checkpoint)
    if measured_on:
        figures = {f"validation_{name}": value for name, value in objective.evaluate(measured_on).items()}
        require_finite(figures, "direct", "the end")
        report(steps, steps, figures | {"validation_pairs": sum(len(one.pairs) for one in measured_on)})
        metrics |= figures
    objective.finish()
    return metrics | {"steps": steps}


def _measured_on(
    held: TokenizedPreferences, reference: PreTrainedModel, params: DirectParams, generator: torch.Generator
) -> Sequence[DecidedPreference]:
    """Return the validation pairs, with what the reference says of them; ILQL measures nothing by it.

    For KTO there are none if all have the same prompt: its loss takes answers to other prompts. It is no
    reason not to train.
    """
    if isinstance(params, KtoParams) and DecidedPreferences(held.elements, torch.Generator()).prompts == 1:
        return []
    return decided(held.elements, None if isinstance(params, IlqlParams) else reference, params, generator)


def _learn(
    objective: Objective, examples: Sequence[DecidedPreference], params: DirectParams, seed: int,
    report: ReportStep, checkpoint: Checkpoint,
) -> int:
    """Make all optimizer steps that are left. Returns how many there are in all."""
    weights = [weight for weight in objective.module.parameters() if weight.requires_grad]
    optimizer = adamw(weights, params.learning_rate)
    steps = max(1, round(params.epochs * -(-len(examples) // params.batch_size)))
    resumable = Resumable(objective.module, optimizer, checkpoint, params.checkpoint_every)
    batches = endless_batches(examples, params.batch_size, seed)
    for step, batch in islice(enumerate(batches), resumable.resume(), steps):
        optimizer.param_groups[0]["lr"] = params.learning_rate * linear_schedule(step, steps, params.warmup)
        measured = objective.accumulate(batch)
        measured["grad_norm"] = clip_grad_norm(weights, params.max_grad_norm)
        require_finite(measured, "direct", f"step {step + 1} of {steps}")
        optimizer.step()
        optimizer.zero_grad()
        objective.stepped()
        report(step + 1, steps, measured)
        resumable.keep(step + 1, steps)
    return steps


def _counts(taught: TokenizedPreferences, examples: Sequence[DecidedPreference]) -> dict[str, float]:
    pairs = sum(len(one.pairs) for one in examples)
    return {"pairs": pairs, "dropped_too_long": taught.too_long, "dropped_identical": taught.identical,
            "dropped_ties": taught.pairs - pairs}
