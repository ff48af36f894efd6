"""Say in words what is wrong with a training, from its curves: what was seen, the likely cause, and the
parameter to change.

    diagnose(points, "ppo", {"ppo.kl_limit": 20.0})     # points of curves.jsonl, parameters of a receipt

Each finding is a function of curves and parameters alone, so what is recorded of a run says the same
wherever it is read, while the training goes on, too. A curve is judged by its first twentieth, which is near
the model that it began with, and its last fifth; one of fewer than LEAST steps is not judged. The thresholds
are set so that a training with nothing wrong, however noisy, has no finding.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import sqrt
from statistics import fmean, median, stdev

LARGEST = 1e30
"""Beyond that nothing is a measurement."""
LEAST = 10
"""Steps of a curve that can be judged."""
SURE = 4.0
"""Standard errors of a change that is no chance: a run has some twenty curves, each looked at often."""
FALLEN = 2.5
"""Standard errors of a fall of the win rate, whose noise is less: the prompts are the same."""
NEGATIVE_KL = 0.05
"""Nats a response below 0, which may be rounding."""
FAR_A_TOKEN = 0.5
"""KL, in nats a token. The embedded default ends at 0.15, and without its KL penalty at 0.9: a policy so far
from SFT gives answers of which the reward model has seen none."""
ABOVE_TARGET = 2.0
"""Times the target KL, at which the controller, which moves by at most a fifth, has lost it."""
COLLAPSED = 0.35
"""Share of the entropy at the beginning. What a policy learns halves it; what is left here is one answer."""
LENGTHS = 1.6
"""Factor on the length at the beginning, either way; a third more or less is usual."""
FEWER_STOP = 0.15
"""Share of the answers that no longer stop."""
CRITIC = 0.1
"""Explained variance. A critic that has learnt explains half and more; 0 is a constant."""
CLIPPED = 0.3
"""Share of clipped tokens; some hundredths to a fifth are usual."""
RATIO = 0.1
"""Distance of the mean ratio from 1, its expectation."""
LEAP = 0.2
"""KL between two policies an update apart, in nats a token, on average over its minibatches; 0.02 is much."""
STILL, PATIENCE = 0.2, 20
"""KL in nats a response, of which less is the policy that it was; and updates until that says something."""
GAP, GAP_STD = 0.02, 0.2
"""Of log(policy / sampler), in nats a token: a biased sampler, and one that PPO's clip of 0.2 would take for
another policy."""
PROB_ERROR = 1.07
"""Factor by which the probability of a token differs between what sampled it and the training, on average
(lm/engines/agreement.py). Rounding to bf16 makes 1.04 to 1.055 of SmolLM2-135M; a run by a vLLM server stops
at 1.1."""
CLIPPED_GRADIENT = 10.0
"""Times the largest gradient norm allowed, at the median: of each gradient the length is lost. A few times is
usual, and costs nothing with Adam."""
LOSS_RISE = 0.02
"""Share of the lowest validation loss, measured on the same rows."""
LOSS_FALL = 0.01
"""Share of the loss at the beginning; less is no fall."""
CHANCE = 0.56
"""Accuracy on pairs; something is learnt where it may be above, as far as two standard errors tell."""
OVERFIT = 0.12
"""Accuracy on training pairs above that on validation pairs."""
UNLIKELIER = 0.5
"""Nats a token that preferred answers have lost: each of their tokens is 0.6 times as probable as SFT had it.
A policy that learns from pairs loses some tenths."""
SATURATED = 5.0
"""Margin of implicit rewards, of which sigmoid leaves 0.7 % of the gradient."""

Points = Sequence[Mapping[str, object]]
"""As in curves.jsonl: `what`, `step`, and figures."""
Params = Mapping[str, object]
"""Flat, as in a receipt: {"ppo.kl_limit": 20.0}."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with a training."""

    name: str
    seen: str
    """Figures, with the steps at which they were measured."""
    cause: str
    change: str
    """What to do: parameters with the direction."""

    def __str__(self) -> str:
        """Return the finding as a paragraph."""
        return f"{self.name}: {self.seen} Likely cause: {self.cause} {self.change}"


