"""Which answers people are asked to compare: those that teach most.

Three reasons to ask, and pairs are chosen for each of them in turn:

- the policy scores below the SFT model that it came from: either PPO made it worse, or the reward model is wrong;
- the reward model finds two answers nearly equal: it is least sure there (Christiano et al. 2017, arXiv 1706.03741,
  section 2.2.4, choose pairs by uncertainty);
- the prompt is of a kind with few comparisons. A prompt's kind is its opening word, as Self-Instruct's pictures group
  instructions (Wang et al. 2022, arXiv 2212.10560, figure 3).

The reason is kept with the pair and shown after the verdict.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from plumbline.feedback.verdicts import Answer, Pair
from plumbline.preferences.types import Prompt

MOST_RANKED = 4
OTHER = "other"


@dataclass(frozen=True)
class Scored:
    """One model's answer, with its reward."""

    answer: Answer
    reward: float
    policy: bool
    """Whether a policy gave it, and not SFT."""


@dataclass(frozen=True)
class Candidate:
    """A prompt with the answers that models gave to it."""

    prompt: Prompt
    answers: Sequence[Scored]

    @property
    def kind(self) -> str:
        """The prompt's kind."""
        return kind_of(self.prompt)


def kind_of(prompt: Prompt) -> str:
    """The opening word of the user's last turn."""
    words = prompt[-1].content.split(maxsplit=1)
    word = "".join(letter for letter in words[0].casefold() if letter.isalnum()) if words else ""
    return word or OTHER


def count_kinds(prompts: Iterable[Prompt]) -> Counter[str]:
    """How many of these prompts there are of each kind."""
    return Counter(kind_of(prompt) for prompt in prompts)


def prompts_to_ask(prompts: Sequence[Prompt], counts: Mapping[str, int], wanted: int) -> list[Prompt]:
    """Half of them of the kinds with the fewest comparisons, half as they come."""
    rare = sorted(range(len(prompts)), key=lambda i: counts.get(kind_of(prompts[i]), 0))[:wanted // 2]
    others = [i for i in range(len(prompts)) if i not in set(rare)]
    return [prompts[i] for i in [*rare, *others][:wanted]]


def choose(candidates: Sequence[Candidate], counts: Mapping[str, int], wanted: int) -> list[Pair]:
    """The pairs that teach most, at most one a prompt, the reasons in turn."""
    by_reason = (_below_sft(candidates), _close(candidates), _rare(candidates, counts))
    found: dict[Prompt, Pair] = {}
    for place in range(max(map(len, by_reason), default=0)):
        for pairs in by_reason:
            if place < len(pairs) and len(found) < wanted:
                found.setdefault(pairs[place].prompt, pairs[place])
    return list(found.values())


def rankings(candidates: Sequence[Candidate], wanted: int) -> list[Pair]:
    """Prompts whose answers, three or more different ones, are to be ranked: those that the reward model spreads
    least."""
    found = []
    for candidate in candidates:
        answers = _different(candidate.answers)[:MOST_RANKED]
        if len(answers) > 2:
            rewards = [scored.reward for scored in answers]
            apart = max(rewards) - min(rewards)
            reason = f"The reward model puts these {len(answers)} answers within {apart:.2f} of each other."
            found.append((apart, _pair(candidate, answers, reason)))
    return [pair for _, pair in sorted(found, key=lambda one: one[0])[:wanted]]


def _below_sft(candidates: Sequence[Candidate]) -> list[Pair]:
    """The largest distance first."""
    found = []
    for candidate in candidates:
        below = [(sft.reward - policy.reward, policy, sft) for policy, sft in _couples(candidate)
                 if policy.policy and not sft.policy and policy.reward < sft.reward]
        if below:
            apart, policy, sft = max(below, key=lambda one: one[0])
            reason = f"The reward model scores {policy.answer.model} {apart:.2f} lower than SFT here."
            found.append((apart, _pair(candidate, (policy, sft), reason)))
    return [pair for _, pair in sorted(found, key=lambda one: -one[0])]


def _close(candidates: Sequence[Candidate]) -> list[Pair]:
    """The smallest distance first."""
    found = []
    for candidate in candidates:
        couple = _nearest(candidate)
        if couple:
            apart = abs(couple[0].reward - couple[1].reward)
            chance = 100 / (1 + math.exp(-apart))
            reason = f"The reward model finds these nearly equal: it gives the better one {chance:.0f} %."
            found.append((apart, _pair(candidate, couple, reason)))
    return [pair for _, pair in sorted(found, key=lambda one: one[0])]


def _rare(candidates: Sequence[Candidate], counts: Mapping[str, int]) -> list[Pair]:
    """The rarest kind first."""
    total = sum(counts.values())
    found = []
    for candidate in candidates:
        couple = _nearest(candidate)
        if couple:
            count = counts.get(candidate.kind, 0)
            reason = (f"Few comparisons are of prompts like this: {count:,} of {total:,} begin with "
                      f"“{candidate.kind}”.")
            found.append((count, _pair(candidate, couple, reason)))
    return [pair for _, pair in sorted(found, key=lambda one: one[0])]


def _nearest(candidate: Candidate) -> tuple[Scored, Scored] | None:
    """The two different answers whose rewards are closest."""
    return min(_couples(candidate), key=lambda couple: abs(couple[0].reward - couple[1].reward), default=None)


def _couples(candidate: Candidate) -> list[tuple[Scored, Scored]]:
    return list(combinations(_different(candidate.answers), 2))


def _different(answers: Sequence[Scored]) -> list[Scored]:
    """Each text once, none of them empty: what looks the same cannot be compared. Policies before SFT."""
    kept: dict[str, Scored] = {}
    for scored in sorted(answers, key=lambda one: not one.policy):
        if scored.answer.text.strip():
            kept.setdefault(" ".join(scored.answer.text.split()), scored)
    return list(kept.values())


def _pair(candidate: Candidate, answers: Sequence[Scored], reason: str) -> Pair:
    return Pair(candidate.prompt, tuple(scored.answer for scored in answers), reason, candidate.kind, "feedback")
