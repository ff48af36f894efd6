"""Rejection-sampling fine-tuning: the policy imitates the best of its own answers.

The SFT policy gives `samples` answers to each of up to `prompts` training prompts, the reward says which
is best, and that one becomes a demonstration: the policy is fine-tuned on these (Touvron et al.
2023, arXiv 2307.09288, section 3.2.3). It is the evaluation's best of n, learnt. Only answers that ended by
themselves can be the best, and a prompt that has none is left out. Answers are scored as the ids that were
sampled, and learnt from as text, as any demonstration is.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import torch

from plumbline.alignment.online.rewards import Reward
from plumbline.alignment.sft import train_sft
from plumbline.config.methods import RejectionParams
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import decode_response, encode_prompt
from plumbline.lm.engines.engine import Engine, sample_by
from plumbline.lm.optim import ReportStep
from plumbline.preferences.types import Demonstration, Origin, Prompt

SOURCE = "rejection sampling"


def train_rejection(
    lm: LanguageModel, make_reward: Callable[[], Reward], engine: Engine, prompts: Sequence[Prompt],
    validation: Sequence[Demonstration], params: RejectionParams, seed: int, report: ReportStep,
    checkpoint_folder: Path,
) -> dict[str, float]:
    """Fine-tune `lm`, the SFT policy, in place on the best of its answers to random prompts, which `engine`
    samples. `make_reward` loads the reward, which is let go before the fine-tuning.

    A training that was killed samples again, the same answers, and goes on from its checkpoint.

    Returns what `train_sft` returns, whose validation loss is of other people's demonstrations; the mean
    reward of the finished answers and that of the best ones; and how many prompts were answered, were too
    long for an answer within `max_length`, and had no finished answer. Raises UserError if there is no best
    answer at all, and if the training diverges.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    room = params.max_length - params.max_response
    fitting = [prompt for prompt in prompts if len(encode_prompt(lm.tokenizer, prompt)) <= room]
    order = torch.randperm(len(fitting), generator=generator).tolist()
    asked = [fitting[i] for i in order[: params.prompts]]
    found, metrics = best_answers(lm, make_reward(), engine, asked, params, generator, report)
    metrics |= {"prompts": len(asked), "prompts_too_long": len(prompts) - len(fitting),
                "without_finished_answer": len(asked) - len(found)}
    if not found:
        raise UserError(f"There is no best answer to learn from: of {len(prompts)} prompts {len(fitting)} "
                        f"leave room for an answer of max_response = {params.max_response} tokens within "
                        f"max_length = {params.max_length}, and none of the {len(asked)} that were answered "
                        "has an answer that ended by itself. Raise max_length or max_response.")
    return metrics | train_sft(lm, found, validation, params, seed, report, checkpoint_folder)


def best_answers(
    lm: LanguageModel, reward: Reward, engine: Engine, prompts: Sequence[Prompt], params: RejectionParams,
    generator: torch.Generator, report: ReportStep,
) -> tuple[list[Demonstration], dict[str, float]]:
    """Return the finished answer to each prompt that has the highest reward, the first of equals.

    Prompts without a finished answer are left out. The figures are the mean rewards of the finished answers
    and of the best ones, where there are any.
    """
    best: list[Demonstration] = []
    all_rewards: list[float] = []
    best_rewards: list[float] = []
    at_once = max(1, engine.part // params.samples)
    for start in range(0, len(prompts), at_once):
        part = prompts[start : start + at_once]
        encoded = [ids for prompt in part for ids in [encode_prompt(lm.tokenizer, prompt)] * params.samples]
        answers = sample_by(engine, lm.model, encoded, max_response=params.max_response,
                            temperature=params.temperature, generator=generator)
        finished = [i for i, answer in enumerate(answers) if answer.stopped]
        scores = dict(zip(finished, reward.score_sampled(
            [encoded[i] for i in finished], [answers[i] for i in finished], 0.0), strict=True))
        all_rewards += scores.values()
        for place, prompt in enumerate(part):
            own = range(place * params.samples, (place + 1) * params.samples)
            if able := [i for i in own if i in scores]:
                chosen = max(able, key=scores.__getitem__)
                best_rewards.append(scores[chosen])
                text = decode_response(lm.tokenizer, answers[chosen].ids)
                best.append(Demonstration(prompt, text, Origin(SOURCE, machine=True)))
        report(start + len(part), len(prompts), what="sampling")
    figures = {"sampled_reward": fmean(all_rewards), "best_reward": fmean(best_rewards)} if best else {}
    return best, figures
