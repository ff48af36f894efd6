"""Parameters: one block a stage, checked before anything runs.

`params.yaml` holds every value; a file given with `--params` and settings given with `--set` override some of
them. The classes here define the meaning and the range of each value. They have no defaults, so that a value
stands in one place.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from plumbline.errors import UserError

Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[Finite, Field(gt=0)]
NotNegative = Annotated[Finite, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Precision = Literal["fp32", "bf16"]
ProbeName = Literal["empty", "repeated", "padded", "cut", "echo", "other", "refusal", "flattery", "trigger"]
RENAMED = {
    "ppo.missing_stop_reward": "`ppo.missing_stop_deviations`: standard deviations below the SFT policy's "
                               "mean reward, such as 2.0",
    "preference_eval.bootstrap_samples": "needless, because intervals are computed without resampling: leave "
                                         "it out",
    "preference_eval.judge": "`preference_eval.judges`: a list such as [auto], of which the first decides",
    "reward_eval.bootstrap_samples": "needless, because intervals are computed without resampling: leave it "
                                     "out"}
"""What became of parameters that older files have."""
CRON_FIELDS = 5
"""With six, Prefect would read the last as seconds. Prefect checks what the fields hold:
retraining/clock.py."""


def _is_cron(text: str) -> str:
    if len(text.split()) != CRON_FIELDS:
        raise ValueError("five fields of cron, such as `0 3 * * *` for 3 o'clock every night")
    return text


def _is_timezone(text: str) -> str:
    if text not in available_timezones():
        raise ValueError("the name of a time zone, such as UTC or Europe/Berlin")
    return text


Cron = Annotated[str, AfterValidator(_is_cron)]
TimeZone = Annotated[str, AfterValidator(_is_timezone)]


class ParamsBlock(BaseModel):
    """A block of parameters: frozen, no unknown keys, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class VersionedBlock(ParamsBlock):
    """The parameters of a stage that has a version."""

    version: str
    """Version of the stage: raise it to make the stage run again everywhere."""


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
    """Similarity (Jaccard, of words and word pairs) to a held-out prompt that keeps a prompt out of training;
    null compares none."""
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
    """`pretrain`, a hub name, a folder, a `.gguf` file, or `package:NAME/FILE` for one in a package."""
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


class RewardModelParams(VersionedBlock):
    """Reward-model training on preferences."""

    epochs: Positive
    """Passes over the preferences."""
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
    centering_samples: Count
    """Random prompts to whose answers by the SFT policy the mean reward is 0, its deviation the unit."""


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
    """The second reward model, which judges the policy: trained as `reward_model` says, on the prompts that
    `ingest.judge_fraction` keeps for it, from the next seed."""


class PpoParams(VersionedBlock):
    """Proximal policy optimisation against the reward model."""

    updates: Count
    """Rounds of sampling and learning."""
    value_warmup: CountOrNone
    """Batches of responses that train the value model alone, before the first update."""
    batch_size: Count
    """Responses sampled an update."""
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
    value_clip: Positive
    """Range in which a value may move away from its value at sampling time, in standard deviations of the SFT
    policy's rewards."""
    gamma: Fraction
    """Discount a token."""
    gae_lambda: Fraction
    """Lambda of generalised advantage estimation."""
    kl_coef: NotNegative
    """Weight of the KL penalty (beta), in standard deviations of the SFT policy's rewards a nat; the starting
    value when `kl_target` is set."""
    kl_target: Positive | None
    """Mean KL a response, in nats, that the adaptive controller steers to; null keeps `kl_coef` fixed."""
    kl_horizon: Count
    """Episodes over which the adaptive controller may double or halve beta, roughly."""
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
    max_grad_norm: Positive
    """Gradient norm at which policy and value gradients are clipped."""
    precision: Precision
    """Arithmetic of the forward passes; weights and optimizers stay fp32."""
    checkpoint_every: Count
    """Updates between resume checkpoints."""


class PreferenceEvalParams(VersionedBlock):
    """The policy against SFT, and against the champion, on held-out prompts."""

    judges: Annotated[list[str], Field(min_length=1)]
    """Who judges; the first one decides. `auto` (gold where all data is simulated, otherwise second), `gold`,
    `second` (the reward model of stage `judge`), `reward` (the one that PPO optimised), `module:function`
    from the project's root, an OpenAI-compatible endpoint as `https://host/v1#model`, or a language model as
    `base.source` names it. When what a function or an endpoint does has changed, raise `version`."""
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
    debounce_seconds: Annotated[float, Field(ge=0.1)]
    """Seconds from the first new batch to the run that learns from it, and from all that arrives
    meanwhile."""
    watched: str | None
    """Folder or bucket prefix (`s3://bucket/prefix`) whose new files are added; null watches none."""
    settle_seconds: NotNegative
    """Seconds for which a watched file must not have changed before it is read."""
    webhook: Annotated[str, Field(pattern=r"^https?://[^\s]+$")] | None
    """Where the ends of runs, failed gates and new champions are posted to; null is nowhere."""


