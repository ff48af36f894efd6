"""Policies: which weights of the language model learn, and what the others spare.

All of them are one class. What differs is which body computes log-probabilities and what the reference is:

    all     every weight learns; the reference is a frozen copy of SFT
    top     the last layers learn, on a frozen trunk that policy, reference and critic share (trunk.py); the
            reference is a copy of the last layers alone
    lora    low-rank adapters learn (Hu et al. 2022, arXiv 2106.09685); the reference is the same model with
            its adapters off: SFT itself, to the last bit

The reference is in the policy's own precision, whatever that is, so that the KL is exactly 0 before the first
step.

On several ranks all that learns is in parts from the beginning (lm/ranks/sharding.py), one model after the
other, so that a rank never holds two whole ones that learn.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from plumbline.alignment.online.nucleus import NucleusMask
from plumbline.alignment.sequences import Sequences, log_probs_by, response_logits
from plumbline.alignment.trunk import freeze_below, require_layers, top_of, trunk_of
from plumbline.config import PpoParams
from plumbline.config.methods import NlpoParams
from plumbline.lm.hidden import hidden_states
from plumbline.lm.optim import autocast
from plumbline.lm.ranks.sharding import fill, inside, put, sharded_with

Weights = dict[str, torch.Tensor]


class Learns:
    """A model of which some weights learn."""

    def learnt(self) -> dict[str, nn.Parameter]:
        """Return the weights that learn, by name."""
        raise NotImplementedError

    def parameters(self) -> list[nn.Parameter]:
        """Return the weights that learn."""
        return list(self.learnt().values())

    def weights(self) -> Weights:
        """Return the weights that learn, by name, without their gradients: not copies."""
        return {name: weight.detach() for name, weight in self.learnt().items()}

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        """Take over the weights that `weights` returned."""
        for name, weight in self.learnt().items():
            put(weight, weights[name])


@dataclass(frozen=True)
class Reference:
    """SFT, as what the policy is held near computes its log-probabilities."""

    body: nn.Module
    head: nn.Module
    model: PreTrainedModel | None = None
    """The model that both are part of, if it is one of its own."""


@dataclass(frozen=True)
class WholeModel:
    """The model of a policy, with all of its weights on this rank."""

    model: PreTrainedModel
    trunk: nn.Module | None
    adapted: PeftModel | None

    def merged(self) -> PreTrainedModel:
        """Return a model of its own without adapters, which gives the same answers."""
        if not self.adapted:
            return copy.deepcopy(self.model)
        merged: PreTrainedModel = copy.deepcopy(self.adapted).merge_and_unload()
        return merged

    def end(self) -> None:
        """Merge the adapters into the model for good, in its place: it is an ordinary model then."""
        if self.adapted:
            self.adapted.merge_and_unload()


@dataclass(frozen=True)
class Policy(Learns):
    """A language model that learns, in parts on several ranks, and the SFT model that it is held near."""

    model: PreTrainedModel
    """The whole model, with the weights of now."""
    body: nn.Module
    """The part that computes log-probabilities, below the output layer."""
    origin: WholeModel
    """What the policy was made of: the model itself on one rank. On several it has the frozen weights, and
    those that learn as they were when last asked for, none before."""
    temperature: float
    precision: str
    trunk: nn.Module | None = None
    """The frozen layers below `body`, if it is not the whole."""
    adapted: PeftModel | None = None
    """The model with its adapters, if it has some."""
    reference: Reference | None = None
    """None if it is the model with its adapters off."""
    start: Weights = field(default_factory=dict)
    """The learnt weights as they were at first."""
    mask: NucleusMask | None = None
    """NLPO's masking policy, if the method is that."""

    def whole(self) -> WholeModel:
        """Return the model with all of its weights of now on this rank; all ranks have to call it."""
        fill(self.origin.model, self.model)
        return self.origin

    def prepared(self, sequences: Sequences) -> Sequences:
        """Return the sequences with what the frozen trunk makes of them, which every later pass reads."""
        if self.trunk is None or sequences.trunk_BTD is not None:
            return sequences
        trunk = self.trunk
        return replace(sequences, trunk_BTD=inside(
            self.model, lambda: below(trunk, sequences, self.precision)))

    def masked(self, sequences: Sequences) -> Sequences:
        """Return the sequences with the tokens that could be sampled, if the method masks the others."""
        if self.mask is None or sequences.allowed_BRV is not None:
            return sequences
        return self.mask.marked(sequences)

    def log_probs(self, sequences: Sequences) -> torch.Tensor:
        """Return the log-probability [B, R], in nats, of each response token; 0 at padding."""
        return inside(self.model, lambda: log_probs_by(
            self.body, self.model.get_output_embeddings(), sequences, self.temperature, self.precision))

    def distributions(self, sequences: Sequences) -> torch.Tensor:
        """Return the log-probability [B, R, V] of each token of the vocabulary, in nats and fp32."""
        head = self.model.get_output_embeddings()
        logits_BRV = response_logits(self.body, head, sequences, self.precision)
        return (logits_BRV.float() / self.temperature).log_softmax(-1)

    @torch.no_grad()
    def reference_log_probs(self, sequences: Sequences) -> torch.Tensor:
        """Return the same under the reference."""
        reference = self.reference
        if reference is None:
            assert self.adapted, "a policy without a reference has adapters"
            with self.adapted.disable_adapter():
                return self.log_probs(sequences)
        return inside(reference.model, lambda: log_probs_by(
            reference.body, reference.head, sequences, self.temperature, self.precision))

    def learnt(self) -> dict[str, nn.Parameter]:
        """Return the weights that learn, by name."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}


def make_policy(
    model: PreTrainedModel, load_reference: Callable[[], PreTrainedModel], params: PpoParams, seed: int
) -> Policy:
    """Make the policy that `params.trainable` names of SFT's model.

    Adapters, and those that a critic gets after it, are drawn from `seed`, the same on all ranks. On several
    ranks `model` has no weights that learn from then on; `Policy.whole` gives it those of the policy.
    `load_reference` gives another SFT model, which is needed where all weights learn. Raises UserError for an
    architecture that cannot be split.
    """
    torch.manual_seed(seed)
    model.eval()
    mask = None
    if isinstance(params, NlpoParams):
        mask = NucleusMask(copy.deepcopy(model), params.mask_top_p, params.temperature, params.precision,
                           params.micro_batch_size)

    def made(
        body: nn.Module, trunk: nn.Module | None = None, adapted: PeftModel | None = None,
        reference: Reference | None = None,
    ) -> Policy:
        whole = WholeModel(model, trunk, adapted)
        parts, body, trunk, adapted = sharded_with(model, body, trunk, adapted)
        return Policy(parts, body, whole, params.temperature, params.precision, trunk, adapted, reference,
                      mask=mask)

    if params.trainable == "all":
        policy, sft = made(model.base_model), load_reference().eval()
        sft, body, head = sharded_with(sft, sft.base_model, sft.get_output_embeddings())
        return replace(policy, reference=Reference(body, head, sft), start=dict(sft.named_parameters()))

    if params.trainable == "lora":
        adapted = get_peft_model(model, LoraConfig(
            r=params.lora_rank, lora_alpha=params.lora_alpha, target_modules="all-linear", lora_dropout=0.0,
            task_type="CAUSAL_LM"))
        model.eval()
        policy = made(model.base_model, adapted=adapted)
    else:
        require_layers(model, params.top_layers, "top_layers")
        freeze_below(model, params.top_layers)
        embeddings = model.get_input_embeddings()
        frozen = {id(embeddings): embeddings, id(embeddings.weight): embeddings.weight}  # not copied
        top, trunk = top_of(model, params.top_layers), trunk_of(model, params.top_layers)
        body, head = copy.deepcopy((top, model.get_output_embeddings()), frozen)
        policy = made(top, trunk, reference=Reference(body, head))
    return replace(policy, start={name: weight.clone() for name, weight in policy.weights().items()})


@torch.no_grad()
def below(trunk: nn.Module, sequences: Sequences, precision: str) -> torch.Tensor:
    """Return what the trunk makes of each token, [B, T, D]."""
    with autocast(precision):
        return hidden_states(trunk, sequences.ids_BT, sequences.mask_BT)
