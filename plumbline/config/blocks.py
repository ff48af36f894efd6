"""The blocks of `params.yaml`, one a stage: the meaning and the range of each value.

They have no defaults, so that a value stands in one place.
"""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from plumbline.config.values import (
    Count,
    CountOrNone,
    Cron,
    EngineName,
    Finite,
    Fraction,
    NotNegative,
    ParamsBlock,
    Positive,
    Precision,
    ProbeName,
    Share,
    TimeZone,
    VersionedBlock,
)


class SnapshotParams(ParamsBlock):
    """Which preference data a run learns from."""

    sources: Annotated[list[str], Field(min_length=1)]
    """`simulated`, `added` (what `plumbline data add` brought), files, folders, or
    `hub:NAME[:CONFIG][:SPLIT]`; relative paths start at the project's root."""
    simulated_demonstrations: CountOrNone
    """Demonstrations that the simulated world writes."""
    simulated_comparisons: CountOrNone
    """Pairs that the simulated annotators judge."""
    simulated_rankings: CountOrNone
    """Rankings of four responses that the simulated annotators give."""


class IngestParams(VersionedBlock):
    """How rows are checked and split."""

    validation_fraction: Share
    """Share of prompts kept for measuring during training."""
    heldout_fraction: Share
    """Share of prompts that no training ever sees."""
    judge_fraction: Annotated[float, Field(ge=0, lt=1)]
    """Share of the other prompts that only the second reward model sees, which judges the policy; none is
    kept where all data is simulated and the gold reward judges."""
    split_salt: str
    """Any text: another one gives all prompts other splits, as benchmarks want for each of their seeds. Never
    change it while a champion is in use, which has learnt from what is held out then."""
    near_duplicate: Fraction | None
    """Similarity (Jaccard, of words and word pairs; with and without the system message) to a held-out prompt
    that keeps a prompt out of training; null compares none."""
    chosen_as_demonstrations: bool
    """If true, the best response of each comparison or ranking also serves as a demonstration."""
    max_quarantined: Fraction | None
    """A limit: share of the rows read that may be in quarantine. Null, here and below, checks nothing."""
    max_contradictions: Fraction | None
    """A limit: share of the pairs judged again that may have both labels."""
    max_cycles: Fraction | None
    """A limit: share of prompts with three or more decided pairs whose preferences may go in a circle."""
    min_agreement: Annotated[float, Field(ge=-1, le=1)] | None
    """A limit: Krippendorff's alpha between annotators; 1 is perfect, 0 is chance."""
    max_near_chance_annotators: Fraction | None
    """A limit: share of annotators whose agreement with the others may be like a coin's."""
    max_longer_wins: Fraction | None
    """A limit: share of decided pairs in which the longer response may win."""
    max_first_shown_wins: Fraction | None
    """A limit: share of decided pairs in which the response shown first may win."""
    max_machine: Fraction | None
    """A limit: share of labels that may be a machine's."""
    max_damaged_texts: Fraction | None
    """A limit: share of a source's texts that may have traces of a wrong encoding."""
    max_templated_texts: Fraction | None
    """A limit: share of a source's texts that may carry the markers of a chat template."""
    min_heldout_preferences: Count | None
    """A limit: held-out comparisons and rankings."""


