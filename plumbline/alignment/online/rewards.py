"""Where a reward comes from: the reward model, others beside it, functions; and what is taken off it.

    reward             the stage's reward model, by the ids that were sampled: an ensemble's members each by
                       itself, but in a sum their mean
    a folder, or hub   another reward model: by ids where it has the policy's tokens, otherwise by text
    module:function    a function of the user's own, by text

A reward has no unit of its own. So each source is centred and divided by its standard deviation on the SFT
policy's finished answers, and so is what they give together, whose unit then is the deviation of the stage's
reward model, from which the critic starts. With z the deviations of an answer, weighted, it is

    sum                     the sum of z
    min                     the lowest z: worst-case optimisation of an ensemble (Coste et al. 2023, arXiv
                            2310.02743, section 3.3); of helpful and safe, neither is given up for the other,
                            which is what Llama 2's threshold is for (Touvron et al. 2023, section 3.2.3)
    mean_minus_deviation    mean(z) - std(z) over the sources: what they disagree about counts less (Coste et
                            al., "uncertainty-weighted", with the variance, whose unit is another)

Penalties, in the same deviations, are of every answer: one that was cut pays them, too.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev, stdev
from typing import Protocol

from plumbline.alignment.classifier import Classifier, require_classifier
from plumbline.alignment.own_answers import Answered
from plumbline.alignment.reward import LEAST_TO_CENTRE, RewardModel
from plumbline.config import Precision, RewardParts
from plumbline.errors import UserError
from plumbline.functions import FUNCTION_NAME, import_function, safe_name, short_label
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import decode_response, differences, encode_prompt
from plumbline.lm.ranks.world import world
from plumbline.lm.sampling import Response
from plumbline.lm.source import Source
from plumbline.preferences.types import Prompt, conversation

REWARD = "reward"
"""The source that is the stage's reward model."""
REPEATED = 4
"""Tokens of the sequences whose repetition is penalised."""
Score = Callable[[Sequence[list[int]], Sequence[Response]], list[float]]
"""The score of each finished response, to the prompt in ids beside it."""
TextScore = Callable[[list[tuple[Prompt, str]]], list[float]]
COMBINE: Mapping[str, Callable[[Sequence[float]], float]] = {
    "sum": math.fsum, "min": min, "mean_minus_deviation": lambda z: fmean(z) - pstdev(z)}


class Reward(Protocol):
    """Whatever gives rewards."""

    @property
    def std(self) -> float:
        """Return the standard deviation of the SFT policy's rewards, whose mean is 0."""
        ...

    def score_sampled(
        self, prompts: Sequence[list[int]], responses: Sequence[Response], missing_stop_deviations: float
    ) -> list[float]:
        """Return the reward of each sampled response; see `RewardModel.score_sampled`."""
        ...


class StageReward(Reward, Protocol):
    """The stage's reward model."""

    @property
    def members(self) -> Sequence[Reward]:
        """Return the members of an ensemble; a single one is its only member."""
        ...


@dataclass(frozen=True)
class RewardSource:
    """One source of the reward, with its mean and deviation on the SFT policy's finished answers."""

    name: str
    label: str
    """Its curve is called `reward_of_LABEL`."""
    weight: float
    score: Score
    mean: float = 0.0
    std: float = 1.0

    def scores(self, prompts: Sequence[list[int]], responses: Sequence[Response]) -> list[float]:
        """Return the scores, in the source's own unit. Raises UserError unless all are finite numbers."""
        found = self.score(prompts, responses)
        if broken := sum(not math.isfinite(value) for value in found):
            raise UserError(f"The reward {self.name} must be a finite number for every response, but "
                            f"{broken} of {len(found)} are infinite or not a number. Correct it, or leave it "
                            "out of ppo.rewards.")
        return found

    def measured(self, found: Sequence[float]) -> "RewardSource":
        """Return the source with mean and deviation of these scores."""
        return replace(self, mean=fmean(found), std=_deviation(f"reward {self.name}", found))


