"""Is the reward model right about pairs of SFT's own answers?

Its accuracy on held-out comparisons is about answers of others, which differ more. What it is asked in the
training is which of two answers of the same policy is better.
"""

from collections.abc import Sequence

from plumbline import statistics
from plumbline.evaluation.judging.judges import ModelAnswer, NamedJudge, judge_both_orders
from plumbline.evaluation.judging.names import REWARD
from plumbline.evaluation.markdown import percent
from plumbline.evaluation.matches import Contestant
from plumbline.preferences.splits import prompt_key
from plumbline.preferences.types import Prompt
from plumbline.statistics import Interval


def reward_accuracy(prompts: Sequence[Prompt], sft: Contestant, judge: NamedJudge) -> Interval | None:
    """Return the share of pairs of SFT's answers whose better one, by the judge, has the higher reward.

    Answers 0 and 1 to a prompt are a pair, 2 and 3 the next. Equal rewards count one half, and what the judge
    calls a tie is left out. None without a pair, and for a judge who is the reward model or costs money.
    """
    if judge.name == REWARD or judge.judge.most_pairs is not None:
        return None
    asked: list[Prompt] = []
    sides: tuple[list[ModelAnswer], list[ModelAnswer]] = ([], [])
    ahead: list[float] = []
    for prompt, answers, rewards in zip(prompts, sft.answers, sft.measured["reward"], strict=True):
        for one in range(0, len(answers) - 1, 2):
            asked.append(prompt)
            sides[0].append(answers[one])
            sides[1].append(answers[one + 1])
            ahead.append(rewards[one] - rewards[one + 1])
    outcomes = judge_both_orders(judge.judge, asked, *sides).outcomes
    right, keys = [], []
    for prompt, outcome, difference in zip(asked, outcomes, ahead, strict=True):
        if outcome != 0.5:
            right.append(0.5 if difference == 0 else float((difference > 0) == (outcome > 0.5)))
            keys.append(prompt_key(prompt))
    return statistics.share(right, keys) if right else None


def reward_accuracy_section(found: Interval, judge: str) -> list[str]:
    """Return the report's section on it."""
    return ["## The reward model on SFT's own answers", "",
            f"Of {found.n} pairs of sampled answers of SFT that `{judge}` decides, it prefers the better one "
            f"in {percent(found)}; chance is 50 %.", ""]
