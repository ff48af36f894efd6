"""T5 and its kin (v1.1, Flan-T5, mT5) as models that read from left to right.

Every stage calls a language model with rows of ids, a prompt and then an answer. Here such a row is divided
at its first `answer_start` token, with which the chat template ends a prompt: the encoder reads what comes
before it, the decoder that token and the answer. So these models go through the same stages as all others.
Nothing is computed of a prompt's tokens but what the decoder sees of them: their hidden states are 0.

That token is the padding token, from which T5's decoder is trained to start; padding itself is marked by
masks and never by ids. The output layer is the model's own: T5 v1.0, which takes its embeddings, gets a copy
with their factor in it. Weights keep T5's names, so `T5ForConditionalGeneration.from_pretrained` reads every
policy that is made.
"""

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Cache,
    EncoderDecoderCache,
    MT5Config,
    PretrainedConfig,
    T5Config,
    T5ForConditionalGeneration,
    T5Model,
)
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from plumbline.lm.cache import RoomyLayer

TEMPLATE = ("{% for message in messages %}{{ message.content + eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}{{ pad_token }}{% endif %}")
"""For a tokenizer without a chat template: every turn ends as T5's inputs and answers do."""
OUTPUT = "lm_head.weight"


class CausalT5Config(T5Config):  # type: ignore[misc]  # transformers has no types
    """T5's configuration, and the id at which a row is divided."""

    model_type = "causal_t5"
    answer_start: int = 0


def as_causal(config: PretrainedConfig) -> PretrainedConfig:
    """Return the configuration of a T5 that reads from left to right; any other one as it is."""
    if type(config) not in (T5Config, MT5Config):
        return config
    values = config.to_dict()
    start = values.get("decoder_start_token_id")
    found = CausalT5Config(**{name: value for name, value in values.items() if name != "model_type"},
                           answer_start=values["pad_token_id"] if start is None else start)
    # mT5 never has the factor, whatever its files say of shared embeddings.
    found.scale_decoder_outputs = getattr(config, "scale_decoder_outputs", False)
    return found


class Divided(nn.Module):
    """The body: encoder and decoder of a model, called like the body of a causal one."""

    def __init__(self, model: "CausalT5 | CausalT5Classifier") -> None:
        super().__init__()
        self.encoder, self.decoder, self.config = model.encoder, model.decoder, model.config
        self.device: torch.device = model.device

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None,
        past_key_values: "DividedCache | None" = None, **_: Any,  # noqa: ANN401
    ) -> BaseModelOutput:
        """Return hidden states [B, T, D] of rows [B, T], 0 at a prompt's tokens and at padding.

        Positions, which other bodies want, are not looked at: T5 knows distances alone. Raises ValueError
        for a mask that is not one of padding.
        """
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError("an encoder-decoder takes a mask [B, T] of real tokens")
        if past_key_values is not None and past_key_values.begun:
            return BaseModelOutput(self._next(input_ids, past_key_values))

        # Divide each row at its first start token; a row without one is all answer.
        real_BT = torch.ones_like(input_ids).bool() if attention_mask is None else attention_mask.bool()
        start_BT = (input_ids == self.config.answer_start) & real_BT
        start_B = torch.where(start_BT.any(1), start_BT.int().argmax(1), real_BT.int().argmax(1))
        answered_BT = torch.arange(input_ids.shape[1], device=input_ids.device) >= start_B[:, None]
        first, width = int(start_B.min()), max(1, int(start_B.max()))
        asked_BE, real_BA = (real_BT & ~answered_BT)[:, :width], (real_BT & answered_BT)[:, first:]

        states_BED = self.encoder(input_ids=input_ids[:, :width], attention_mask=asked_BE).last_hidden_state
        if past_key_values is not None:
            past_key_values.begin(states_BED, asked_BE, real_BA)
        hidden_BAD = self._decoded(input_ids[:, first:], real_BA, states_BED, asked_BE, past_key_values)
        hidden_BAD = hidden_BAD.masked_fill(~real_BA[..., None], 0)
        return BaseModelOutput(nn.functional.pad(hidden_BAD, (0, 0, first, 0)))

    def _next(self, ids_BN: torch.Tensor, cache: "DividedCache") -> torch.Tensor:
        """Return the hidden states of tokens that follow those in the cache."""
        cache.real_BA = torch.cat([cache.real_BA, torch.ones_like(ids_BN).bool()], 1)
        return self._decoded(ids_BN, cache.real_BA, cache.states_BED, cache.asked_BE, cache)

    def _decoded(
        self, ids_BA: torch.Tensor, real_BA: torch.Tensor, states_BED: torch.Tensor, asked_BE: torch.Tensor,
        cache: "DividedCache | None",
    ) -> torch.Tensor:
        hidden_BAD: torch.Tensor = self.decoder(
            input_ids=ids_BA, attention_mask=real_BA, encoder_hidden_states=states_BED,
            encoder_attention_mask=asked_BE, past_key_values=cache, use_cache=cache is not None,
        ).last_hidden_state
        return hidden_BAD