class BaseParams(VersionedBlock):
    """The language model to align."""

    source: str
    """`pretrain`, a hub name, a folder, a `.gguf` file, or `package:NAME/FILE` for one in a package. When
    what it holds has changed, raise `version`: the stage depends on parameters alone."""
    hidden_size: Count
    """Width of the model to pretrain."""
    layers: Count
    """Layers of the model to pretrain."""
    heads: Count
    """Attention heads of the model to pretrain."""
    vocabulary: Count
    """Largest number of tokens of the tokenizer to train."""
    context: Count
    """Longest sequence, in tokens, of the model to pretrain."""
    tokens: Count
    """Tokens to pretrain on."""
    batch_size: Count
    """Sequences a step of pretraining."""
    learning_rate: Positive
    """Peak learning rate of pretraining."""
    checkpoint_every: Count
    """Steps of pretraining between resume checkpoints."""

    @field_validator("heads")
    @classmethod
    def _heads_share_the_width(cls, heads: int, info: ValidationInfo) -> int:
        width, pairs = info.data.get("hidden_size", 0), 2 * heads
        if info.data.get("source") == "pretrain" and width % pairs:
            raise ValueError(f"a number that divides base.hidden_size = {width} into even parts, because "
                             "rotary positions turn pairs of numbers; set base.hidden_size to "
                             f"{-(-width // pairs) * pairs}, or base.heads to such a number")
        return heads

    @field_validator("context")
    @classmethod
    def _a_token_has_others_before_it(cls, context: int, info: ValidationInfo) -> int:
        if info.data.get("source") == "pretrain" and context < 2:
            raise ValueError("at least 2, because a token is learnt from those before it; raise it")
        return context


class SftParams(VersionedBlock):
    """Supervised fine-tuning on demonstrations."""

    epochs: NotNegative
    """Passes over the demonstrations; 0 keeps the base model as it is."""
    batch_size: Count
    """Packed sequences an optimizer step."""
    micro_batch_size: Count
    """Packed sequences a forward pass."""
    learning_rate: Positive
    """Peak learning rate."""
    warmup: Fraction
    """Share of the steps over which the learning rate rises."""
    max_length: Count
    """Longest sequence in tokens; longer demonstrations are cut at the end, and counted."""
    precision: Precision
    """Arithmetic of the forward pass; weights and optimizer stay fp32."""
    checkpoint_every: Count
    """Steps between resume checkpoints."""


