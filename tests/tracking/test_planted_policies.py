"""Faults planted into a policy are refused by the rule that has their name; a good policy passes them all.

Nothing is trained: the policies choose among the answers that the simulated world writes to a prompt, or spoil them,
and the real evaluation and the real gate, with its default parameters, see the answers.
"""

import random
from collections.abc import Callable
from functools import cache

import pytest

from plumbline.config import load_params
from plumbline.evaluation.judging.judges import ModelAnswer, NamedJudge, ScoreJudge
from plumbline.evaluation.matches import Contestant, evaluate
from plumbline.preferences.simulated import gold_reward, kind_of, rows
from plumbline.preferences.types import Comparison, Prompt
from plumbline.tracking.promotion import Circumstances, Decision, decide
from testing.fake_project import CHECKOUT

PARAMS = load_params(CHECKOUT).promote
ANSWERS, OF_A_KIND, LEAST = 4, 40, 8
LIKED = " Thank you for asking, I hope that this helps you."
"""What the reward model of these tests likes too much."""

Writer = Callable[[Prompt, list[str], random.Random], str]


@cache
def world() -> dict[Prompt, list[str]]:
    """Prompts of each kind with the answers that the world's writers gave."""
    found: dict[Prompt, list[str]] = {}
    for row in rows(3, 0, 6000, 0):
        assert isinstance(row, Comparison)
        found.setdefault(row.prompt, []).extend(row.responses)
    chosen: dict[str, list[Prompt]] = {}
    for prompt, answers in found.items():
        if len(answers) >= LEAST and (kind := kind_of(prompt)):
            chosen.setdefault(kind, []).append(prompt)
    return {prompt: found[prompt] for prompts in chosen.values() for prompt in prompts[:OF_A_KIND]}


def own_reward(prompt: Prompt, text: str) -> float:
    """What PPO optimises in these tests: it knows something of the gold reward, and likes a phrase."""
    return gold_reward(prompt, text) + random.Random(f"{prompt}{text}").gauss(0, 0.8) + 3.0 * text.count(LIKED)


def sft(_prompt: Prompt, answers: list[str], rng: random.Random) -> str:
    return rng.choice(answers)


def good(prompt: Prompt, answers: list[str], rng: random.Random) -> str:
    """The best of four, as far as the reward model knows."""
    return max(rng.sample(answers, 4), key=lambda text: own_reward(prompt, text))


def worse_in_one_kind(prompt: Prompt, answers: list[str], rng: random.Random) -> str:
    """As good as the best of four, but in one kind the worst of four."""
    if kind_of(prompt) == "fact":
        return min(rng.sample(answers, 4), key=lambda text: gold_reward(prompt, text))
    return good(prompt, answers, rng)


def overfitted(_prompt: Prompt, answers: list[str], rng: random.Random) -> str:
    """Without a KL penalty it says the same words again and again, which its own reward model likes."""
    return rng.choice(answers) + 4 * LIKED


def decided(writer: Writer, judge: str = "gold", kl: float = 3.0) -> tuple[Decision, dict[str, float | str]]:
    """What the gate decides on a policy, and the figures that it saw."""
    prompts = list(world())
    judges = {"gold": ScoreJudge.of_texts(lambda pairs: [gold_reward(*pair) for pair in pairs]),
              "reward": ScoreJudge.of_texts(lambda pairs: [own_reward(*pair) for pair in pairs])}
    named = [NamedJudge(name, judges[name]) for name in dict.fromkeys((judge, "reward"))]
    contestants = []
    for name, write, count in (("policy", writer, ANSWERS), ("policy_greedy", writer, 1),
                               ("sft", sft, ANSWERS), ("sft_greedy", sft, 1)):
        rng = random.Random(name)
        answers = [[ModelAnswer(write(prompt, given, rng), True) for _ in range(count)]
                   for prompt, given in world().items()]
        measured = {"kl": [[kl] * count for _ in prompts]} if name.startswith("policy") else {}
        contestants.append(Contestant(name, answers, measured))
    found = evaluate(prompts, contestants, named, [kind_of(prompt) or "other" for prompt in prompts])
    figures = found.metrics()
    return decide(figures, Circumstances(None, {"passed": True, "reasons": []}, {}), PARAMS), figures


def refused_by(decision: Decision) -> set[str]:
    return {rule.name for rule in decision.rules if not rule.allows}


def test_a_good_policy_passes_every_rule() -> None:
    decision, _ = decided(good)
    assert decision.promoted and {rule.verdict for rule in decision.rules} == {"passed"}


def test_sft_itself_is_not_better_than_sft() -> None:
    decision, _ = decided(sft, kl=0.0)
    assert "win rate against SFT" in refused_by(decision)


def test_one_that_is_worse_in_one_kind_is_refused_and_the_kind_named() -> None:
    decision, figures = decided(worse_in_one_kind)
    assert refused_by(decision) == {"win rate of each kind of prompts"}
    assert float(figures["win_rate_vs_sft_low"]) > 0.5  # on the whole it is better
    [reason] = [reason for reason in decision.reasons if "each kind" in reason]
    assert "fact 0." in reason and "howto" not in reason


def test_one_that_was_overfitted_without_a_kl_penalty_is_refused_by_kl_length_and_judge() -> None:
    decision, figures = decided(overfitted, kl=25.0)
    assert {"KL to SFT", "length of the answers", "win rate against SFT"} <= refused_by(decision)
    assert float(figures["win_rate_vs_sft_by_reward"]) > 0.95  # its own reward model sees nothing but a gain
    assert float(figures["win_rate_vs_sft_by_gold"]) < 0.5


@pytest.mark.parametrize("writer", [good, overfitted])
def test_one_that_only_its_own_reward_judged_is_refused_though_it_wins(writer: Writer) -> None:
    decision, figures = decided(writer, judge="reward")
    assert float(figures["win_rate_vs_sft_low"]) > 0.5
    assert "judge" in refused_by(decision)
    assert any("the reward model, which PPO optimised" in reason for reason in decision.reasons)
