"""Supervised fine-tuning: learn to respond as the demonstrations do.

The loss is on the response alone, its stop token included, so that the model learns to end (without it a
model never stops: huggingface/trl#1623). Demonstrations are packed into full rows; attention stays within
each of them, because positions start again at 0 with each, from which transformers builds a block-diagonal
mask. Not every architecture does: `lm.examination.packs` finds out, and for the others each demonstration has
a row of its own, with a mask.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path

import torch
from transformers import PreTrainedModel

from plumbline.alignment.packing import IGNORED, Packed, PackedRow, TokenizedDemonstration
from plumbline.alignment.token_store import Encoded, Flat, StoredRows, stored
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

VALIDATIONS = 4
"""Times that the validation loss is measured as training goes on, the last of them at its end."""


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
    encoding = partial(_encode, lm, params.max_length)
    examples, measured_on = (stored(checkpoint_folder / name, rows, encoding, _decode)
                             for name, rows in (("train", train), ("validation", validation)))
    if train and not examples:
        raise UserError(f"No prompt of the {len(train)} demonstrations leaves room for a response within "
                        f"sft.max_length = {params.max_length} tokens. Raise it.")
    length = params.max_length if packs(lm.model.config) else None
    held = Packed(measured_on, measured_on.lengths(), length)
    metrics: dict[str, float] = {"examples": len(examples), "cut": examples.counts["cut"],
                                 "dropped_too_long": len(train) - len(examples), "packed": length is not None}
    if moved := examples.counts["rearranged"]:
        metrics["system_before_user"] = moved
    model = sharded(lm.model)
    if held:
        metrics["validation_loss_before"] = evaluate(model, held, params)

    steps = _steps(len(Packed(examples, examples.lengths(), length)), params)
    optimizer = adamw(model.parameters(), params.learning_rate)
    checkpoint = Checkpoint(checkpoint_folder, made_with("sft", params, seed, [examples.digest]))
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
    """Return the number of optimizer steps. Raises UserError if epochs and rows are not enough for one.

    What is left over of an epoch begins the next one, so an epoch is `rows / batch_size` steps; but a whole
    one where the rows are fewer than a batch.
    """
    if rows_an_epoch == 0:
        return 0
    steps = round(params.epochs * max(1, rows_an_epoch / params.batch_size))
    if steps == 0 and params.epochs > 0:
        raise UserError(f"sft.epochs = {params.epochs:g} of {rows_an_epoch} rows in batches of "
                        f"sft.batch_size = {params.batch_size} is no step at all. Raise sft.epochs or lower "
                        "sft.batch_size; sft.epochs = 0 keeps the base model as it is.")
    return steps


def _batches(
    examples: StoredRows[TokenizedDemonstration], length: int | None, size: int, seed: int
) -> Iterator[list[PackedRow]]:
    """Yield batches of at most `size` rows, without end."""
    generator, lengths = torch.Generator().manual_seed(seed), examples.lengths()
    enough = min(size, len(Packed(examples, lengths, length)))
    over: list[PackedRow] = []
    while True:
        # A new epoch: shuffle and pack again. Rows left over from the last one come first.
        order = torch.randperm(len(examples), generator=generator).numpy()
        packed = Packed(examples, lengths, length, order)
        rows, left = chain(over, packed), len(over) + len(packed)
        while True:
            yield list(islice(rows, size))
            left = max(0, left - size)
            if left < enough:
                break
        over = list(rows)


def encode(
    lm: LanguageModel, demonstrations: Sequence[Demonstration], max_length: int
) -> list[TokenizedDemonstration]:
    """Return the ids of each demonstration, cut at `max_length` (then without a stop token).

    Demonstrations whose prompt alone is that long are left out.
    """
    rows = (_encode(lm, max_length, shown).row for shown in demonstrations)
    return [_decode(row) for row in rows if row is not None]


def _encode(lm: LanguageModel, max_length: int, shown: Demonstration) -> Encoded:
    prompt = encode_prompt(lm.tokenizer, shown.prompt)
    counts = {"rearranged": rearranged(lm.tokenizer, [shown.prompt])}
    if len(prompt) >= max_length:
        return Encoded(None, counts)
    ids = prompt + encode_response(lm.tokenizer, shown.response)
    cut = len(ids) > max_length
    return Encoded(Flat(ids[:max_length], [len(prompt), cut]), counts | {"cut": cut})


def _decode(row: Flat) -> TokenizedDemonstration:
    start, cut = row.shape
    return TokenizedDemonstration(row.ids, start, bool(cut))


@torch.no_grad()
def evaluate(model: PreTrainedModel, rows: Sequence[PackedRow], params: SftParams) -> float:
    """Return the mean negative log-likelihood, in nats, of a response token."""
    total = 0.0
    for part, weight in passes(rows, params.micro_batch_size):
        total += weight * float(loss_sum(model, part, params.precision))
    return world().summed({"loss": total})["loss"] / targets(rows)


def _accumulate_gradient(model: PreTrainedModel, batch: Sequence[PackedRow], params: SftParams) -> float:
    """Add the gradient of the batch's mean loss, however the batch is split. Returns that loss."""
    tokens = targets(batch)
    total = 0.0
    for part, weight in passes(batch, params.micro_batch_size):
        loss = loss_sum(model, part, params.precision)
        (weight * loss / tokens).backward()
        total += weight * float(loss.detach())
    return world().summed({"loss": total})["loss"] / tokens


def passes(rows: Sequence[PackedRow], size: int) -> Iterator[tuple[list[PackedRow], float]]:
    """Yield this rank's rows in micro-batches, with their weight; see `World.passes`."""
    mine = world().mine(range(len(rows)))
    parts = [mine[start : start + size] for start in range(0, len(mine), size)]
    for part, weight in world().passes(parts, [0]):
        yield [rows[i] for i in part], weight


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