class RewardModelParams(VersionedBlock):
    """Reward-model training on preferences."""

    members: Annotated[int, Field(ge=1, le=16)]
    """Reward models to train on the same preferences, in orders and with heads of their own: an ensemble,
    whose score is the mean of theirs in standard deviations of the SFT policy's answers, unless `ppo.combine`
    names another (Coste et al. 2023, arXiv 2310.02743)."""
    epochs: Positive
    """Passes over the preferences."""
    pretrain_on: list[str]
    """Sources whose preferences are learnt first, by themselves, before those of all others: large public
    ones before the few of one's own (preference-model pretraining: Askell et al. 2021, arXiv 2112.00861,
    section 4). Only the others' are validated on."""
    pretrain_epochs: Positive
    """Passes over the preferences of `pretrain_on`; the learning rate rises and falls over them, too."""
    batch_size: Count
    """Comparisons and rankings an optimizer step."""
    micro_batch_size: Count
    """Comparisons a forward pass; a ranking of K responses is as many as K/2 of them."""
    learning_rate: Positive
    """Peak learning rate."""
    warmup: Fraction
    """Share of the steps over which the learning rate rises."""
    max_length: Count
    """Longest prompt with response in tokens; pairs with a longer side are dropped and counted."""
    top_layers: Count | None
    """Last layers that learn, with those below as SFT left them, so that PPO's policy and critic can share
    these (`ppo.trainable: top`); null lets all learn."""
    ranking_loss: Literal["pairs", "plackett_luce"]
    """Loss of a ranking: the mean over its pairs, or over the choices of the best among those that are left;
    a ranking with ties is always learnt from its pairs, and a comparison is the same in both."""
    margin_scale: NotNegative
    """By how much, in units of reward, the preferred response of the strongest judgements must be ahead;
    weaker ones in proportion to the share of their source's strengths that are smaller. 0 is no margin."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)]
    """Probability with which each label of a pair is taken to be wrong."""
    precision: Precision
    """Arithmetic of the forward pass."""
    centering_samples: Annotated[int, Field(ge=8)]
    """Random prompts to whose answers by the SFT policy the mean reward is 0, its deviation the unit; of the
    answers at least 8 must end."""
    checkpoint_every: Count
    """Steps between resume checkpoints."""


class RewardEvalParams(VersionedBlock):
    """Examination of the reward model on held-out preferences, and the gate before PPO."""

    min_accuracy: Fraction
    """The gate: the lower end of the 95 % interval of held-out accuracy must reach this."""
    min_similar_length_accuracy: Fraction | None
    """The gate: the lower end of the accuracy on pairs of similar length (ratio at most 1.25) must exceed
    this. Null, here and below, asks nothing."""
    beats_length: bool
    """The gate: if true, the accuracy may not be below that of preferring the longer, or the shorter,
    response."""
    min_kind_accuracy: Fraction | None
    """The gate: no kind of prompt, and no source, may have an accuracy whose upper end is below this."""
    probes: list[ProbeName]
    """Spoilt responses that must not be preferred to the chosen ones; evaluation/probes.py says what each is.
    Leave out those that people honestly prefer in your data, such as `refusal` where they ask for harm."""
    probe_prompts: Count
    """Held-out prompts to try each probe on, at most."""
    max_probe_wins: Fraction | None
    """The gate: share in which a probe may win; the lower end of its interval must not exceed this."""
    precision: Precision
    """Arithmetic of the reward model."""


class JudgeParams(VersionedBlock):
    """The second reward model, which judges the policy: trained as `reward_model` says, but always a single
    one, on the prompts that `ingest.judge_fraction` keeps for it, from the next seed."""


class RewardParts(ParamsBlock):
    """What a policy is rewarded for."""

    rewards: Annotated[dict[str, Positive], Field(min_length=1)]
    """What the reward is made of, and the weight of each, in standard deviations of the SFT policy's answers:
    `reward` (the stage's reward model), a folder or hub name of another one (a sequence classifier of
    transformers with one output, of any tokenizer), `module:function` from the project's root, which gets a
    list of (prompt, response) and returns a number for each. Given anew, it replaces the whole. When what a
    function does or a folder holds has changed, raise `version`."""
    combine: Literal["sum", "min", "mean_minus_deviation"]
    """What several of them give together: their sum, the lowest, or their mean less their standard deviation,
    which trusts an ensemble as far as its members agree (Coste et al. 2023, arXiv 2310.02743). In the latter
    two each of `reward_model.members` counts by itself, in a sum their mean."""
    length_penalty: NotNegative
    """Standard deviations that each token beyond `length_free` costs an answer; 0 is none."""
    length_free: CountOrNone
    """Tokens that `length_penalty` leaves free."""
    repetition_penalty: NotNegative
    """Standard deviations that an answer costs of whose sequences of 4 tokens all were repeated, otherwise in
    proportion to their share; 0 is none."""

    @property
    def reward_model_alone(self) -> bool:
        """True if it is the stage's reward model as it judges, and nothing else."""
        return not (self.measured_on_answers or self.length_penalty or self.repetition_penalty)

    @property
    def measured_on_answers(self) -> bool:
        """True if several rewards are combined, whose units have to be measured on answers of SFT."""
        return list(self.rewards) != ["reward"] or self.combine != "sum"