@dataclass(frozen=True)
class CombinedReward:
    """Several sources as one reward, less the penalties."""

    sources: Sequence[RewardSource]
    params: RewardParts
    std: float
    """The unit: the deviation of the SFT policy's rewards, without penalties."""
    mean: float = 0.0
    deviation: float = 1.0
    """Both of the combination, on the SFT policy's finished answers, in deviations of the sources."""

    def score_sampled(
        self, prompts: Sequence[list[int]], responses: Sequence[Response], missing_stop_deviations: float
    ) -> list[float]:
        """Return the reward of each response, less the penalties; see `RewardModel.score_sampled`."""
        return self.rewards_and_parts(prompts, responses, missing_stop_deviations)[0]

    def rewards_and_parts(
        self, prompts: Sequence[list[int]], responses: Sequence[Response], missing_stop_deviations: float
    ) -> tuple[list[float], dict[str, float]]:
        """Return the rewards, and the mean of each source's own scores (of finished responses) and of each
        penalty, in deviations; a mean of nothing is left out.
        """
        rows = [i for i, response in enumerate(responses) if response.stopped]
        scores = self.scores([prompts[i] for i in rows], [responses[i] for i in rows])
        deviations = dict(zip(rows, self.combined(scores), strict=True))
        rewards = [deviations.get(i, -missing_stop_deviations) for i in range(len(responses))]
        parts = {f"reward_of_{source.label}": fmean(found)
                 for source, found in zip(self.sources, scores, strict=True) if found}
        if rows and self.params.combine != "sum" and len(self.sources) > 1:
            parts["reward_disagreement"] = fmean(pstdev(z) for z in self.weighted(scores))
        for name, penalty in self._penalties(responses).items():
            rewards = [reward - less for reward, less in zip(rewards, penalty, strict=True)]
            if penalty:
                parts[name] = fmean(penalty)
        return [self.std * reward for reward in rewards], parts

    def scores(self, prompts: Sequence[list[int]], responses: Sequence[Response]) -> list[list[float]]:
        """Return the scores of finished responses by each source, in its own unit."""
        return [source.scores(prompts, responses) if responses else [] for source in self.sources]

    def combined(self, scores: Sequence[Sequence[float]]) -> list[float]:
        """Return the combination of each response's scores, in deviations of the SFT policy's."""
        combine = COMBINE[self.params.combine]
        return [(combine(z) - self.mean) / self.deviation for z in self.weighted(scores)]

    def weighted(self, scores: Sequence[Sequence[float]]) -> Iterable[tuple[float, ...]]:
        """Yield for each response the weighted deviations that the sources give it."""
        of_sources = [[source.weight * (score - source.mean) / source.std for score in found]
                      for source, found in zip(self.sources, scores, strict=True)]
        return zip(*of_sources, strict=True)

    def measured(self, answers: Sequence[Answered]) -> "CombinedReward":
        """Return the reward with all means and deviations as they are on these answers.

        Raises UserError if they are fewer than LEAST_TO_CENTRE, or a source gives all the same score.
        """
        if len(answers) < LEAST_TO_CENTRE:
            raise UserError("The rewards are measured on finished answers of the SFT policy, and want at "
                            f"least {LEAST_TO_CENTRE} of them; found {len(answers)}. Raise ppo.max_response "
                            "or ppo.max_prompt, or show SFT more answers that end.")
        scores = self.scores([prompt for prompt, _ in answers], [response for _, response in answers])
        sources = [source.measured(found) for source, found in zip(self.sources, scores, strict=True)]
        found = replace(self, sources=sources).combined(scores)
        return replace(self, sources=sources, mean=fmean(found),
                       deviation=_deviation(f"combination ppo.combine: {self.params.combine}", found))

    def _penalties(self, responses: Sequence[Response]) -> dict[str, list[float]]:
        """Return the penalties that there are, in deviations, of each response."""
        params, found = self.params, {}
        if params.length_penalty:
            found["length_penalty"] = [params.length_penalty * max(0, len(response.ids) - params.length_free)
                                       for response in responses]
        if params.repetition_penalty:
            found["repetition_penalty"] = [params.repetition_penalty * repeated(response.ids)
                                           for response in responses]
        return found


