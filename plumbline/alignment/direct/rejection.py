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
from typing import cast

import torch

from plumbline.alignment.online.rewards import Reward
from plumbline.alignment.sft import train_sft
from plumbline.config.methods import RejectionParams
from plumbline.errors import UserError
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import decode_response, encode_prompt
from plumbline.lm.checkpoint import Checkpoint, made_with
from plumbline.lm.engines.engine import Engine, sample_by
from plumbline.lm.optim import ReportStep
from plumbline.preferences.lazy_rows import SomeRows, parted
from plumbline.preferences.types import Demonstration, Origin, Prompt, from_json, to_json

SOURCE = "rejection sampling"
SAMPLED = "sampled"
"""The folder, beside the checkpoints of the fine-tuning, of what was sampled for it."""


def train_rejection(
    lm: LanguageModel, make_reward: Callable[[], Reward], engine: Engine, prompts: Sequence[Prompt],
    validation: Sequence[Demonstration], params: RejectionParams, seed: int, report: ReportStep,
    checkpoint_folder: Path,
) -> dict[str, float]:
    """Fine-tune `lm`, the SFT policy, in place on the best of its answers to random prompts, which `engine`
    samples. `make_reward` loads the reward, which is let go before the fine-tuning.

    The best answers are kept in `checkpoint_folder` once all are sampled, and a training that is killed after
    that goes on with them: a server may not give the same ones again.

    Returns what `train_sft` returns, whose validation loss is of other people's demonstrations; the mean
    reward of the finished answers and that of the best ones; and how many prompts were answered, were too
    long for an answer within `max_length`, and had no finished answer. Raises UserError if there is no best
    answer at all, and if the training diverges.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    room = params.max_length - params.max_response
    fitting, _ = parted(prompts, lambda prompt: len(encode_prompt(lm.tokenizer, prompt)) <= room)
    order = torch.randperm(len(fitting), generator=generator).tolist()
    asked = SomeRows(fitting, order[: params.prompts])
    checkpoint = Checkpoint(checkpoint_folder / SAMPLED, made_with("rejection", params, seed, asked))
    kept = checkpoint.load()
    if kept is None:
        # Without a prompt the reward is not even made.
        found, figures = (best_answers(lm, make_reward(), engine, asked, params, generator, report) if asked
                          else ([], {}))
        if not found:
            raise UserError(
                f"There is no best answer to learn from: of {len(prompts)} prompts {len(fitting)} leave room "
                f"for an answer of max_response = {params.max_response} tokens within max_length = "
                f"{params.max_length}, and none of the {len(asked)} that were answered has an answer that "
                "ended by itself. Raise max_length or max_response.")
        kept = {"best": [to_json(shown) for shown in found], "figures": figures}
        checkpoint.save(0, kept)
    best = [cast(Demonstration, from_json(values)) for values in kept["best"]]
    metrics: dict[str, float] = {
        **kept["figures"], "prompts": len(asked), "prompts_too_long": len(prompts) - len(fitting),
        "without_finished_answer": len(asked) - len(best)}
    return metrics | train_sft(lm, best, validation, params, seed, report, checkpoint_folder)


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
