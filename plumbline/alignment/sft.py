"""Supervised fine-tuning: learn to respond as the demonstrations do.

The loss is on the response alone, its stop token included, so that the model learns to end (a model that masks it never
stops: huggingface/trl#1623). Demonstrations are packed into full rows; attention stays within each of them, because the
positions start again at 0 and transformers builds a block-diagonal mask from that. Where an architecture does not heed
that, which is found out first, each demonstration has a row of its own with a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from plumbline.config import SftParams
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, encode_response
from plumbline.lm.examination import packs
from plumbline.lm.optim import ReportStep, adamw, autocast, linear_schedule, require_finite
from plumbline.lm.template import rearranged
from plumbline.preferences.types import Demonstration

IGNORED = -100


@dataclass(frozen=True)
class TokenizedDemonstration:
    """A demonstration as ids, with the loss from `start` on."""

    ids: list[int]
    start: int


@dataclass(frozen=True)
class PackedRow:
    """One or more demonstrations: labels are IGNORED at prompts, positions start at 0 with each of them."""

    ids: list[int]
    labels: list[int]
    positions: list[int]
    alone: bool
    """Whether it holds one demonstration in any case, so that a mask can say where padding is."""


def train_sft(
    lm: LanguageModel,
    train: Sequence[Demonstration],
    validation: Sequence[Demonstration],
    params: SftParams,
    seed: int,
    report: ReportStep,
) -> dict[str, float]:
    """Fine-tune `lm` in place. Returns the validation loss (nats a response token) before and after, and counts.

    Raises UserError if no demonstration has a prompt that leaves room for a response within `max_length`, and when the
    training diverges.
    """
    torch.manual_seed(seed)
    model = lm.model.eval()  # no dropout, and nothing else here depends on the mode
    examples = encode(lm, train, params.max_length)
    if train and not examples:
        raise UserError(f"No prompt of the {len(train)} demonstrations leaves room for a response within "
                        f"sft.max_length = {params.max_length} tokens. Raise it.")
    length = params.max_length if packs(model.config) else None
    held = pack(encode(lm, validation, params.max_length), length)
    metrics: dict[str, float] = {"examples": len(examples), "dropped_too_long": len(train) - len(examples),
                                 "packed": length is not None}
    if moved := rearranged(lm.tokenizer, [shown.prompt for shown in train]):
        metrics["system_before_user"] = moved
    if held:
        metrics["validation_loss_before"] = evaluate(model, held, params)
    rows_an_epoch = len(pack(examples, length))
    steps = round(params.epochs * -(-rows_an_epoch // params.batch_size))
    optimizer = adamw(model.parameters(), params.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    queue: list[PackedRow] = []
    for step in range(steps):
        if len(queue) < min(params.batch_size, rows_an_epoch):
            order = torch.randperm(len(examples), generator=generator).tolist()
            queue += pack([examples[i] for i in order], length)
        batch, queue = queue[: params.batch_size], queue[params.batch_size :]
        optimizer.param_groups[0]["lr"] = params.learning_rate * linear_schedule(step, steps, params.warmup)
        loss = _step(model, batch, params)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        measured = {"loss": loss, "grad_norm": float(norm)}
        require_finite(measured, "sft", f"step {step + 1} of {steps}")
        optimizer.step()
        optimizer.zero_grad()
        report(step + 1, steps, measured)
    if held:
        metrics["validation_loss"] = evaluate(model, held, params)
    require_finite(metrics, "sft", "the end")
    return metrics | {"steps": steps}


def encode(lm: LanguageModel, demonstrations: Sequence[Demonstration], max_length: int) -> list[TokenizedDemonstration]:
    """Ids of each demonstration, cut at the end (without a stop token then); left out if the prompt fills the row."""
    found = []
    for shown in demonstrations:
        prompt = encode_prompt(lm.tokenizer, shown.prompt)
        if len(prompt) < max_length:
            ids = prompt + encode_response(lm.tokenizer, shown.response)
            found.append(TokenizedDemonstration(ids[:max_length], len(prompt)))
    return found


def pack(examples: Sequence[TokenizedDemonstration], length: int | None) -> list[PackedRow]:
    """Rows of at most `length` tokens, filled greedily in the order given; no demonstration is split. Without a length
    each demonstration has a row of its own."""
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
    """Mean negative log-likelihood a response token."""
    total, tokens = 0.0, 0
    for start in range(0, len(rows), params.micro_batch_size):
        loss, n = _loss_sum(model, rows[start : start + params.micro_batch_size], params)
        total, tokens = total + float(loss), tokens + n
    return total / tokens


def _step(model: PreTrainedModel, batch: Sequence[PackedRow], params: SftParams) -> float:
    """Accumulate the gradient of the mean loss over the whole batch, however it is split. Returns that loss."""
    tokens = sum(_targets(row) for row in batch)
    total = 0.0
    for start in range(0, len(batch), params.micro_batch_size):
        loss, _ = _loss_sum(model, batch[start : start + params.micro_batch_size], params)
        (loss / tokens).backward()
        total += float(loss.detach())
    return total / tokens


def _targets(row: PackedRow) -> int:
    return sum(label != IGNORED for label in row.labels[1:])


def _loss_sum(model: PreTrainedModel, rows: Sequence[PackedRow], params: SftParams) -> tuple[torch.Tensor, int]:
    """Sum of the losses over response tokens, and how many there are."""
    ids_BT, labels_BT, positions_BT = (_tensor(rows, field, fill, model.device) for field, fill in
                                       (("ids", 0), ("labels", IGNORED), ("positions", 0)))
    # No attention mask for packed rows: with one, transformers would not look at the positions for the borders of their
    # parts. Padding is on the right and carries no label, so causal attention never lets a real token see it.
    mask_BT = None
    if rows[0].alone:
        lengths_B = torch.tensor([len(row.ids) for row in rows], device=model.device)
        mask_BT = (torch.arange(ids_BT.shape[1], device=model.device) < lengths_B[:, None]).long()
    with autocast(params.precision):
        hidden_BTD = model.base_model(input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT,
                                      use_cache=False).last_hidden_state
        wanted_BT = labels_BT[:, 1:] != IGNORED
        logits_NV = model.get_output_embeddings()(hidden_BTD[:, :-1][wanted_BT])
    targets_N = labels_BT[:, 1:][wanted_BT]
    return torch.nn.functional.cross_entropy(logits_NV.float(), targets_N, reduction="sum"), targets_N.numel()


def _tensor(rows: Sequence[PackedRow], field: str, fill: int, device: torch.device) -> torch.Tensor:
    values = [getattr(row, field) for row in rows]
    longest = max(len(value) for value in values)
    return torch.tensor([value + [fill] * (longest - len(value)) for value in values], device=device)
