"""How much memory and work a configuration asks for, stage by stage, before anything starts.

What one of R processes holds while a model with N weights learns, in bytes:

    states    fp32 weights, gradient and Adam's two moments of what learns, 16 a weight, in shards of 1/R; of
              policy and critic one has its gradient at a time
    copies    models that do not learn: reference, reward model, judge, the best policy so far, in shards,
              too; and what samples, and other reward models, which each process has whole
    moment    the fullest one beside these: what a micro-batch's forward pass keeps for its gradient, the
              cache of the answers that are sampled at once by our own engine, or a whole model, which each of
              several processes loads before it is shared out, and gets back at the end

OVERHEAD, what Python and torch take themselves, comes on top. Left out are the gaps of the allocator and,
with several processes, the layers that are gathered one at a time. The module knows no torch: the model's
size has been measured elsewhere (model_size.py).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from plumbline.config import Params, PpoParams, SftParams, candidate_params
from plumbline.config.blocks import DirectParams
from plumbline.config.methods import METHODS, IlqlParams, NlpoParams, RejectionParams
from plumbline.config.online import WITH_CRITIC

OVERHEAD = 600_000_000
"""Bytes of a process that has loaded torch and transformers."""
STATES, FP32, BF16 = 16, 4, 2
LOGITS = 3 * FP32
"""Bytes of a logit that is learnt from as a whole: itself, its softmax, its gradient."""
NUCLEUS = 5 * FP32 + 8 + 2
"""Bytes of a logit while NLPO's mask is made: itself, at the temperature, as a probability in order of size,
the sum of the likelier ones, and that with it; its place in the order; whether it is kept, in either order.
"""
HEADS = 2
"""Values that ILQL learns of each token of the vocabulary, each with a target that follows it."""
PROBABILITIES = 2**26 * FP32
"""The most that the log-probabilities of a micro-batch keep, see lm/log_probs.py."""
SAMPLED_AT_ONCE = 128
"""Answers that a rejection sampling asks for at once, see lm/engines/own.py."""
CENTRED_AT_ONCE = 64
"""Answers of SFT that our own sampler makes at once, whatever the engine, to centre a reward model or to
measure rewards on, see alignment/own_answers.py.
"""
SIDES = 2
"""Answers of a comparison."""

Ranks = Callable[[str], int]
"""Gives the processes of a stage, on all nodes together."""


@dataclass(frozen=True)
class KeptBytes:
    """Bytes that a forward pass of the body keeps for its gradient, weights apart."""

    fixed: int
    """However many tokens there are: in bf16, the weights' copies."""
    per_token: float
    per_pair: float
    """A pair of tokens of one row: a mask."""


@dataclass(frozen=True)
class ModelSize:
    """What a model takes."""

    weights: int
    """Weights, those that are tied counted once."""
    head: int
    """Weights of the output layer among them; 0 where it is the embedding."""
    in_layers: int
    """Weights of all decoder layers among them."""
    layers: int
    vocabulary: int
    width: int
    """Of a hidden state."""
    kept_fp32: KeptBytes
    kept_bf16: KeptBytes
    cache_per_token: int
    """Bytes that the cache holds of a token in fp32."""
    flops_per_token: float
    """FLOPs of a forward pass, a token."""
    flops_per_pair: float
    """FLOPs on top, a pair of tokens of one row."""

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Self:
        """Return the size that `asdict` made plain values of."""
        return cls(**{**plain, **{name: KeptBytes(**plain[name]) for name in ("kept_fp32", "kept_bf16")}})

    @property
    def body(self) -> int:
        """Return the weights without the output layer: those of a reward model, but for its small head."""
        return self.weights - self.head

    def flops(self, tokens: int) -> float:
        """Return the FLOPs of a forward pass over a row of so many tokens."""
        return tokens * (self.flops_per_token + self.flops_per_pair * tokens)

    def kept(self, rows: int, tokens: int, precision: str) -> int:
        """Return the bytes that a forward pass over rows of so many tokens keeps in `precision`."""
        kept = self.kept_bf16 if precision == "bf16" else self.kept_fp32
        return round(kept.fixed + rows * tokens * (kept.per_token + kept.per_pair * tokens))

    def top(self, layers: int) -> int:
        """Return the weights of the last layers, all taken as alike."""
        return self.in_layers * min(layers, self.layers) // self.layers