class DividedCache(EncoderDecoderCache):  # type: ignore[misc]
    """What the encoder made of the prompts, and the decoder's keys and values of at most `longest` tokens."""

    def __init__(self, layers: int, longest: int) -> None:
        super().__init__(*(Cache(layers=[RoomyLayer(longest) for _ in range(layers)]) for _ in range(2)))
        self.begun = False

    def begin(self, states_BED: torch.Tensor, asked_BE: torch.Tensor, real_BA: torch.Tensor) -> None:
        """Keep the encoder's states, which tokens it read, and which of the decoder's are real."""
        self.begun, self.states_BED, self.asked_BE, self.real_BA = True, states_BED, asked_BE, real_BA

    def keep(self, rows: torch.Tensor) -> None:
        """Let row i become what row `rows[i]` was."""
        for layer in (*self.self_attention_cache.layers, *self.cross_attention_cache.layers):
            layer.keep(rows)
        self.begin(self.states_BED[rows], self.asked_BE[rows], self.real_BA[rows])


class CausalT5(T5ForConditionalGeneration):  # type: ignore[misc]
    """T5 as a causal language model."""

    config_class = CausalT5Config
    _tied_weights_keys = T5Model._tied_weights_keys
    base_model = property(Divided)
    """The body, made anew of the same weights at each call: it is no part of the model."""

    def new_cache(self, longest: int) -> DividedCache:
        """Return an empty cache with room for so many tokens."""
        return DividedCache(self.config.num_decoder_layers, longest)

    def forward(
        self, input_ids: torch.Tensor, *, past_key_values: DividedCache | None = None,
        logits_to_keep: int | torch.Tensor = 0, **inputs: Any,  # noqa: ANN401
    ) -> CausalLMOutput:
        """Return logits, of the last tokens alone or of those in the places `logits_to_keep`."""
        hidden_BTD = self.base_model(input_ids, past_key_values=past_key_values, **inputs).last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutput(logits=self.lm_head(hidden_BTD[:, kept]))

    @torch.no_grad()
    def settle_output(self, missing: set[str]) -> None:
        """Make the output layer what T5 computes with: the embeddings, where its files have no other.

        With v1.0 they are multiplied by their width to -1/2. Takes the layer out of `missing`, the weights
        that the files lack.
        """
        scaled = self.config.scale_decoder_outputs
        if scaled or OUTPUT in missing:
            self.lm_head.weight.copy_(self.shared.weight * (self.config.d_model**-0.5 if scaled else 1))
        self.config.scale_decoder_outputs = False
        missing.discard(OUTPUT)


class CausalT5Classifier(T5Model):  # type: ignore[misc]
    """Encoder and decoder with a layer `score`, as sequence classifiers of causal models have it."""

    config_class = CausalT5Config
    base_model = property(Divided)

    def __init__(self, config: CausalT5Config) -> None:
        super().__init__(config)
        self.score = nn.Linear(config.d_model, config.num_labels, bias=False)


AutoConfig.register(CausalT5Config.model_type, CausalT5Config)
AutoModelForCausalLM.register(CausalT5Config, CausalT5)
AutoModelForSequenceClassification.register(CausalT5Config, CausalT5Classifier)
