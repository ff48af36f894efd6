"""PPO on prompts that it does not learn from: what the policy has gained there, and which policy is kept.

A reward model stands in for what people want. Optimised too far it is exploited: its own reward goes on
rising, while another judge's falls (Gao et al. 2022, arXiv 2210.10760). So every few updates the policy
answers validation prompts, a judge that PPO does not optimise compares the answers with those of SFT, and the
policy that wins most within a KL limit is kept, not the last one. Where there is no such judge, the last one
within the limit is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import pstdev

import torch

from plumbline.alignment.online.experience import Sampler, kl_estimates
from plumbline.alignment.online.policies import Policy, Weights
from plumbline.alignment.online.rewards import Reward
from plumbline.config import PpoParams
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt
from plumbline.lm.engines.engine import Engine, sample_by
from plumbline.lm.sampling import Response
from plumbline.preferences.splits import prompt_key
from plumbline.preferences.types import Prompt

WIN_RATE, KL = "validation_judge_win_rate", "validation_kl"


@dataclass(frozen=True)
class Validation:
    """Validation prompts, as ids, with what the judge thinks of SFT's answers to them."""

    prompts: Sequence[list[int]]
    engine: Engine
    reward: Reward
    judge: Reward | None
    """None if there is none but the reward model that is optimised."""
    params: PpoParams
    seed: int
    sft_answers: Sequence[Response]
    sft_scores: Sequence[float]

    @classmethod
    def prepare(
        cls, lm: LanguageModel, policy: Policy, engine: Engine, reward: Reward, judge: Reward | None,
        prompts: Sequence[Prompt], params: PpoParams, seed: int,
    ) -> "Validation | None":
        """Let the policy, which is SFT still, answer `validation_prompts` of the prompts.

        `lm` is of the policy. None if no prompt fits `max_prompt`.

        Raises UserError if none does and there is a KL limit, which could not be watched.
        """
        # In the order of their hashes, the first ones are a random sample that stays as data arrives.
        encoded = (encode_prompt(lm.tokenizer, prompt) for prompt in sorted(prompts, key=prompt_key))
        fitting = (ids for ids in encoded if len(ids) <= params.max_prompt)
        chosen = list(islice(fitting, params.validation_prompts))
        if not chosen and params.kl_limit is not None:
            raise UserError("ppo.kl_limit is watched on validation prompts, but none of the "
                            f"{len(prompts)} fits ppo.max_prompt = {params.max_prompt} tokens. Raise "
                            "ingest.validation_fraction or ppo.max_prompt, or set ppo.kl_limit to null.")
        if not chosen:
            return None
        sft = _answers(engine, Sampler(policy), chosen, params, seed)
        scores = (judge or reward).score_sampled(chosen, sft, params.missing_stop_deviations)
        return cls(chosen, engine, reward, judge, params, seed, sft, scores)

    def measure(self, policy: Policy, sampler: Sampler) -> dict[str, float]:
        """Return the win rate against SFT with its standard error, both rewards and the KL in nats a
        response, of one answer to each prompt.
        """
        params = self.params
        # Another seed than SFT's: with the same one, a policy that has hardly moved gives the same answers.
        answers = _answers(self.engine, sampler, self.prompts, params, self.seed + 1)
        own = self.reward.score_sampled(self.prompts, answers, params.missing_stop_deviations)
        judged = own
        if self.judge:
            judged = self.judge.score_sampled(self.prompts, answers, params.missing_stop_deviations)
        kl = kl_estimates(policy, self.prompts, answers, params.micro_batch_size)
        outcomes = self._outcomes(answers, judged)
        return {WIN_RATE: _mean(outcomes), f"{WIN_RATE}_error": pstdev(outcomes) / len(outcomes) ** 0.5,
                "validation_reward": _mean(own),
                "validation_judge_score": _mean(judged), KL: _mean(kl),
                "validation_stopped": _mean([float(answer.stopped) for answer in answers])}

    def _outcomes(self, answers: Sequence[Response], scores: Sequence[float]) -> list[float]:
        """Return 1 for each answer that wins against SFT's, 0 for one that loses, one half for a tie.

        The same answer is a tie whatever its scores are: beside other rows they differ in the last digits.
        """
        same = [ours.ids == theirs.ids for ours, theirs in zip(answers, self.sft_answers, strict=True)]
        return [0.5 if tied or ours == theirs else float(ours > theirs)
                for tied, ours, theirs in zip(same, scores, self.sft_scores, strict=True)]


@dataclass
class Kept:
    """The policy to keep: at first SFT itself, which against itself wins one half."""

    update: int = 0
    """The update after which it was measured."""
    measured: dict[str, float] = field(default_factory=dict)
    weights: Weights | None = None
    beyond_limit: bool = False
    """True once a policy has moved further from SFT than `kl_limit`."""

    def consider(
        self, update: int, metrics: dict[str, float], policy: Policy, validation: Validation
    ) -> None:
        """Keep the policy if it is within the KL limit and, where there is a judge, wins more often than the
        one kept so far.
        """
        limit = validation.params.kl_limit
        if limit is not None and metrics[KL] > limit:
            self.beyond_limit = True
            return
        if validation.judge and metrics[WIN_RATE] <= self.measured.get(WIN_RATE, 0.5):
            return
        self.update = update
        self.measured = {name: value for name, value in metrics.items() if name.startswith("validation_")}
        self.weights = {name: weight.clone() for name, weight in policy.weights().items()}

    def put_into(self, policy: Policy) -> dict[str, float]:
        """Give the policy the weights that were kept. Returns what was measured, with `best_update`."""
        policy.load(policy.start if self.weights is None else self.weights)
        return self.measured | {"best_update": self.update}


def _answers(
    engine: Engine, sampler: Sampler, prompts: Sequence[list[int]], params: PpoParams, seed: int
) -> list[Response]:
    return sample_by(engine, sampler.renewed(), prompts, max_response=params.max_response,
                     temperature=params.temperature, generator=torch.Generator().manual_seed(seed),
                     batch_size=params.batch_size)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
