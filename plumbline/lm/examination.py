"""Examination of a base model before anything is trained, in seconds, on a small twin of the model.

The twin has the model's own configuration with few layers, a small vocabulary, and random weights so wide
that every part of it matters: a leak or a forgotten part shows, where in a real model it might hide below a
tolerance. So no weights are read, however large the model is. Each check either passes or raises a UserError
of one paragraph; `Findings` holds what the stages do differently for some models.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from plumbline.errors import UserError
from plumbline.lm import template
from plumbline.lm.encoder_decoder import CausalT5Config
from plumbline.lm.optim import device
from plumbline.lm.sampling import left_pad, positions, right_pad, sample
from plumbline.lm.source import Source, context_of

FEW_LAYERS = 4
SMALL_VOCABULARY = 512
FEED_FORWARD = ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size", "ffn_dim",
                "d_ff")
NARROW = 256
FIRST_ID = 8
"""Lower ids are often special; architectures may treat them in their own way."""
PADDING_ID = 1
"""Not the 0 that fills padded positions: as in the stages, a mask marks padding and not an id."""
LENGTHS = (7, 2, 12, 1, 5)
SAMPLED = 6
TOLERANCE = 1e-3
"""Relative to the size of the compared values: rounding stays below 1e-4, a leak of one token is 0.1 and
more."""
OTHERS = "Choose another architecture, such as Llama, Qwen or SmolLM."


@dataclass(frozen=True)
class Findings:
    """Properties of a usable model."""

    context: int | None
    """The longest sequence in tokens; None if there is no limit."""
    packs: bool
    """True if attention stays within each of several demonstrations in a row; if not, each gets its own
    row."""
    notes: list[str]
    """What the stages do differently for this model, a sentence each."""


def examine(name: str, root: Path) -> Findings:
    """Examine the model that `base.source` names; relative paths start at `root`.

    Raises UserError if the model cannot be used.
    """
    source = Source.find(name, root)
    config = source.config()
    tokenizer = source.tokenizer(config)
    try:
        packed = examine_architecture(config)
    except UserError as error:
        raise UserError(f"The base model {name} cannot be used. {error}") from None
    notes = template.notes(tokenizer)
    if isinstance(config, CausalT5Config):
        notes.append("The encoder reads a prompt, and the decoder writes the answer to it.")
    if not packed:
        notes.append(f"In this architecture ({config.model_type}) attention does not stay within a packed "
                     "demonstration, so in SFT each demonstration has a row of its own.")
    return Findings(context_of(config), packed, notes)


def require_judge(name: str, root: Path) -> None:
    """Raise UserError if configuration or tokenizer show that the model `name` cannot judge."""
    source = Source.find(name, root)
    source.tokenizer(source.config())


def examine_architecture(config: PretrainedConfig) -> bool:
    """Raise UserError for an architecture that some stage cannot work with.

    Returns True if demonstrations can be packed.
    """
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError("A reward model is made as a sequence classifier "
                        "(AutoModelForSequenceClassification), and transformers has none for the "
                        f"architecture {config.model_type}. {OTHERS}")
    try:
        return _examine(twin(config))
    except UserError:
        raise
    except Exception as error:  # foreign code: whatever its forward pass raises, this model cannot be used
        raise UserError(f"The architecture {config.model_type} does not work in the way that the stages call "
                        f"it. {type(error).__name__}: {' '.join(str(error).split())[:200]}. "
                        f"{OTHERS}") from None


def packs(config: PretrainedConfig) -> bool:
    """True if attention stays within each of several demonstrations in one row."""
    return _packs(twin(config))


def twin(config: PretrainedConfig) -> PreTrainedModel:
    """Return a model of this configuration with few layers, a small vocabulary and wide random weights."""
    small = copy.deepcopy(config)
    text = small.get_text_config()
    for part in (text, *(getattr(small, name) for name in small.sub_configs)):
        _fewer_layers(part)
        _narrower(part)
    text.vocab_size = min(text.vocab_size, SMALL_VOCABULARY)
    small.pad_token_id = text.pad_token_id = PADDING_ID
    # Seeded, and without a change of the caller's random state.
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(small, dtype=torch.float32)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, weight.shape[-1] ** -0.5)
    return model.to(device()).eval()


def _fewer_layers(part: PretrainedConfig) -> None:
    """Keep the first layers, at least one of each kind: hybrid models mix attention with recurrences."""
    if isinstance(part, CausalT5Config):
        part.num_layers, part.num_decoder_layers = 2, 2
    values = part.to_dict()
    layers = values.get("num_hidden_layers", 0)
    if layers <= FEW_LAYERS:
        return
    kinds = values.get("layer_types") or ["the same"] * layers
    kept = next(n for n in range(2, layers + 1) if set(kinds[:n]) == set(kinds))
    for name, value in values.items():
        if isinstance(value, list) and len(value) == layers:
            setattr(part, name, value[:kept])
    part.num_hidden_layers = kept


def _narrower(part: PretrainedConfig) -> None:
    """Narrow the feed-forward layers: they hold most weights, and no other part depends on their width."""
    values = part.to_dict()
    for name in FEED_FORWARD:
        if isinstance(values.get(name), int):
            setattr(part, name, min(values[name], NARROW))


@torch.no_grad()
def _examine(model: PreTrainedModel) -> bool:
    _require_causal(model)
    _require_plain_output(model)
    _require_exact_padding(model)
    _require_exact_sampling(model)
    _require_classifier(model)
    return _packs(model)


def _require_causal(model: PreTrainedModel) -> None:
    """Raise UserError if a token sees later ones, as in encoders, which load as language models too."""
    row = _row(model, 12)
    changed = [*row[:6], *_row(model, 6, seed=1)]
    if not _same(_hidden(model, [row])[0][:6], _hidden(model, [changed])[0][:6]):
        raise UserError("It is not a causal language model: what it makes of a token depends on later ones. "
                        f"{OTHERS}")


def _require_plain_output(model: PreTrainedModel) -> None:
    """Raise UserError if the model changes its logits after the output layer, which SFT calls by itself."""
    row = _row(model, 12)
    logits = model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0]
    if not _same(model.get_output_embeddings()(_hidden(model, [row])[0]), logits):
        raise UserError("It changes its logits after the output layer (soft-capping or scaling), which SFT "
                        "here does not reproduce. Choose a model without, such as Llama, Qwen or SmolLM.")


def _require_exact_padding(model: PreTrainedModel) -> None:
    """Raise UserError if rows padded on the right (SFT, reward model) or left (PPO) differ from rows alone.
    """
    rows = [_row(model, length, seed=length) for length in LENGTHS]
    alone = [_hidden(model, [row])[0] for row in rows]
    for side, pad in (("right", right_pad), ("left", left_pad)):
        ids_BT, mask_BT = (padded.to(model.device) for padded in pad(rows, 0))
        hidden_BTD = model.base_model(
            input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions(mask_BT),
            use_cache=False).last_hidden_state
        if not all(_same(hidden_BTD[i][mask_BT[i].bool()], hidden_TD) for i, hidden_TD in enumerate(alone)):
            raise UserError(f"It reads padding on the {side} as if it were text, so rows of different "
                            f"lengths would change each other. {OTHERS}")


def _require_exact_sampling(model: PreTrainedModel) -> None:
    """Raise UserError if greedy sampling with its cache differs from a forward pass of the whole text."""
    rows = [_row(model, length, seed=length) for length in LENGTHS]
    # A stop token that the first row draws half-way, so that this row leaves the batch before the others.
    stop = _greedy(model, rows, stop=-1)[0][SAMPLED // 2]
    for row, response in zip(rows, _greedy(model, rows, stop), strict=True):
        whole = torch.tensor([row + response], device=model.device)
        logits_RV = model(input_ids=whole, use_cache=False).logits[0, len(row) - 1 : -1].float()
        chosen_R = logits_RV.gather(-1, torch.tensor(response, device=model.device)[:, None])[:, 0]
        if bool(((logits_RV.amax(-1) - chosen_R) > TOLERANCE * logits_RV.std()).any()):
            raise UserError("Sampling with its cache of earlier tokens gives other tokens than the whole "
                            f"text does, so responses would not be its own. {OTHERS}")


def _require_classifier(model: PreTrainedModel) -> None:
    """Raise UserError unless the sequence classifier is the model's body and one layer called `score`."""
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    with torch.device("meta"):  # without weights: only the names of its parts are needed
        classifier = AutoModelForSequenceClassification.from_config(config)
    body = {name for name in classifier.state_dict() if not name.startswith("score.")}
    if not hasattr(classifier, "score") or not body <= model.state_dict().keys():
        raise UserError("Its sequence classifier, which a reward model is made as, is not the body of the "
                        f"language model with a layer `score` on it. {OTHERS}")


