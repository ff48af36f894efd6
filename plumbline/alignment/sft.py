"""Supervised fine-tuning: learn to respond as the demonstrations do.

The loss is on the response alone, its stop token included, so that the model learns to end (without it a
model never stops: huggingface/trl#1623). Demonstrations are packed into full rows; attention stays within
each of them, because positions start again at 0 with each, from which transformers builds a block-diagonal
mask. Not every architecture does: `lm.examination.packs` finds out, and for the others each demonstration has
a row of its own, with a mask.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from transformers import PreTrainedModel

from plumbline.config import SftParams
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, encode_response
from plumbline.lm.checkpoint import Checkpoint, Resumable, made_with
from plumbline.lm.examination import packs
from plumbline.lm.optim import ReportStep, adamw, autocast, linear_schedule, require_finite
from plumbline.lm.ranks.sharding import clip_grad_norm, fill, inside, sharded
from plumbline.lm.ranks.world import world
from plumbline.lm.sampling import right_pad
from plumbline.lm.template import rearranged
from plumbline.preferences.types import Demonstration

IGNORED = -100
VALIDATIONS = 4
"""Times that the validation loss is measured as training goes on, the last of them at its end."""


@dataclass(frozen=True)
class TokenizedDemonstration:
    """A demonstration as ids; the response, on which the loss is, begins at `start`."""

    ids: list[int]
    start: int
    cut: bool
    """True if its end, with the stop token, is beyond the longest length."""


@dataclass(frozen=True)
class PackedRow:
    """One or more demonstrations: labels are IGNORED at prompts, positions start at 0 with each of them."""

    ids: list[int]
    labels: list[int]
    positions: list[int]
    alone: bool
    """True if each row holds one demonstration, so that a mask can mark the padding."""


def train_sft(
    lm: LanguageModel, train: Sequence[Demonstration], validation: Sequence[Demonstration], params: SftParams,
    seed: int, report: ReportStep, checkpoint_folder: Path,
) -> dict[str, float]:
    """Fine-tune `lm` in place; resume from a checkpoint in `checkpoint_folder` if there is one.

    Returns the validation loss before and after, and counts.

    The loss is in nats a response token. Among the counts, `cut` is of demonstrations whose end is beyond
    `max_length`: they teach the beginning of an answer, and nothing about how it ends. Raises UserError if no
    prompt leaves room for a response within `max_length`, if the epochs are less than a step, and if the
    training diverges.
    """
    torch.manual_seed(seed)
    lm.model.eval()  # no dropout, and nothing else here depends on the mode
    examples = encode(lm, train, params.max_length)
    if train and not examples:
        raise UserError(f"No prompt of the {len(train)} demonstrations leaves room for a response within "
                        f"sft.max_length = {params.max_length} tokens. Raise it.")
    length = params.max_length if packs(lm.model.config) else None
    held = pack(encode(lm, validation, params.max_length), length)
    metrics: dict[str, float] = {"examples": len(examples), "cut": sum(one.cut for one in examples),
                                 "dropped_too_long": len(train) - len(examples), "packed": length is not None}
    if moved := rearranged(lm.tokenizer, [shown.prompt for shown in train]):
        metrics["system_before_user"] = moved
    model = sharded(lm.model)
    if held:
        metrics["validation_loss_before"] = evaluate(model, held, params)

    steps = _steps(len(pack(examples, length)), params)
    optimizer = adamw(model.parameters(), params.learning_rate)
    checkpoint = Checkpoint(checkpoint_folder, made_with("sft", params, seed, examples))
    resumable = Resumable(model, optimizer, checkpoint, params.checkpoint_every)
    batches = _batches(examples, length, params.batch_size, seed)
    between = {round(steps * part / VALIDATIONS) for part in range(1, VALIDATIONS)}
    begin = resumable.resume()
    if held and not begin:
        report(0, steps, {"validation_loss": metrics["validation_loss_before"]})
    for step, batch in islice(enumerate(batches), begin, steps):
        optimizer.param_groups[0]["lr"] = params.learning_rate * linear_schedule(step, steps, params.warmup)
        loss = _accumulate_gradient(model, batch, params)
        measured = {"loss": loss, "grad_norm": clip_grad_norm(model.parameters(), 1.0)}
        require_finite(measured, "sft", f"step {step + 1} of {steps}")
        optimizer.step()
        optimizer.zero_grad()
        if held and step + 1 in between:
            measured["validation_loss"] = evaluate(model, held, params)
        report(step + 1, steps, measured)
        resumable.keep(step + 1, steps)

    if held:
        metrics["validation_loss"] = evaluate(model, held, params)
    fill(lm.model, model)
    require_finite(metrics, "sft", "the end")
    if held:
        report(steps, steps, {"validation_loss": metrics["validation_loss"]})
    return metrics | {"steps": steps}


def _steps(rows_an_epoch: int, params: SftParams) -> int:
    """Return the number of optimizer steps. Raises UserError if epochs and rows are not enough for one."""
    steps = round(params.epochs * -(-rows_an_epoch // params.batch_size))
    if steps == 0 and params.epochs > 0 and rows_an_epoch > 0:
        raise UserError(f"sft.epochs = {params.epochs:g} of {rows_an_epoch} rows in batches of "
                        f"sft.batch_size = {params.batch_size} is no step at all. Raise sft.epochs or lower "
                        "sft.batch_size; sft.epochs = 0 keeps the base model as it is.")
    return steps


def _batches(
    examples: Sequence[TokenizedDemonstration], length: int | None, size: int, seed: int
) -> Iterator[list[PackedRow]]:
    """Yield batches of at most `size` rows, without end."""
    generator = torch.Generator().manual_seed(seed)
    rows_an_epoch = len(pack(examples, length))
    queue: list[PackedRow] = []
    while True:
        # A new epoch: shuffle and pack again. Rows left over from the last one come first.
        if len(queue) < min(size, rows_an_epoch):
            order = torch.randperm(len(examples), generator=generator).tolist()
            queue += pack([examples[i] for i in order], length)
        yield queue[:size]
        queue = queue[size:]


def encode(
    lm: LanguageModel, demonstrations: Sequence[Demonstration], max_length: int
) -> list[TokenizedDemonstration]:
    """Return the ids of each demonstration, cut at `max_length` (then without a stop token).

    Demonstrations whose prompt alone is that long are left out.
    """
    found = []
    for shown in demonstrations:
        prompt = encode_prompt(lm.tokenizer, shown.prompt)
        if len(prompt) < max_length:
            ids = prompt + encode_response(lm.tokenizer, shown.response)
            found.append(TokenizedDemonstration(ids[:max_length], len(prompt), len(ids) > max_length))
    return found


def pack(examples: Sequence[TokenizedDemonstration], length: int | None) -> list[PackedRow]:
    """Pack demonstrations into rows of at most `length` tokens, greedily and in order; none is split.

    If `length` is None, each demonstration gets a row of its own.
    """
    rows: list[PackedRow] = []
    for example in examples:
        if not rows or length is None or len(rows[-1].ids) + len(example.ids) > length:
            rows.append(PackedRow([], [], [], length is None))
        rows[-1].ids.extend(example.ids)
        rows[-1].labels.extend([IGNORED] * example.start + example.ids[example.start :])
        rows[-1].positions.extend(range(len(example.ids)))
    return rows


@torch.no_grad()
def evaluate(model: PreTrainedModel, rows: Sequence[PackedRow], params: SftParams) -> float:
    """Return the mean negative log-likelihood, in nats, of a response token."""
    total = 0.0
    for part, counts in _passes(rows, params):
        loss = float(loss_sum(model, part, params.precision))
        total += loss if counts else 0.0
    return world().summed({"loss": total})["loss"] / targets(rows)


def _accumulate_gradient(model: PreTrainedModel, batch: Sequence[PackedRow], params: SftParams) -> float:
    """Add the gradient of the batch's mean loss, however the batch is split. Returns that loss."""
    tokens = targets(batch)
    total = 0.0
    for part, counts in _passes(batch, params):
        loss = loss_sum(model, part, params.precision)
        (loss / tokens if counts else 0.0 * loss).backward()
        total += float(loss.detach()) if counts else 0.0
    return world().summed({"loss": total})["loss"] / tokens


