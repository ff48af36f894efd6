"""The choice of answers that people compare: the pairs that teach most.

There are three reasons to ask, and pairs are chosen for each of them in turn:

- the policy scores below the SFT model that it started from: either PPO made it worse, or the reward model is
  wrong;
- the reward model scores two answers nearly equal: it is least sure there (Christiano et al. 2017, arXiv
  1706.03741, section 2.2.4, choose pairs by uncertainty);
- the prompt is of a kind with few comparisons. A prompt's kind is its opening word, as in the figures of
  Self-Instruct (Wang et al. 2022, arXiv 2212.10560, figure 3).

The reason is kept with the pair and shown after the verdict.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from plumbline.feedback.verdicts import OfferedAnswer, OfferedPair
from plumbline.preferences.types import Prompt

MOST_RANKED = 4
OTHER = "other"


@dataclass(frozen=True)
class ScoredAnswer:
    """One model's answer, with its reward."""

    answer: OfferedAnswer
    reward: float
    policy: bool
    """True if a policy gave it; False for SFT."""


@dataclass(frozen=True)
class Candidate:
    """A prompt with the models' answers to it."""

    prompt: Prompt
    answers: Sequence[ScoredAnswer]


def kind_of(prompt: Prompt) -> str:
    """Return the prompt's kind: the opening word of the last turn, letters and digits only."""
    words = prompt[-1].content.split(maxsplit=1)
    word = "".join(letter for letter in words[0].casefold() if letter.isalnum()) if words else ""
    return word or OTHER


def count_kinds(prompts: Iterable[Prompt]) -> Counter[str]:
    """Count the prompts of each kind."""
    return Counter(kind_of(prompt) for prompt in prompts)


def prompts_to_ask(prompts: Sequence[Prompt], counts: Mapping[str, int], wanted: int) -> list[Prompt]:
    """Return `wanted` prompts: half of the kinds with the fewest comparisons, the rest as they come."""
    rare = sorted(range(len(prompts)), key=lambda i: counts.get(kind_of(prompts[i]), 0))[:wanted // 2]
    others = [i for i in range(len(prompts)) if i not in set(rare)]
    return [prompts[i] for i in [*rare, *others][:wanted]]


def choose(candidates: Sequence[Candidate], counts: Mapping[str, int], wanted: int) -> list[OfferedPair]:
    """Return the pairs that teach most, at most one a prompt, taking the three reasons in turn."""
    by_reason = (_below_sft(candidates), _close(candidates), _rare(candidates, counts))
    found: dict[Prompt, OfferedPair] = {}
    for place in range(max(map(len, by_reason), default=0)):
        for pairs in by_reason:
            if place < len(pairs) and len(found) < wanted:
                found.setdefault(pairs[place].prompt, pairs[place])
    return list(found.values())


def rankings(candidates: Sequence[Candidate], wanted: int) -> list[OfferedPair]:
    """Return rankings of three or more different answers, those first whose rewards are closest together."""
    found = []
    for candidate in candidates:
        answers = _different(candidate.answers)[:MOST_RANKED]
        if len(answers) > 2:
            rewards = [scored.reward for scored in answers]
            apart = max(rewards) - min(rewards)
            reason = f"The reward model puts these {len(answers)} answers within {apart:.2f} of each other."
            found.append((apart, _pair(candidate, answers, reason)))
    return [pair for _, pair in sorted(found, key=lambda one: one[0])[:wanted]]


def _below_sft(candidates: Sequence[Candidate]) -> list[OfferedPair]:
    """Return pairs in which a policy scores below SFT, the largest distance first."""
    found = []
    for candidate in candidates:
        below = [(policy, sft) for policy, sft in _couples(candidate)
                 if policy.policy and not sft.policy and policy.reward < sft.reward]
        if below:
            policy, sft = max(below, key=_distance)
            apart = _distance((policy, sft))
            reason = f"The reward model scores {policy.answer.model} {apart:.2f} lower than SFT here."
            found.append((apart, _pair(candidate, (policy, sft), reason)))
    return [pair for _, pair in sorted(found, key=lambda one: -one[0])]


def _close(candidates: Sequence[Candidate]) -> list[OfferedPair]:
    """Return pairs whose rewards are close, the smallest distance first."""
    found = []
    for candidate in candidates:
        couple = _nearest(candidate)
        if couple:
            apart = _distance(couple)
            chance = 100 / (1 + math.exp(-apart))
            reason = f"The reward model finds these nearly equal: it gives the better one {chance:.0f} %."
            found.append((apart, _pair(candidate, couple, reason)))
    return [pair for _, pair in sorted(found, key=lambda one: one[0])]


def _rare(candidates: Sequence[Candidate], counts: Mapping[str, int]) -> list[OfferedPair]:
    """Return pairs on prompts of rare kinds, the rarest kind first."""
    total = sum(counts.values())
    found = []
    for candidate in candidates:
        couple = _nearest(candidate)
        if couple:
            kind = kind_of(candidate.prompt)
            count = counts.get(kind, 0)
            reason = (f"Few comparisons are of prompts like this: {count:,} of {total:,} begin with "
                      f"“{kind}”.")
            found.append((count, _pair(candidate, couple, reason)))
    return [pair for _, pair in sorted(found, key=lambda one: one[0])]


def _nearest(candidate: Candidate) -> tuple[ScoredAnswer, ScoredAnswer] | None:
    """Return the two different answers whose rewards are closest, or None if all answers are alike."""
    return min(_couples(candidate), key=_distance, default=None)


def _distance(couple: tuple[ScoredAnswer, ScoredAnswer]) -> float:
    return abs(couple[0].reward - couple[1].reward)


def _couples(candidate: Candidate) -> list[tuple[ScoredAnswer, ScoredAnswer]]:
    return list(combinations(_different(candidate.answers), 2))


def _different(answers: Sequence[ScoredAnswer]) -> list[ScoredAnswer]:
    """Return the answers with different texts, none of them empty, policies before SFT."""
    kept: dict[str, ScoredAnswer] = {}
    for scored in sorted(answers, key=lambda one: not one.policy):
        if scored.answer.text.strip():
            kept.setdefault(" ".join(scored.answer.text.split()), scored)
    return list(kept.values())


def _pair(candidate: Candidate, answers: Sequence[ScoredAnswer], reason: str) -> OfferedPair:
    offered = tuple(scored.answer for scored in answers)
    return OfferedPair(candidate.prompt, offered, reason, kind_of(candidate.prompt), "feedback")