@dataclass(frozen=True)
class RewardModels:
    """What scores answers and is not trained by the stage."""

    members: int
    """Of the stage's reward model."""
    judge: bool
    """Whether there is a second reward model."""
    outside: Mapping[str, Sequence[int]]
    """Of each other reward model its weights, and then those of further members that are an ensemble with it.
    """

    def outside_bytes(self, rewards: Iterable[str], stored: int, ranks: int) -> int:
        """Return the bytes of those among `rewards`: each process has them whole, but for further members."""
        found = [self.outside[name] for name in rewards if name in self.outside]
        return sum(stored * first + sum(stored * one // ranks for one in more) for first, *more in found)

    def outside_weights(self, rewards: Iterable[str]) -> int:
        """Return the weights of those among `rewards`, all members together."""
        return sum(sum(self.outside.get(name, ())) for name in rewards)


@dataclass(frozen=True)
class Footprint:
    """What one process of a stage needs."""

    stage: str
    states: int
    copies: int
    moment: int
    flops: float
    """Of what `work` names, on all processes together."""
    work: str = "a step"
    """`a step` of the optimizer, or `an update`: a whole one of an online method."""

    @property
    def bytes(self) -> int:
        """Return the bytes of one process."""
        return OVERHEAD + self.states + self.copies + self.moment


def footprints(
    params: Params, size: ModelSize, ranks: Ranks, judge: bool,
    outside: Mapping[str, Sequence[int]] | None = None,
) -> list[Footprint]:
    """Return what each stage that trains needs, candidates of a comparison included.

    `judge` says whether there is a second reward model, which is trained as the first one is; `outside` has
    the weights of other reward models, see `RewardModels`.
    """
    rewards = RewardModels(params.reward_model.members, judge, outside or {})
    found = [_sft("sft", params.sft, size, ranks("sft")),
             _reward_model("reward_model", params, size, ranks("reward_model"))]
    if judge:
        found.append(_reward_model("judge", params, size, ranks("judge")))
    found.append(_online("ppo", "ppo", params.ppo, size, ranks("ppo"), rewards))
    for name in params.compare:
        stage, method = f"candidate@{name}", params.candidates[name]["method"]
        found.append(_candidate(stage, method, candidate_params(params, name), size, ranks(stage), rewards))
    return found


def _candidate(
    stage: str, method: str, values: object, size: ModelSize, ranks: int, rewards: RewardModels
) -> Footprint:
    if isinstance(values, PpoParams):
        return _online(stage, method, values, size, ranks, rewards)
    if isinstance(values, RejectionParams):
        return _rejection(stage, values, size, ranks, rewards)
    assert isinstance(values, DirectParams), f"{method} is one of {', '.join(METHODS)}"
    return _direct(stage, values, size, ranks)


def _sft(stage: str, sft: SftParams, size: ModelSize, ranks: int) -> Footprint:
    rows = min(sft.micro_batch_size, _share(sft.batch_size, ranks))
    moment = _demonstrations(rows, sft.max_length, sft.precision, size)
    flops = 3 * sft.batch_size * size.flops(sft.max_length)
    return Footprint(stage, STATES * size.weights // ranks, 0, max(moment, _whole_again(size.weights, ranks)),
                     flops)


def _rejection(
    stage: str, rejection: RejectionParams, size: ModelSize, ranks: int, rewards: RewardModels
) -> Footprint:
    """Return what the fine-tuning needs, or what the sampling before it does, if that is more: for it each
    process has the whole policy and the reward models, and of an ensemble parts of the other members. Before
    other reward models are there, the policy's answers are sampled that these are measured on.
    """
    learning = _sft(stage, rejection, size, ranks)
    stored = BF16 if rejection.precision == "bf16" else FP32
    cache_of_one = rejection.max_length * size.cache_per_token
    cache = _share(SAMPLED_AT_ONCE, ranks) * cache_of_one if rejection.engine == "own" else 0
    measuring = _share(CENTRED_AT_ONCE, ranks) * cache_of_one if rejection.measured_on_answers else 0
    reward, outside = stored * size.body, rewards.outside_bytes(rejection.rewards, stored, ranks)
    sampling = FP32 * size.weights + reward + (rewards.members - 1) * reward // ranks \
        + max(outside + cache, measuring)
    return replace(learning, moment=max(learning.moment, sampling - learning.states))


def _reward_model(stage: str, params: Params, size: ModelSize, ranks: int) -> Footprint:
    """Return what the training needs, or what SFT does before it, if that is more: each process has it whole
    for the answers to centre on, and lets it go before it loads the reward model.
    """
    reward = params.reward_model
    learns = size.body if reward.top_layers is None else size.top(reward.top_layers)
    states, copies = _states(size.body, learns, ranks), _beside(size.body - learns, ranks)
    rows = SIDES * min(reward.micro_batch_size, _share(reward.batch_size, ranks))
    kept = size.kept(rows, reward.max_length, reward.precision)
    answers = _share(min(CENTRED_AT_ONCE, reward.centering_samples), ranks)
    cache = answers * (params.ppo.max_prompt + params.ppo.max_response) * size.cache_per_token
    answering = FP32 * size.weights + cache
    moment = max(kept, _whole_again(learns, ranks), answering - states - copies)
    flops = 3 * SIDES * reward.batch_size * size.flops(reward.max_length)
    return Footprint(stage, states, copies, moment, flops)


def _direct(stage: str, direct: DirectParams, size: ModelSize, ranks: int) -> Footprint:
    rows = SIDES * min(direct.micro_batch_size, _share(direct.batch_size, ranks))
    tokens, learns, targets = rows * direct.max_length, size.weights, 0
    logits = _probabilities(tokens, size)
    if isinstance(direct, IlqlParams):
        targets = HEADS * size.vocabulary * size.width
        learns += targets
        logits = (1 + HEADS) * tokens * size.vocabulary * LOGITS
    states, copies = STATES * learns // ranks, FP32 * targets // ranks + _beside(targets, ranks)
    kept = size.kept(rows, direct.max_length, direct.precision)
    # The optimizer is gone by then. ILQL's output layer is made anew, of the mean of its targets.
    at_the_end = FP32 * (learns + targets) - _gone(states) if ranks > 1 else 0
    flops = 3 * SIDES * direct.batch_size * size.flops(direct.max_length)
    return Footprint(stage, states, copies, max(kept + logits, at_the_end), flops)


def _online(
    stage: str, method: str, ppo: PpoParams, size: ModelSize, ranks: int, rewards: RewardModels
) -> Footprint:
    stored = BF16 if ppo.precision == "bf16" else FP32
    states, copies = _policy(ppo, size, stored, ranks)
    # Sampling; policy and reference; rewards; with gradients.
    outside = rewards.outside_weights(ppo.rewards) / size.weights
    passes = 1 + 2 + rewards.members + outside + 3 * ppo.epochs
    whole, reward = FP32 * size.weights, stored * size.body
    mask = whole if isinstance(ppo, NlpoParams) else 0
    # A reward model that carries the critic's adapters is not taken apart, and no value model is loaded.
    adapted = method in WITH_CRITIC and ppo.trainable == "lora" and ppo.critic == "shared"
    if method in WITH_CRITIC:
        passes += 1 + 3 * ppo.epochs
    if method in WITH_CRITIC and not adapted:
        learns = size.body if ppo.critic == "separate" else size.top(ppo.top_layers)
        # The gradients of the two are never there at the same time.
        states += _states(size.body, learns, ranks) - FP32 * min(learns, _learns(ppo, size)) // ranks
        copies += _beside(size.body - learns, ranks)
    scoring = reward // ranks * (rewards.members + rewards.judge)
    if adapted and ranks > 1:
        scoring += reward
    copies += scoring + mask + rewards.outside_bytes(ppo.rewards, stored, ranks)

    length = ppo.max_prompt + ppo.max_response
    cache = _answers(ppo, ranks) * length * size.cache_per_token * stored // FP32
    if ppo.engine != "own":  # the server has it
        cache = 0
    if ppo.trainable == "top" and ranks == 1:  # what the trunk makes of a batch is kept for all epochs
        copies += FP32 * ppo.batch_size * length * size.width
    # Adapters are merged into a copy in fp32, which is rounded once it is there.
    rounding = whole - stored * size.weights if ppo.trainable == "lora" else 0
    at_the_start = 0
    if ranks > 1 and ppo.trainable == "top":
        # Each process loads its models whole, and takes them apart one after the other. Only with top layers
        # is that more than what it holds later: when the last model comes, SFT's frozen layers are whole, and
        # so are the reference's others.
        last = FP32 * size.body if method in WITH_CRITIC else reward
        at_the_start = whole + last + (whole + last) // ranks + scoring + mask - states - copies
    moment = max(_learning(ppo, size, ranks), cache, rounding, at_the_start)
    return Footprint(stage, states, copies, moment, passes * ppo.batch_size * size.flops(length), "an update")


def _learning(ppo: PpoParams, size: ModelSize, ranks: int) -> int:
    """Return the bytes of a micro-batch that is learnt from: of responses, or with `ptx_coef` of
    demonstrations.

    NLPO has all logits at once, and a mask, of a byte for each token of the vocabulary at each place of all
    responses of this process, which is made a micro-batch at a time.
    """
    share, length = _share(ppo.batch_size, ranks), ppo.max_prompt + ppo.max_response
    rows = min(ppo.micro_batch_size, _share(ppo.batch_size // ppo.minibatches, ranks))
    kept = size.kept(rows, length, ppo.precision)
    rehearsing = _demonstrations(rows, length, ppo.precision, size) if ppo.ptx_coef else 0
    if not isinstance(ppo, NlpoParams):
        return max(kept + _probabilities(rows * ppo.max_response, size), rehearsing)
    of_a_row = ppo.max_response * size.vocabulary
    making = min(ppo.micro_batch_size, share) * of_a_row * NUCLEUS
    return share * of_a_row + max(making, kept + rows * of_a_row * LOGITS, rehearsing)


def _demonstrations(rows: int, length: int, precision: str, size: ModelSize) -> int:
    """Return the bytes of a micro-batch of demonstrations that is learnt from, with all its logits."""
    return size.kept(rows, length, precision) + rows * length * size.vocabulary * LOGITS


def _policy(ppo: PpoParams, size: ModelSize, stored: int, ranks: int) -> tuple[int, int]:
    """Return the bytes of the policy's states, and of the copies of SFT and of the policy beside it."""
    whole = FP32 * size.weights
    if ppo.trainable == "lora":  # the reference is the policy without its adapters; a merged copy samples
        return whole // ranks, stored * size.weights + _beside(size.weights, ranks)
    learns = _learns(ppo, size)
    # In fp32 one process samples from the policy itself, and several from the model that they made it of.
    sampling = stored * size.weights if ppo.precision == "bf16" else _beside(learns, ranks)
    if ppo.trainable == "all":  # the reference, and the best policy so far
        return STATES * size.weights // ranks, sampling + 2 * whole // ranks
    # Of the layers that learn: the reference, what they were at first, and the best so far.
    beside = FP32 * learns + 2 * FP32 * learns // ranks
    return _states(size.weights, learns, ranks), sampling + _beside(size.weights - learns, ranks) + beside


def _learns(ppo: PpoParams, size: ModelSize) -> int:
    """Return the policy's weights that learn; adapters count as none."""
    return {"all": size.weights, "top": size.top(ppo.top_layers) + size.head, "lora": 0}[ppo.trainable]


def _states(weights: int, learns: int, ranks: int) -> int:
    return (FP32 * weights + (STATES - FP32) * learns) // ranks


def _gone(states: int) -> int:
    """Return the bytes of gradients and moments among the states of a model that learns as a whole."""
    return (STATES - FP32) * states // STATES


def _beside(frozen: int, ranks: int) -> int:
    """Return the bytes of frozen weights that each of several processes keeps whole, beside their parts."""
    return FP32 * frozen if ranks > 1 else 0


def _whole_again(learns: int, ranks: int) -> int:
    """Return the bytes, beyond the states, of weights that are put together while the optimizer is there: its
    gradients are gone.
    """
    return FP32 * learns - FP32 * learns // ranks


def _answers(ppo: PpoParams, ranks: int) -> int:
    """Return the most answers that a process samples at once, to learn from or to validate by."""
    return max(_share(ppo.batch_size, ranks), min(ppo.batch_size, _share(ppo.validation_prompts, ranks)))


def _probabilities(tokens: int, size: ModelSize) -> int:
    return min(PROBABILITIES, tokens * size.vocabulary * FP32)


def _share(rows: int, ranks: int) -> int:
    return -(-rows // ranks)