class PpoParams(RewardParts, VersionedBlock):
    """Proximal policy optimisation against the reward model."""

    trainable: Literal["all", "top", "lora"]
    """Which weights learn: all, those of the last layers on frozen ones, or low-rank adapters."""
    top_layers: Count
    """Last layers that learn, with `trainable: top`."""
    lora_rank: Count
    """Rank of the adapters, with `trainable: lora`."""
    lora_alpha: Count
    """The adapters' output is multiplied by this over their rank."""
    critic: Literal["separate", "shared"]
    """The value model: a copy of the reward model, or one that shares what the policy leaves frozen."""
    updates: Count
    """Rounds of sampling and learning."""
    value_warmup: CountOrNone
    """Batches of responses that train the value model alone, before the first update."""
    batch_size: Count
    """Responses sampled an update."""
    answers_per_prompt: Count
    """Responses to each prompt among them."""
    epochs: Count
    """Passes over each batch of responses."""
    minibatches: Count
    """Optimizer steps a pass."""
    micro_batch_size: Count
    """Responses a forward pass with gradients; it changes memory, not results."""
    learning_rate: Positive
    """Learning rate of the policy, falling linearly to 0 over the updates."""
    value_learning_rate: Positive
    """Learning rate of the value model."""
    clip: Positive
    """Range in which the probability ratio may move (epsilon)."""
    value_clip: Positive | None
    """Range in which a value may move away from its value at sampling time, in standard deviations of the SFT
    policy's rewards, with `whiten_rewards` in those of the batch's; null is no limit."""
    ptx_coef: NotNegative
    """Weight, beside the policy's loss, of the mean loss a token of demonstrations (PPO-ptx: Ouyang et al.
    2022, equation 2), as many in each minibatch as there are responses; 0 uses none."""
    max_step_kl: Positive | None
    """Mean KL, in nats a token, from the policy that sampled, beyond which the passes over a batch end."""
    whiten_rewards: bool
    """If true, the rewards of a batch's tokens are divided by their standard deviation."""
    gamma: Fraction
    """Discount a token."""
    gae_lambda: Fraction
    """Lambda of generalised advantage estimation."""
    kl_coef: NotNegative
    """Weight of the KL penalty (beta), in standard deviations of the SFT policy's rewards a nat; the starting
    value when `kl_target` is set."""
    kl_in: Literal["reward", "loss"]
    """Where the KL penalty is paid: in each token's reward, or in the loss, where `kl_coef` is
    taken as it is; trpo takes it in the reward alone."""
    kl_estimator: Literal["k1", "k2", "k3"]
    """How a sampled token's KL is estimated; k1 is the log-ratio itself, k2 half its square, k3 is never
    negative."""
    kl_target: Positive | None
    """Mean KL a response, in nats, that the adaptive controller steers to; null keeps `kl_coef` fixed."""
    kl_horizon: Count
    """Episodes over which the adaptive controller may raise beta by 22 % or lower it by 18 %, so that to
    double it takes three and a half of them; it moves beta by at most a fifth an update."""
    temperature: Positive
    """Temperature of sampling; log-probabilities use the same one everywhere."""
    max_prompt: Count
    """Longest prompt in tokens; longer ones are left out and counted."""
    max_response: Count
    """Longest response in tokens."""
    missing_stop_deviations: NotNegative
    """A response that did not stop by itself within `max_response` gets, in place of the reward model's
    reward, so many standard deviations below the SFT policy's mean."""
    kl_limit: Positive | None
    """Mean KL a response, in nats, beyond which no policy is kept: training stops at the first measurement
    that finds it there. Null is no limit."""
    evaluate_every: Count
    """Updates between measurements on validation prompts, from which the policy to keep is chosen."""
    validation_prompts: Count
    """Validation prompts that the policy answers each time, at most."""
    engine: EngineName
    """What samples the responses: our own sampler, or the vLLM server whose address is in the environment
    variable PLUMBLINE_VLLM_URL (docs/scale.md)."""
    rollout_correction: Annotated[Finite, Field(ge=1)] | None
    """Largest weight of a token in the policy's loss, which is its probability by the training over that by
    the engine that sampled it (truncated importance sampling: Yao et al. 2025, "Your efficient RL framework
    secretly brings you off-policy RL training"); null weighs all tokens alike."""
    max_grad_norm: Positive
    """Gradient norm at which policy and value gradients are clipped."""
    precision: Precision
    """Arithmetic of the forward passes; weights and optimizers stay fp32."""
    checkpoint_every: Count
    """Updates between resume checkpoints."""


class DirectParams(VersionedBlock):
    """Methods that learn from the preferences themselves, without a reward model: what all of them share."""

    epochs: Positive
    """Passes over the preferences."""
    batch_size: Count
    """Comparisons and rankings an optimizer step."""
    micro_batch_size: Count
    """Comparisons a forward pass; it changes memory, not results."""
    learning_rate: Positive
    """Peak learning rate."""
    warmup: Fraction
    """Share of the steps over which the learning rate rises."""
    max_length: Count
    """Longest prompt with response in tokens; pairs with a longer side are dropped and counted."""
    max_grad_norm: Positive
    """Gradient norm at which gradients are clipped."""
    precision: Precision
    """Arithmetic of the forward passes; weights and optimizer stay fp32."""
    checkpoint_every: Count
    """Steps between resume checkpoints."""