def make_rewards(
    reward: StageReward, lm: LanguageModel, prompts: Sequence[Prompt], params: RewardParts, root: Path,
    precision: Precision, answers: Sequence[Answered],
) -> Reward:
    """Return the reward that `params` names; `reward` itself, the stage's reward model, if there is no other
    and no penalty.

    `prompts` are all that will be asked of `lm`, the policy; names start at `root`; `precision` is that of
    other reward models; `answers` are finished ones of SFT, if `params.measured_on_answers`. Raises UserError
    for a source that cannot be used.
    """
    if params.reward_model_alone:
        return reward
    known = {tuple(encode_prompt(lm.tokenizer, prompt)): prompt for prompt in prompts}
    labels = labels_of(params.rewards)
    sources = []
    for name, weight in params.rewards.items():
        if name != REWARD:
            sources.append(RewardSource(name, labels[name], weight,
                                        _outside(name, lm, known, root, precision)))
        elif params.combine == "sum" or len(reward.members) == 1:
            sources.append(RewardSource(name, name, weight, _of(reward)))
        else:
            sources += [RewardSource(f"{name}, member {number}", f"{name}_{number}", weight, _of(member))
                        for number, member in enumerate(reward.members, start=1)]
    if not params.measured_on_answers:  # the one is centred already, and its config has its deviation
        own = replace(sources[0], weight=1.0, std=reward.std)
        return CombinedReward([own], params, reward.std)
    return CombinedReward(sources, params, reward.std).measured(answers)


def labels_of(names: Sequence[str] | Mapping[str, float]) -> dict[str, str]:
    """Return a short label for each source, and never that of another: the last part, or all of the name."""
    short = {name: name if name == REWARD else short_label(name) for name in names}
    return {name: label if name == REWARD or list(short.values()).count(label) == 1 else safe_name(name)
            for name, label in short.items()}


def repeated(ids: Sequence[int]) -> float:
    """Return the share of the sequences of 4 tokens that have occurred before; 0 for a shorter response."""
    found = [tuple(ids[i : i + REPEATED]) for i in range(len(ids) - REPEATED + 1)]
    return 1 - len(set(found)) / len(found) if found else 0.0


def _of(reward: Reward) -> Score:
    return lambda prompts, responses: reward.score_sampled(prompts, responses, 0.0)


def _outside(
    name: str, lm: LanguageModel, known: Mapping[tuple[int, ...], Prompt], root: Path, precision: Precision
) -> Score:
    """Return how a function or another reward model scores."""

    def by_text(score: TextScore) -> Score:
        return lambda prompts, responses: score([
            (known[tuple(prompt)], decode_response(lm.tokenizer, response.ids))
            for prompt, response in zip(prompts, responses, strict=True)])

    if FUNCTION_NAME.fullmatch(name):
        function = import_function("reward", name, root, "ppo.rewards")

        def share(pairs: list[tuple[Prompt, str]]) -> list[float]:
            mine = [(conversation(prompt), text) for prompt, text in world().mine(pairs)]
            # With fewer answers than ranks, some have none to ask about.
            return world().gathered(function(mine) if mine else [])

        return by_text(share)
    if not hasattr(require_classifier(name, root), "reward_max_length"):  # it is none of ours
        return by_text(Classifier.load(name, root, precision).score)
    model = RewardModel.load(Path(Source.find(name, root).where), precision)
    return by_text(model.score) if differences(lm.tokenizer, model.tokenizer) else _of(model)


def _deviation(what: str, found: Sequence[float]) -> float:
    """Return the standard deviation. Raises UserError if there is none."""
    if (deviation := stdev(found)) == 0:
        raise UserError(f"The {what} gives all {len(found)} answers of the SFT policy the same score, so it "
                        "has no unit, and there is nothing to learn from it. Change it, or leave it out of "
                        "ppo.rewards.")
    return deviation
