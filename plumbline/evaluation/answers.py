"""The contestants' answers: sampled or greedy, the best of n by the reward model, and what is measured on
each.

SFT's are kept for the next policy that meets them. The candidates of a comparison have the same SFT, and most
of what is sampled and scored to judge one of them is SFT's.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from plumbline.evaluation.judging.judges import ModelAnswer, ScoreJudge
from plumbline.evaluation.matches import Contestant
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import decode_response, differences, encode_prompt
from plumbline.lm.engines.engine import Engine, sample_by
from plumbline.lm.likelihood import sampled_log_likelihoods
from plumbline.preferences.simulated import gold_parts, gold_reward
from plumbline.preferences.types import Prompt
from plumbline.whole_file import write_whole

BATCH = 128
"""Answers that our own sampler draws at once."""
MOST_KEPT = 16
"""Files that are kept, of some megabytes each; the oldest go."""

Answers = Sequence[Sequence[ModelAnswer]]
"""By prompt, then by answer."""


def same_tokens(one: LanguageModel, other: LanguageModel) -> bool:
    """Return True if both models write the same conversation as the same ids: only then is there a KL."""
    return not differences(one.tokenizer, other.tokenizer)


def answer_all(
    lm: LanguageModel, engine: Engine, prompts: Sequence[Prompt], counts: Sequence[int], *,
    max_response: int, temperature: float, seed: int, keep_ids: bool,
) -> Answers:
    """Let `engine` sample `counts[i]` answers of at most `max_response` tokens to prompt i; temperature 0 is
    greedy.

    With `keep_ids` false the answers are texts alone, for models whose tokens the judges do not know.
    """
    encoded = [encode_prompt(lm.tokenizer, prompt) for prompt in prompts]
    rows = [i for i, count in enumerate(counts) for _ in range(count)]
    sampled = sample_by(engine, lm.model, [encoded[i] for i in rows], max_response=max_response,
                        temperature=temperature, generator=torch.Generator().manual_seed(seed),
                        batch_size=BATCH)
    found: list[list[ModelAnswer]] = [[] for _ in prompts]
    for i, response in zip(rows, sampled, strict=True):
        ids = tuple(response.ids) if keep_ids else ()
        found[i].append(ModelAnswer(decode_response(lm.tokenizer, response.ids), response.stopped, ids))
    return found


def best_of(scores: Sequence[Sequence[float]], answers: Answers, n: int) -> Answers:
    """Return, for each prompt, that of its first `n` answers with the highest score, the first of equals."""
    found = []
    for values, given in zip(scores, answers, strict=True):
        best = max(range(n), key=values.__getitem__)
        found.append([given[best]])
    return found


def scored(judge: ScoreJudge, prompts: Sequence[Prompt], answers: Answers) -> list[list[float]]:
    """Return the score of each answer, in the shape of `answers`."""
    repeated = [prompt for prompt, given in zip(prompts, answers, strict=True) for _ in given]
    return _shaped(judge.scores(repeated, [one for given in answers for one in given]), answers)


def gold_figures(prompts: Sequence[Prompt], answers: Answers) -> dict[str, list[list[float]]]:
    """Return the gold reward of each answer, and its parts by name."""
    pairs = [(prompt, one.text) for prompt, given in zip(prompts, answers, strict=True) for one in given]
    parts = [gold_parts(prompt, text) for prompt, text in pairs]
    found = {"gold": _shaped([gold_reward(prompt, text) for prompt, text in pairs], answers)}
    for name in parts[0]:
        found[name] = _shaped([one[name] for one in parts], answers)
    return found


def likelihood_figures(
    lm: LanguageModel, sft: LanguageModel, prompts: Sequence[Prompt], answers: Answers, temperature: float
) -> Mapping[str, list[list[float]]]:
    """Return entropy, KL and fluency of each answer, all from the tokens as they were sampled.

    `kl`: log-probability under the model minus that under SFT, nats an answer, an unbiased estimate of
    KL(model, SFT); `entropy`: minus the model's log-probability, nats a token; both at the `temperature` of
    sampling, and neither for greedy answers (temperature 0). `fluency`: SFT's mean log-probability at
    temperature 1, nats a token.
    """
    pairs = [(encode_prompt(lm.tokenizer, prompt), one.ids)
             for prompt, given in zip(prompts, answers, strict=True) for one in given]
    ids, responses = [prompt for prompt, _ in pairs], [list(response) for _, response in pairs]
    tokens = [len(response) for response in responses]
    plain = sampled_log_likelihoods(sft, ids, responses, 1.0)
    found = {"fluency": [total / count for total, count in zip(plain, tokens, strict=True)]}
    if temperature > 0:
        reference = plain if temperature == 1 else sampled_log_likelihoods(sft, ids, responses, temperature)
        own = reference if lm is sft else sampled_log_likelihoods(lm, ids, responses, temperature)
        found["entropy"] = [-total / count for total, count in zip(own, tokens, strict=True)]
        if lm is not sft:
            found["kl"] = [one - other for one, other in zip(own, reference, strict=True)]
    return {what: _shaped(values, answers) for what, values in found.items()}


@dataclass(frozen=True)
class SftAnswers:
    """SFT's answers to the prompts of one evaluation."""

    contestants: list[Contestant]
    """Sampled, greedy and, if it is wanted, the best of the pool, with what was measured on each."""
    pool: list[list[ModelAnswer]]
    """By prompt, then by answer: those of which the best are taken."""


FORM = TypeAdapter(SftAnswers)


def kept_answers(file: Path | None, make: Callable[[], SftAnswers]) -> SftAnswers:
    """Return the answers in `file`; where there is none, those that `make` returns, and keep them there.

    None keeps nothing. The name of the file has to stand for all that the answers depend on.
    """
    if file is None:
        return make()
    with suppress(FileNotFoundError, ValidationError):
        return FORM.validate_json(file.read_bytes())
    made = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, FORM.dump_json(made).decode())
    for old in sorted(file.parent.glob("*.json"), key=_written)[:-MOST_KEPT]:
        old.unlink(missing_ok=True)
    return made


def _written(file: Path) -> float:
    """Return when a file was written; 0 for one that another evaluation has deleted meanwhile."""
    with suppress(FileNotFoundError):
        return file.stat().st_mtime
    return 0.0


def _shaped(values: Sequence[float], answers: Answers) -> list[list[float]]:
    """Return the values, one an answer, in the shape of `answers`."""
    left = iter(values)
    return [[next(left) for _ in given] for given in answers]
