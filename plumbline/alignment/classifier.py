"""Reward models of others: a sequence classifier of transformers with one output, read as its makers do.

The conversation is written by the model's own chat template; without one, prompt and answer are the pair of
texts that a classifier of pairs takes (OpenAssistant's reward models). The score is what transformers
returns, so an encoder is as good as a causal model. No code of a model's own is run.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from plumbline.errors import UserError
from plumbline.lm.base import DTYPES
from plumbline.lm.chat import encode_conversation
from plumbline.lm.optim import device
from plumbline.lm.ranks.world import world
from plumbline.lm.source import Source, context_of
from plumbline.preferences.types import Prompt, conversation

BATCH = 32


def require_classifier(name: str, root: Path) -> PretrainedConfig:
    """Return the configuration of the reward model `name`; relative paths start at `root`.

    Raises UserError if it cannot be one.
    """
    source = Source.find(name, root)
    config = source.load(lambda: AutoConfig.from_pretrained(source.where, trust_remote_code=False))
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING or config.num_labels != 1:
        raise UserError(f"The model {name} is to give rewards, so it has to be a sequence classifier with "
                        f"one output; found the type {config.model_type} with {config.num_labels}. Name "
                        "another in ppo.rewards.")
    source.load(lambda: AutoTokenizer.from_pretrained(source.where, trust_remote_code=False))
    return config


@dataclass(frozen=True)
class Classifier:
    """Scores prompts with responses."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def load(cls, name: str, root: Path, precision: str) -> "Classifier":
        """Load the reward model `name`. Raises UserError if it cannot be loaded, or lacks weights."""
        config, source = require_classifier(name, root), Source.find(name, root)
        model, found = source.load(lambda: AutoModelForSequenceClassification.from_pretrained(
            source.where, config=config, dtype=DTYPES[precision], output_loading_info=True,
            trust_remote_code=False))
        if missing := found["missing_keys"]:
            raise UserError(f"The reward model {name} lacks {len(missing)} of its weights (the first is "
                            f"{min(missing)}), which would be filled at random. Name another in ppo.rewards.")
        tokenizer = source.load(lambda: AutoTokenizer.from_pretrained(source.where, trust_remote_code=False))
        return cls(model.to(device()).eval(), tokenizer)

    @torch.no_grad()
    def score(self, conversations: Sequence[tuple[Prompt, str]]) -> list[float]:
        """Return the model's output for each (prompt, response), which the ranks share; what is beyond its
        context is cut.
        """
        return world().gathered(self._scores(world().mine(conversations)))

    def _scores(self, conversations: Sequence[tuple[Prompt, str]]) -> list[float]:
        rows = [self._encode(prompt, response) for prompt, response in conversations]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
        # A causal model finds its last token by the padding's id, and without one takes no batches.
        padding = self.model.config.get_text_config().pad_token_id
        size = BATCH if padding is not None and padding == self.tokenizer.pad_token_id else 1
        found: dict[int, float] = {}
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            inputs = self._padded([rows[i] for i in batch]) if size > 1 else _alone(rows[batch[0]])
            logits_B1 = self.model(**{name: ids.to(self.model.device) for name, ids in inputs.items()}).logits
            found.update(zip(batch, logits_B1[:, 0].float().tolist(), strict=True))
        return [found[i] for i in range(len(rows))]

    def _encode(self, prompt: Prompt, response: str) -> dict[str, list[int]]:
        # RoBERTa's positions begin behind its padding id, so that it reads less than its table is long: its
        # tokenizer knows how much. Tokenizers that do not say so, by a very large number.
        context = context_of(self.model.config)
        longest = min(context, self.tokenizer.model_max_length) if context else None
        if not self.tokenizer.chat_template:
            # What people and the policy wrote is no special token, whatever its characters.
            encoded = self.tokenizer(conversation(prompt), response, split_special_tokens=True,
                                     truncation=True, max_length=longest)
        else:
            ids = encode_conversation(self.tokenizer, prompt, response)
            if longest and len(ids) > longest:
                ids = ids[-longest:] if self.tokenizer.truncation_side == "left" else ids[:longest]
            encoded = {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": [0] * len(ids)}
            encoded = {name: encoded[name] for name in self.tokenizer.model_input_names}
        taken = inspect.signature(self.model.forward).parameters  # not all take `token_type_ids`
        return {name: ids for name, ids in encoded.items() if name in taken}

    def _padded(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        padded: Any = self.tokenizer.pad(rows, padding_side="right", return_tensors="pt")
        return dict(padded)


def _alone(row: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([ids]) for name, ids in row.items()}