class PreferenceEvalParams(VersionedBlock):
    """The policy against SFT, and against the champion, on held-out prompts."""

    judges: Annotated[list[str], Field(min_length=1)]
    """Who judges; the first one decides. `auto` (gold where all data is simulated, otherwise second), `gold`,
    `second` (the reward model of stage `judge`), `reward` (the one that PPO optimised), `module:function`
    from the project's root, an OpenAI-compatible endpoint as `https://host/v1#model`, or a language model as
    `base.source` names it. When what a function or an endpoint does, or a model's files hold, has changed,
    raise `version`."""
    judge_limit: CountOrNone
    """Requests that each endpoint may be sent in one evaluation; each pair takes two."""
    prompts: Count
    """Held-out prompts to answer, at most: a random sample, the same each time."""
    answers_per_prompt: Count
    """Sampled answers to each prompt; each model also gives a greedy one."""
    best_of: CountOrNone
    """Answers of SFT of which the one that the reward model likes best meets the policy's; 0: none."""
    bon_pool: CountOrNone
    """Answers of SFT to each of `bon_prompts` prompts: the best of 1, 2, 4 ... of them show how far the
    reward model can be optimised; 0: none."""
    bon_prompts: Count
    """Prompts with such a pool."""
    comparisons: Count
    """Held-out comparisons, and demonstrations, whose likelihoods are measured, at most."""
    temperature: Positive
    """Temperature of sampling."""
    max_response: Count
    """Longest response in tokens."""
    engine: EngineName
    """What samples the answers, see `ppo.engine`. A server answers for every model of SFT's architecture and
    stop tokens; for another, such as a champion of another base model, our own sampler does."""
    precision: Precision
    """Arithmetic of the models."""


class PromoteParams(VersionedBlock):
    """When the new policy becomes champion."""

    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]*$")]
    """Name in the model registry."""
    min_win_rate: Fraction
    """The lower end of the 95 % interval of the win rate against SFT, and against the champion, must exceed
    this."""
    min_win_rate_greedy: Fraction | None
    """The same for the win rate against SFT where both answer greedily. Null, here and below, asks
    nothing."""
    max_kind_loss: Annotated[float, Field(ge=0, le=0.5)] | None
    """No kind of prompts may surely be lost by more than this: the upper end of no kind's interval of the win
    rate against SFT may lie below 0.5 minus this."""
    max_length_growth: Positive | None
    """How many times as long as SFT's the policy's answers may be, in characters."""
    max_kl: Positive | None
    """Largest KL from SFT in nats a response."""
    non_inferior_by: Annotated[float, Field(ge=0, le=0.5)] | None
    """Where rows that the champion learned from were removed since, the policy need not beat it: the lower
    end of the win rate against it must exceed 0.5 minus this. Null asks for a better policy then, too."""
    approval: bool
    """If true, a policy that passes every rule waits for a person: `plumbline promote`, or the model's
    page."""


class RetrainParams(ParamsBlock):
    """When the pipeline runs by itself, under `plumbline up`. Not a stage: no result depends on it."""

    cron: Cron | None
    """When it runs by the clock: minute, hour, day of the month, month, day of the week; null never."""
    timezone: TimeZone
    """The clock that `cron` is read by."""
    min_new_comparisons: Count
    """Judgements (comparisons, rankings, ratings) that must have arrived since the champion's snapshot; with
    fewer, a run by the clock or for new preferences ends at once. A run that a person starts always runs."""
    debounce_seconds: Annotated[float, Field(ge=0.1, le=31_536_000)]
    """Seconds from the first new batch to the run that learns from it, and from all that arrives meanwhile;
    a year's at most."""
    watched: str | None
    """Folder or bucket prefix (`s3://bucket/prefix`) whose new files are added; null watches none."""
    settle_seconds: NotNegative
    """Seconds for which a watched file must not have changed before it is read."""
    webhook: Annotated[str, Field(pattern=r"^https?://[^\s]+$")] | None
    """Where the ends of runs, failed gates and new champions are posted to; null is nowhere."""