@torch.no_grad()
def _packs(model: PreTrainedModel) -> bool:
    """True if the second of two demonstrations in a row is as it is alone, whatever the first one is."""
    second = _row(model, 12)
    at = torch.arange(12, device=model.device).repeat(2)[None]
    seen = []
    for seed in (1, 2):
        ids = torch.tensor([_row(model, 12, seed) + second], device=model.device)
        # As in SFT: no mask; positions that start again tell transformers where a demonstration begins.
        hidden_BTD = model.base_model(input_ids=ids, position_ids=at, use_cache=False).last_hidden_state
        seen.append(hidden_BTD[0, 12:])
    return _same(seen[0], seen[1]) and _same(seen[0], _hidden(model, [second])[0])


def _greedy(model: PreTrainedModel, rows: Sequence[list[int]], stop: int) -> list[list[int]]:
    return [response.ids for response in sample(model, rows, max_response=SAMPLED, stop=stop, temperature=0,
                                                generator=torch.Generator())]


def _hidden(model: PreTrainedModel, rows: Sequence[list[int]]) -> torch.Tensor:
    """Return the body's output [B, T, D] for rows of the same length."""
    hidden_BTD: torch.Tensor = model.base_model(
        input_ids=torch.tensor(rows, device=model.device), use_cache=False).last_hidden_state
    return hidden_BTD


def _row(model: PreTrainedModel, length: int, seed: int = 0) -> list[int]:
    size = int(model.config.get_text_config().vocab_size)
    generator = torch.Generator().manual_seed(seed)
    ids = list(torch.randint(FIRST_ID, size, (length,), generator=generator).tolist())
    if isinstance(model.config, CausalT5Config):
        # What comes before this is read by an encoder, of which no later token is asked.
        ids[min(2, length - 1)] = model.config.answer_start
    return ids


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= TOLERANCE * other.abs().mean())