def _passes(rows: Sequence[PackedRow], params: SftParams) -> Iterator[tuple[list[PackedRow], bool]]:
    """Yield this rank's rows in micro-batches, and False with those that do not count."""
    mine, size = world().mine(rows), params.micro_batch_size
    parts = [mine[start : start + size] for start in range(0, len(mine), size)]
    return world().passes(parts, [rows[0]])


def targets(rows: Sequence[PackedRow]) -> int:
    """Return the number of tokens with a loss: all labels but a row's first, which no token predicts."""
    return sum(label != IGNORED for row in rows for label in row.labels[1:])


def loss_sum(model: PreTrainedModel, rows: Sequence[PackedRow], precision: str) -> torch.Tensor:
    """Return the sum of the losses, in nats, over the response tokens of the rows."""
    return inside(model, lambda: _loss_sum(model, rows, precision))


def _loss_sum(model: PreTrainedModel, rows: Sequence[PackedRow], precision: str) -> torch.Tensor:
    all_ids = [row.ids for row in rows]
    ids_BT, real_BT = (padded.to(model.device) for padded in right_pad(all_ids, 0))
    labels_BT = right_pad([row.labels for row in rows], IGNORED)[0].to(model.device)
    positions_BT = right_pad([row.positions for row in rows], 0)[0].to(model.device)
    # No attention mask for packed rows: with one, transformers would not look at the positions for the
    # borders between demonstrations. Padding is on the right and has no label, so causal attention hides it
    # from all tokens.
    mask_BT = real_BT if rows[0].alone else None
    with autocast(precision):
        hidden_BTD = model.base_model(input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT,
                                      use_cache=False).last_hidden_state
        # Only positions whose next token has a loss pass through the output layer: N of them.
        wanted_BT = labels_BT[:, 1:] != IGNORED
        logits_NV = model.get_output_embeddings()(hidden_BTD[:, :-1][wanted_BT])
    targets_N = labels_BT[:, 1:][wanted_BT]
    return torch.nn.functional.cross_entropy(logits_NV.float(), targets_N, reduction="sum")
