"""Pretrain a small language model from scratch: the embedded default, for a machine without a model hub.

Tokenizer (byte-level BPE, ChatML template) and model (Llama architecture) are made here in about a minute on
two cores. Documents are packed one after another into full rows, separated by the end-of-text token, as in
GPT-2 (Radford et al. 2019).
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from plumbline.config import BaseParams
from plumbline.lm.base import LanguageModel
from plumbline.lm.checkpoint import Checkpoint, Resumable, made_with
from plumbline.lm.optim import ReportStep, adamw, device, linear_schedule, require_finite

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENIZER_DOCUMENTS = 5000


def pretrain(
    params: BaseParams, seed: int, documents: Iterator[str], report: ReportStep, checkpoint_folder: Path
) -> tuple[LanguageModel, dict[str, float]]:
    """Train tokenizer and model on `documents`, an endless stream of texts. Returns model and metrics.

    If there is a checkpoint in `checkpoint_folder`, the training goes on from it, in the same documents.
    Raises UserError if the training diverges.
    """
    torch.manual_seed(seed)
    first = list(islice(documents, TOKENIZER_DOCUMENTS))
    tokenizer = train_tokenizer(first, params.vocabulary)
    model = _new_model(params, tokenizer).to(device()).eval()
    steps = max(1, params.tokens // (params.context * params.batch_size))
    optimizer = adamw(model.parameters(), params.learning_rate, weight_decay=0.1)
    checkpoint = Checkpoint(checkpoint_folder, made_with("base", params, seed, first))
    resumable = Resumable(model, optimizer, checkpoint, params.checkpoint_every)
    loss_value = float("nan")
    rows = _packed(documents, tokenizer, params.context)
    batches = iter(lambda: list(islice(rows, params.batch_size)), [])
    for step, batch in islice(enumerate(batches), resumable.resume(), steps):
        optimizer.param_groups[0]["lr"] = params.learning_rate * linear_schedule(step, steps, warmup=0.05)
        ids_BT = torch.tensor(batch, device=device())
        loss = model(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        loss_value = float(loss.detach())
        require_finite({"loss": loss_value, "grad_norm": float(norm)}, "base", f"step {step + 1} of {steps}")
        optimizer.step()
        report(step + 1, steps, {"loss": loss_value})
        resumable.keep(step + 1, steps)
    parameters = sum(p.numel() for p in model.parameters())
    return LanguageModel(model, tokenizer), {"loss": loss_value, "parameters": parameters,
                                             "tokens": steps * params.context * params.batch_size}


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with ChatML. It encodes every text, and has a token for padding."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, START, END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    # The role names occur in every conversation, so they deserve tokens.
    bpe.train_from_iterator([*texts, *["user\n", "assistant\n", "system\n"] * 100], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, eos_token=END,
                                   additional_special_tokens=[START], chat_template=CHATML,
                                   clean_up_tokenization_spaces=False)


def _new_model(params: BaseParams, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=params.hidden_size, intermediate_size=3 * params.hidden_size,
        num_hidden_layers=params.layers, num_attention_heads=params.heads, num_key_value_heads=params.heads,
        max_position_embeddings=params.context, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))


def _packed(
    documents: Iterator[str], tokenizer: PreTrainedTokenizerFast, length: int
) -> Iterator[list[int]]:
    """Yield rows of exactly `length` tokens, of documents one after another, each with an end token."""
    buffer: list[int] = []
    for document in documents:
        buffer += [*tokenizer(document)["input_ids"], tokenizer.eos_token_id]
        while len(buffer) >= length:
            yield buffer[:length]
            buffer = buffer[length:]