@dataclass(frozen=True)
class Part:
    """Some neighbouring points of a curve."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return the mean of the values."""
        return fmean(self.values)

    @property
    def error(self) -> float:
        """Return the standard error of the mean, as of independent values."""
        return stdev(self.values) / sqrt(len(self.values)) if len(self.values) > 1 else 0.0

    def __str__(self) -> str:
        return f"{self.mean:.3g} at steps {self.steps[0]} to {self.steps[-1]}"


@dataclass(frozen=True)
class Watched:
    """The curves of one training, with its parameters."""

    points: Points
    stage: str
    params: Params

    def curve(self, name: str) -> Part:
        """Return a whole curve; it has no values if nothing of that name was measured."""
        found = [(int(step), float(value)) for point in self.points if not point.get("what")
                 and isinstance(step := point.get("step"), int | float)
                 and isinstance(value := point.get(name), int | float) and abs(value) < LARGEST]
        return Part(tuple(step for step, _ in found), tuple(value for _, value in found))

    def ends(self, name: str) -> tuple[Part, Part] | None:
        """Return beginning and end of a curve, a twentieth and a fifth; None for one that is too short."""
        whole = self.curve(name)
        if len(whole.steps) < LEAST:
            return None
        first, last = max(3, len(whole.steps) // 20), max(3, len(whole.steps) // 5)
        return (Part(whole.steps[:first], whole.values[:first]),
                Part(whole.steps[-last:], whole.values[-last:]))

    def last_half(self, name: str) -> Part | None:
        """Return the last half of a curve; None for one that is too short."""
        whole = self.curve(name)
        half = len(whole.steps) // 2
        return Part(whole.steps[half:], whole.values[half:]) if len(whole.steps) >= LEAST else None

    def set_to(self, name: str) -> float | None:
        """Return the value of a parameter of the stage, a candidate's own before its block's."""
        found = [value for key, value in self.params.items() if key.rpartition(".")[2] == name]
        return float(found[-1]) if found and isinstance(found[-1], int | float) else None

    @property
    def method(self) -> str:
        """Return the method of a candidate; nothing for an ordinary stage."""
        return str(self.params.get(f"candidates.{self.stage.partition('@')[2]}.method", ""))

    @property
    def step_size(self) -> str:
        """Return the name of what makes the policy's steps larger; TRPO's steps are `accepted`, or not."""
        return self.key("trust_region" if self.curve("accepted").values else "learning_rate")

    def key(self, name: str) -> str:
        """Return the name of a parameter of the stage in params.yaml."""
        group, _, item = self.stage.partition("@")
        block = f"candidates.{item}" if item else "reward_model" if group == "judge" else group
        return f"{block}.{name}"


def diagnose(points: Points, stage: str, params: Params) -> list[Finding]:
    """Return what is wrong with the training of a stage, such as `ppo` or `candidate@dpo`."""
    watched = Watched(points, stage, params)
    if watched.curve("reward").values and watched.curve("kl").values:
        checks = ONLINE
    elif watched.curve("accuracy").values:
        checks = PAIRS
    else:
        checks = LIKELIHOOD
    return list(chain.from_iterable(check(watched) for check in checks))


def negative_kl(watched: Watched) -> Iterator[Finding]:
    """A KL below 0 by its own uncertainty."""
    kl, errors = watched.last_half("kl"), watched.last_half("kl_error")
    if kl is None or errors is None:
        return
    error = sqrt(sum(value**2 for value in errors.values)) / len(errors.values)
    if kl.mean < -NEGATIVE_KL and kl.mean < -SURE * error:
        yield Finding("negative KL", f"The KL to SFT is {kl}, with a standard error of {error:.2g}.",
                      "no KL is negative, so sampling and scoring disagree about the policy.",
                      f"Set {watched.key('precision')} to fp32 if it is bf16; see that the policy started "
                      "from the SFT model that is its reference.")


def far_from_sft(watched: Watched) -> Iterator[Finding]:
    """A KL beyond its limit, beyond its target, or beyond all reason."""
    limit, target = watched.set_to("kl_limit"), watched.set_to("kl_target")
    measured = watched.curve("validation_kl")
    nearer = (f"Raise {watched.key('kl_coef')}, or lower {watched.step_size}"
              + (f"; or set {watched.key('kl_target')}, which steers it." if target is None else "."))
    cause = "the KL penalty is too weak for what the reward offers, or the steps are too large."
    if limit is not None and measured.values and max(measured.values) > limit:
        place = next(i for i, value in enumerate(measured.values) if value > limit)
        yield Finding("KL beyond its limit", f"At update {measured.steps[place]} the KL to SFT was "
                      f"{measured.values[place]:.3g} nats a response; {watched.key('kl_limit')} is "
                      f"{limit:g}, so the training ended there.", cause, nearer)
        return
    ends, lengths = watched.ends("kl"), watched.ends("length")
    if ends and target is not None and ends[1].mean > ABOVE_TARGET * target:
        yield Finding("KL runs away", f"The KL to SFT is {ends[1]}; {watched.key('kl_target')} is "
                      f"{target:g}.", "the controller is slower than the policy.",
                      f"Raise {watched.key('kl_coef')}, lower {watched.key('kl_horizon')} or "
                      f"{watched.step_size}.")
    elif ends and lengths and ends[1].mean > FAR_A_TOKEN * lengths[1].mean:
        yield Finding("KL runs away", f"The KL to SFT is {ends[1]}, {ends[1].mean / lengths[1].mean:.2g} "
                      "nats a token: the reward model has seen no such answers.", cause, nearer)


def entropy_collapses(watched: Watched) -> Iterator[Finding]:
    """An entropy that goes to 0."""
    if (ends := watched.ends("entropy")) and ends[1].mean < COLLAPSED * ends[0].mean:
        yield Finding("entropy collapses", f"The entropy a token is {ends[0]}, and {ends[1]}: nearly the "
                      "same answer each time.", "the policy has found one answer that the reward likes.",
                      f"Raise {watched.key('kl_coef')}, lower {watched.step_size} or "
                      f"{watched.key('epochs')}, and read samples.md for what the reward model likes.")


def lengths_change(watched: Watched) -> Iterator[Finding]:
    """Answers that become far longer or shorter."""
    ends = watched.ends("length")
    if not ends or not _surely_apart(*ends):
        return
    seen = f"Answers have {ends[0]} and {ends[1]} tokens on average."
    if ends[1].mean > LENGTHS * ends[0].mean:
        yield Finding("lengths run away", seen, "the reward model takes long for good.",
                      "Compare the reward model with preferring the longer answer (reports/reward); raise "
                      f"{watched.key('kl_coef')} or {watched.key('missing_stop_deviations')}.")
    elif ends[0].mean > LENGTHS * ends[1].mean:
        yield Finding("lengths collapse", seen, "the reward model takes short for good, or the KL penalty, "
                      "which each token pays, outweighs the reward.",
                      "Compare the reward model with preferring the shorter answer (reports/reward); if it "
                      f"is better, lower {watched.key('kl_coef')}.")


def fewer_stop(watched: Watched) -> Iterator[Finding]:
    """Answers that no longer end by themselves."""
    ends = watched.ends("stopped")
    if ends and _surely_apart(*ends) and ends[1].mean < ends[0].mean - FEWER_STOP:
        yield Finding("fewer answers stop", f"The share of answers that end by themselves is {ends[0]}, and "
                      f"{ends[1]}.", "what is long scores well, and not to stop costs too little.",
                      f"Raise {watched.key('missing_stop_deviations')}, or {watched.key('max_response')} if "
                      "good answers are cut.")


def over_optimised(watched: Watched) -> Iterator[Finding]:
    """A reward that goes on rising while the judge's verdict falls."""
    rates = watched.curve("validation_judge_win_rate")
    errors = watched.curve("validation_judge_win_rate_error")
    rewards, kls = watched.curve("validation_reward"), watched.curve("validation_kl")
    if not rates.values or {len(one.values) for one in (errors, rewards, kls)} != {len(rates.values)}:
        return
    # Before the first update the policy is SFT: half of the wins, no KL, and a reward that is centred on 0.
    wins, reward, kl = (0.5, *rates.values), (0.0, *rewards.values), (0.0, *kls.values)
    doubt, steps = (0.0, *errors.values), (0, *rates.steps)
    best = max(range(len(wins)), key=wins.__getitem__)
    fallen = wins[best] - wins[-1] > FALLEN * sqrt(doubt[best] ** 2 + doubt[-1] ** 2)
    if fallen and reward[-1] > reward[best]:
        yield Finding("over-optimised", f"From update {steps[best]} to {steps[-1]} the reward rose from "
                      f"{reward[best]:.3g} to {reward[-1]:.3g}, while the win rate by the judge fell from "
                      f"{wins[best]:.3g} to {wins[-1]:.3g}: they part at a KL of {kl[best]:.3g} nats.",
                      "the policy exploits the reward model, which is wrong so far from SFT.",
                      f"Raise {watched.key('kl_coef')}, or set {watched.key('kl_limit')} to about "
                      f"{max(kl[best], 1.0):.2g}. What holds longer: several reward models "
                      "(reward_model.members: 3), or one from more preferences, of the policy's own answers.")


def critic_does_not_learn(watched: Watched) -> Iterator[Finding]:
    """Values that explain nothing of the returns."""
    explained = watched.last_half("explained_variance")
    if explained and median(explained.values) < CRITIC:
        yield Finding("critic does not learn", f"Of the returns' variance the values explain {explained}.",
                      "the critic's steps are too small or far too large, or it had too few before the first "
                      "update.",
                      f"Raise {watched.key('value_learning_rate')} (lower it if value_loss rises) or "
                      f"{watched.key('value_warmup')}.")


def steps_too_large(watched: Watched) -> Iterator[Finding]:
    """Updates that go beyond what they were computed for."""
    clipped, ratio = watched.last_half("clip_fraction"), watched.last_half("ratio")
    moved = watched.curve("approx_kl")
    seen = []
    if moved.values and max(moved.values) > LEAP:
        place = moved.values.index(max(moved.values))
        seen.append(f"Update {moved.steps[place]} alone moved the policy by {moved.values[place]:.2g} nats a "
                    "token.")
    if clipped and clipped.mean > CLIPPED:
        seen.append(f"The clip holds {clipped} of the tokens back.")
    if ratio and abs(ratio.mean - 1) > RATIO:
        seen.append(f"The mean ratio of new to old probability is {ratio}, where 1 is expected.")
    if seen:
        yield Finding("steps too large", " ".join(seen), "within one update the policy leaves the answers "
                      "that it learns from behind.",
                      f"Lower {watched.key('learning_rate')} or {watched.key('epochs')}, or set "
                      f"{watched.key('max_step_kl')}.")


def reward_falls(watched: Watched) -> Iterator[Finding]:
    """A policy that becomes worse by its own reward."""
    ends = watched.ends("reward")
    if ends and _surely_apart(*ends) and ends[1].mean < ends[0].mean:
        yield Finding("reward falls", f"The reward is {ends[0]}, and {ends[1]}.",
                      "the steps are too large, or the KL penalty outweighs the reward.",
                      f"Lower {watched.step_size}; if the KL stays near 0, lower "
                      f"{watched.key('kl_coef')}.")


def nothing_learnt(watched: Watched) -> Iterator[Finding]:
    """A reward that stays, with a policy that stays."""
    ends, kl = watched.ends("reward"), watched.ends("kl")
    patient = len(watched.curve("kl").steps) >= PATIENCE
    if patient and ends and kl and not _surely_apart(*ends) and abs(kl[1].mean) < STILL:
        yield Finding("nothing learnt", f"The reward is {ends[0]}, and {ends[1]}; the KL to SFT, in nats a "
                      f"response, is {kl[1]}.",
                      "the steps are too small, or the KL penalty outweighs the reward.",
                      f"Raise {watched.step_size}, or lower {watched.key('kl_coef')}.")


def sampler_differs(watched: Watched) -> Iterator[Finding]:
    """A sampler in bf16 that is another policy."""
    gap, spread = watched.last_half("sampler_gap"), watched.last_half("sampler_gap_std")
    if gap and spread and (abs(gap.mean) > GAP or spread.mean > GAP_STD):
        yield Finding("sampler differs from policy", f"log(policy / sampler) a token is {gap}, with a "
                      f"deviation of {spread.mean:.2g}.", "bf16 is too coarse for this model.",
                      f"Set {watched.key('precision')} to fp32.")


def engine_differs(watched: Watched) -> Iterator[Finding]:
    """An engine whose tokens are not the policy's."""
    errors = watched.last_half("prob_error")
    if errors and median(errors.values) > PROB_ERROR:
        yield Finding("engine differs from policy", "In the last half of the updates the probabilities of "
                      f"the sampled tokens differed by a factor of {median(errors.values):.3g} on average "
                      "between the engine that sampled them and the training.",
                      "the engine's arithmetic is too coarse, or it has other settings than the training.",
                      f"Set {watched.key('rollout_correction')} to 2.0, which weighs it out, or "
                      f"{watched.key('precision')} to fp32; a vLLM server must be started as docs/scale.md "
                      "says.")


def gradients_clipped(watched: Watched) -> Iterator[Finding]:
    """Gradients whose length is always cut; those of TRPO, whose steps are `accepted` or not, never are."""
    if watched.curve("accepted").values:
        return
    largest = watched.set_to("max_grad_norm") or 1.0
    for name in ("policy_grad_norm", "grad_norm"):
        norms = watched.last_half(name)
        if norms and median(norms.values) > CLIPPED_GRADIENT * largest:
            yield Finding("gradients clipped always", f"The norm of the gradient is {norms}, and "
                          f"{largest:g} is let through.", "the training is at the edge of diverging.",
                          f"Lower {watched.key('learning_rate')}, or raise {watched.key('batch_size')}.")


def validation_loss_rises(watched: Watched) -> Iterator[Finding]:
    """A validation loss that fell and rises again."""
    held = watched.curve("validation_loss")
    if len(held.values) < 2:
        return
    lowest = min(range(len(held.values)), key=held.values.__getitem__)
    if held.steps[lowest] and held.values[-1] > (1 + LOSS_RISE) * held.values[lowest]:
        yield Finding("validation loss rises", f"The validation loss was {held.values[lowest]:.3g} at step "
                      f"{held.steps[lowest]}, and is {held.values[-1]:.3g} at step {held.steps[-1]}.",
                      "the training learns its rows by heart.",
                      f"Lower {watched.key('epochs')} or {watched.key('learning_rate')}, or show more rows.")


def loss_does_not_fall(watched: Watched) -> Iterator[Finding]:
    """A loss that stays where it was, or rises."""
    # A candidate learns from its own answers, and its validation rows are other people's.
    held = Part((), ()) if "@" in watched.stage else watched.curve("validation_loss")
    ends, seen = watched.ends("loss"), ""
    before = held.values[0] if held.steps[:1] == (0,) else None
    if before is not None and len(held.values) > 1 and min(held.values[1:]) > (1 - LOSS_FALL) * before:
        seen = (f"The validation loss was {before:.4g} at step 0, and is "
                f"{held.values[-1]:.4g} at step {held.steps[-1]}.")
    elif len(held.values) <= 1 and ends and ends[1].mean > (1 - LOSS_FALL) * ends[0].mean:
        seen = f"The loss is {ends[0]}, and {ends[1]}."
    if seen:
        yield Finding("loss does not fall", seen,
                      "the steps are too small, or so large that each undoes the last.",
                      f"Raise {watched.key('learning_rate')}, or lower it if the loss rises; see that the "
                      "data are what the model is to learn.")


def at_chance(watched: Watched) -> Iterator[Finding]:
    """Pairs that are not told apart."""
    accuracy = watched.last_half("accuracy")
    if accuracy and accuracy.mean + 2 * accuracy.error < CHANCE:
        yield Finding("accuracy at chance", f"The accuracy on training pairs is {accuracy}; 0.5 is chance.",
                      "the labels contradict each other, or the steps are too small or far too large.",
                      "Read the contradictions and the agreement of annotators in the data's report; then "
                      f"try {watched.key('learning_rate')} higher and lower.")


def overfitted(watched: Watched) -> Iterator[Finding]:
    """Training pairs that are known by heart."""
    ends, held = watched.ends("accuracy"), watched.curve("validation_accuracy")
    pairs = watched.curve("validation_pairs")
    if not ends or not held.values or not pairs.values:
        return
    right = held.values[-1]
    error = sqrt(right * (1 - right) / pairs.values[-1] + ends[1].error ** 2)
    if ends[1].mean - right > max(OVERFIT, SURE * error):
        yield Finding("overfitted", f"The accuracy on training pairs is {ends[1]}, and {right:.3g} on "
                      f"{pairs.values[-1]:g} validation pairs.", "the training learns its pairs by heart.",
                      f"Lower {watched.key('epochs')} or {watched.key('learning_rate')}, or collect more "
                      "pairs.")


def preferred_unlikelier(watched: Watched) -> Iterator[Finding]:
    """Preferred answers that become improbable along with the others."""
    ratios, lengths = watched.ends("better_log_ratio"), watched.ends("better_length")
    if ratios and lengths and ratios[1].mean < -UNLIKELIER * lengths[1].mean:
        yield Finding("preferred answers become unlikelier", "Their log-probability is below SFT's by "
                      f"{-ratios[1].mean:.3g} nats, {-ratios[1].mean / lengths[1].mean:.2g} a token, at "
                      f"steps {ratios[1].steps[0]} to {ratios[1].steps[-1]}: the policy moves to answers "
                      "that nobody judged.",
                      "the loss asks for a distance between two answers alone, and both may fall.",
                      f"Lower {watched.key('learning_rate')} or {watched.key('epochs')}"
                      + (f", or raise {watched.key('beta')}." if watched.set_to("beta") else "."))


def margins_saturate(watched: Watched) -> Iterator[Finding]:
    """Margins so wide that the loss teaches nothing more; IPO's loss has no sigmoid, and draws them back."""
    ends, target = watched.ends("margin"), watched.set_to("target_margin") or 0.0
    if ends and watched.method != "ipo" and ends[1].mean - target > SATURATED:
        yield Finding("margins saturate", f"The margin between two answers' implicit rewards is {ends[1]}.",
                      "the pairs are known by heart, so that the loss has no gradient left.",
                      f"Lower {watched.key('epochs')} or {watched.key('learning_rate')}"
                      + (f", or {watched.key('beta')}." if watched.set_to("beta") else "."))


def _surely_apart(one: Part, other: Part) -> bool:
    """True if two means differ by more than chance."""
    # A few values may lie together by chance: the noise is that of the noisier part.
    noise = max(stdev(one.values), stdev(other.values))
    return abs(one.mean - other.mean) > SURE * noise * sqrt(1 / len(one.values) + 1 / len(other.values))


Check = Callable[[Watched], Iterator[Finding]]
ONLINE: tuple[Check, ...] = (
    negative_kl, steps_too_large, far_from_sft, entropy_collapses, lengths_change, fewer_stop, over_optimised,
    reward_falls, nothing_learnt, critic_does_not_learn, sampler_differs, engine_differs,
    gradients_clipped)
PAIRS: tuple[Check, ...] = (at_chance, overfitted, preferred_unlikelier, margins_saturate, gradients_clipped)
LIKELIHOOD: tuple[Check, ...] = (validation_loss_rises, loss_does_not_fall, gradients_clipped)