class Params(ParamsBlock):
    """All parameters of a run."""

    seed: CountOrNone
    """Seed of everything random."""
    snapshot: SnapshotParams
    ingest: IngestParams
    base: BaseParams
    sft: SftParams
    reward_model: RewardModelParams
    reward_eval: RewardEvalParams
    judge: JudgeParams
    ppo: PpoParams
    preference_eval: PreferenceEvalParams
    promote: PromoteParams
    retrain: RetrainParams


def load_params(root: Path, file: Path | None = None, settings: Sequence[str] = ()) -> Params:
    """Read `params.yaml` in `root`, then lay `file` and the `key=value` settings over it.

    Raises UserError for a missing or broken file, an unknown key, a value of the wrong type or out of range.
    """
    values = read_yaml(root / "params.yaml")
    if file is not None:
        _lay_over(values, read_yaml(file), str(file))
    for setting in settings:
        _lay_over(values, _parse_setting(setting), f"--set {setting}")
    return check_params(values, "params.yaml" if file is None else str(file))


def registered_name(root: Path) -> str:
    """Return `promote.model_name` of `params.yaml` in `root`, whatever else the file holds.

    So what was recorded can be read beside parameters that another version of Plumbline wrote. Raises
    UserError for a missing or broken file, and where the name is not there or of another type.
    """
    block = read_yaml(root / "params.yaml").get("promote")
    name = block.get("model_name") if isinstance(block, dict) else None
    if not isinstance(name, str):
        raise UserError(f"params.yaml must hold `promote.model_name`, a name such as policy; found {name!r}.")
    return name


def check_params(values: Mapping[str, object], where: str) -> Params:
    """Turn plain values into Params. Raises UserError, which names every offending key."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        found = [_describe(problem["loc"], problem["msg"], problem["type"], problem["input"])
                 for problem in error.errors()]
        raise UserError(f"Parameters in {where} cannot be used: " + "; ".join(found) + ".") from None


def keys(model: type[BaseModel] = Params, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key that exists, blocks included: `seed`, `ppo`, `ppo.kl_coef`."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield prefix + name
            yield from keys(annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def read_yaml(file: Path) -> dict[str, object]:
    """Read a parameter file as plain values. Raises UserError for a missing or broken one."""
    try:
        values = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"Parameter file {file} does not exist. Give one with --params FILE, or run "
                        "plumbline in a checkout that has params.yaml.") from None
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise UserError(f"Parameter file {file} cannot be read as YAML: "
                        f"{' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"Parameter file {file} must hold blocks such as `ppo:`; found "
                        f"{type(values).__name__}.")
    return values


def _parse_setting(setting: str) -> dict[str, object]:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set takes KEY=VALUE, such as --set ppo.kl_coef=0.1; found {setting!r}.")
    try:
        value = YAML(typ="safe").load(text)
    except YAMLError:
        raise UserError(f"The value in --set {setting} is not valid YAML.") from None
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def _lay_over(
    values: dict[str, object], over: Mapping[str, object], where: str, prefix: str = ""
) -> None:
    """Replace `values` by those in `over`. Raises UserError for a key that does not exist."""
    for key, value in over.items():
        dotted = f"{prefix}{key}"
        if key not in values:
            raise UserError(f"{where}: there is no parameter `{dotted}`.{_closest(dotted)}")
        below = values[key]
        if isinstance(below, dict):
            if not isinstance(value, Mapping):
                raise UserError(f"{where}: `{dotted}` is a block of parameters; found the value {value!r}. "
                                f"Set one of its keys, such as {dotted}.{next(iter(below))}.")
            _lay_over(below, value, where, f"{dotted}.")
        else:
            values[key] = value


def _closest(dotted: str) -> str:
    """Return a sentence with what the key became, the closest one that exists, or all blocks."""
    if dotted in RENAMED:
        return f" It has become {RENAMED[dotted]}."
    match = difflib.get_close_matches(dotted, list(keys()), n=1, cutoff=0.5)
    known = f" Known blocks: {', '.join(Params.model_fields)}."
    return f" The closest that exists is `{match[0]}`." if match else known


def _describe(location: tuple[int | str, ...], message: str, kind: str, found: object) -> str:
    """Return one problem that pydantic found, in the words of a parameter file."""
    key = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        return f"there is no parameter `{key}`.{_closest(key)}".rstrip(".")
    if kind == "missing":
        return f"`{key}` is missing"
    allowed = message.removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("a valid ")
    return f"`{key}` is {found!r}, but must be {allowed}"
