"""How often does each 95 % interval of the project hold the truth? Simulated, where the truth is known.

    python benchmarks/coverage.py [SIMULATIONS] [SEED]        # 2000 and 0: about two minutes on one core

Prints the table of docs/results.md: for each interval and situation the share of simulated evaluations whose interval
holds the truth, the shares in which the truth lies below and above it, and the mean width. A simulated evaluation draws
prompts, and several outcomes of each that resemble each other, as a real one does.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plumbline import statistics
from plumbline.evaluation.matches import length_controlled
from plumbline.evaluation.overoptimisation import gain_over
from plumbline.preferences.report.intervals import share_by_prompt

WANTED = (0.93, 0.97)
Draw = Callable[[np.random.Generator], tuple[list[Any], list[int]]]
"""Returns values, and the prompt of each."""
Ends = Callable[[list[Any], list[int]], tuple[float, float]]
ANSWERS = 4


def share(values: list[float], prompts: list[int]) -> tuple[float, float]:
    """The interval of accuracies and win rates."""
    found = statistics.share(values, prompts)
    return found.low, found.high


def mean(values: list[float], prompts: list[int]) -> tuple[float, float]:
    """The interval of lengths, rewards and KL."""
    found = statistics.mean(values, prompts)
    return found.low, found.high


def of_report(values: list[float], prompts: list[int]) -> tuple[float, float]:
    """The interval of the data report."""
    found = share_by_prompt(np.array(values) > 0.5, np.array(prompts))
    assert found is not None
    return found["low"], found["high"]


def over_seeds(values: list[float], _prompts: list[int]) -> tuple[float, float]:
    """The interval over training runs."""
    found = statistics.over_seeds(values)
    return found.low, found.high


def at_equal_length(values: list[tuple[float, float]], prompts: list[int]) -> tuple[float, float]:
    """The interval of length-controlled win rates, of outcomes with how much longer the policy's answer is."""
    found = length_controlled(*map(list, zip(*values, strict=True)), [str(prompt) for prompt in prompts])
    return (found.low, found.high) if found else (0.0, 1.0)


def gain(values: list[tuple[list[float], list[float]]], prompts: list[int]) -> tuple[float, float]:
    """The interval of gains over SFT in deviations of its scores, of the policy's scores with SFT's."""
    found = gain_over(*map(list, zip(*values, strict=True)), [str(prompt) for prompt in prompts])
    return found.low, found.high


def one_each(prompts: int, truth: float) -> Draw:
    """One outcome of each prompt, won or lost."""
    return lambda rng: ((rng.random(prompts) < truth).astype(float).tolist(), list(range(prompts)))


def with_ties(prompts: int, truth: float, ties: float) -> Draw:
    """One outcome of each prompt, of which this share are ties."""
    won = (truth - ties / 2) / (1 - ties)

    def draw(rng: np.random.Generator) -> tuple[list[float], list[int]]:
        tied = rng.random(prompts) < ties
        return np.where(tied, 0.5, rng.random(prompts) < won).astype(float).tolist(), list(range(prompts))
    return draw


def alike(prompts: int, truth: float, most: int, likeness: float) -> Draw:
    """1 to `most` outcomes of each prompt, whose correlation is `likeness` (beta-binomial)."""
    scale = (1 - likeness) / likeness

    def draw(rng: np.random.Generator) -> tuple[list[float], list[int]]:
        of = np.repeat(np.arange(prompts), rng.integers(1, most + 1, prompts))
        chance = rng.beta(truth * scale, (1 - truth) * scale, prompts)
        return (rng.random(len(of)) < chance[of]).astype(float).tolist(), of.tolist()
    return draw


def paired(prompts: int, better: float, answers: int) -> Draw:
    """Two policies with `answers` answers a prompt: the win rate of each answer against the other's of its number.

    Prompts differ in how much better the first policy is there; the truth is that of `paired_truth`.
    """
    def draw(rng: np.random.Generator) -> tuple[list[float], list[int]]:
        gain = rng.normal(better, 1.0, prompts)[:, None]
        first = gain + rng.normal(0.0, 1.0, (prompts, answers))
        second = rng.normal(0.0, 1.0, (prompts, answers))
        return (first > second).astype(float).ravel().tolist(), np.repeat(np.arange(prompts), answers).tolist()
    return draw


def paired_truth(better: float) -> float:
    """P(better + three standard normal draws > 0)."""
    return statistics.NormalDist(0.0, 3.0**0.5).cdf(better)


def by_length(prompts: int, truth: float, weight: float) -> Draw:
    """Four outcomes of each prompt that depend on lengths, logit P(win) = logit(truth) + weight tanh(d / std(d)).

    A policy's answers are longer by half a deviation. Half of the lengths' variance is the prompt's, and half of the
    answers have the prompt's luck in common; that leaves each answer's own chance as it is.
    """
    def draw(rng: np.random.Generator) -> tuple[list[tuple[float, float]], list[int]]:
        shape = (prompts, ANSWERS)
        longer = 0.5 + (rng.normal(0, 1, (prompts, 1)) + rng.normal(0, 1, shape)) / 2**0.5
        chance = 1 / (1 + np.exp(-(np.log(truth / (1 - truth)) + weight * np.tanh(longer))))
        luck = np.where(rng.random(shape) < 0.5, rng.random((prompts, 1)), rng.random(shape))
        outcomes = (luck < chance).astype(float)
        return list(zip(outcomes.ravel(), longer.ravel(), strict=True)), np.repeat(np.arange(prompts), ANSWERS).tolist()
    return draw


def normal(prompts: int, most: int) -> Draw:
    """1 to `most` values of each prompt: half of the variance is the prompt's. Mean 0."""
    def draw(rng: np.random.Generator) -> tuple[list[float], list[int]]:
        of = np.repeat(np.arange(prompts), rng.integers(1, most + 1, prompts))
        return (rng.normal(0, 1, prompts)[of] + rng.normal(0, 1, len(of))).tolist(), of.tolist()
    return draw


def skewed(prompts: int) -> Draw:
    """One value of each prompt, skewed as lengths are: log-normal with deviation 0.5."""
    return lambda rng: (rng.lognormal(0.0, 0.5, prompts).tolist(), list(range(prompts)))


def scores(prompts: int, truth: float, likeness: float) -> Draw:
    """Scores of four answers of SFT and four of a policy to each prompt; `likeness` of SFT's variance is the prompt's,
    for which the policy's are shifted by the truth, on one prompt by more than on another.
    """
    def draw(rng: np.random.Generator) -> tuple[list[tuple[list[float], list[float]]], list[int]]:
        level = rng.normal(0.0, likeness**0.5, (prompts, 1))
        sft, policy = (level + rng.normal(0.0, (1 - likeness)**0.5, (prompts, ANSWERS)) for _ in range(2))
        policy += rng.normal(truth, 0.3, (prompts, 1))
        return list(zip(policy.tolist(), sft.tolist(), strict=True)), list(range(prompts))
    return draw


def situations() -> Iterator[tuple[str, str, Ends, Draw, float]]:
    """Each interval in each situation, with the truth."""
    for prompts in (20, 96, 193, 1000):
        for truth in (0.5, 0.8, 0.98):
            yield "share", f"{prompts} prompts, {truth}", share, one_each(prompts, truth), truth
    for prompts in (30, 193):
        for truth, ties in ((0.5, 0.5), (0.8, 0.3)):
            yield "share", f"{prompts} prompts, {truth}, ties {ties}", share, with_ties(prompts, truth, ties), truth
    for prompts in (30, 100, 193):
        for truth in (0.5, 0.8, 0.95):
            for most, likeness in ((4, 0.3), (8, 0.6)):
                what = f"{prompts} prompts, {truth}, 1 to {most} outcomes, correlation {likeness}"
                yield "share", what, share, alike(prompts, truth, most, likeness), truth
    for prompts in (50, 193):
        for better in (0.0, 1.0):
            what = f"{prompts} prompts, two policies, four answers each, {paired_truth(better):.3f}"
            yield "win rate", what, share, paired(prompts, better, ANSWERS), paired_truth(better)
    for prompts in (50, 193):
        for truth in (0.5, 0.8):
            for weight in (0.0, 1.5):
                what = f"{prompts} prompts, four answers each, {truth} at equal length, weight of length {weight}"
                yield "length-controlled", what, at_equal_length, by_length(prompts, truth, weight), truth
    for prompts in (50, 193):
        for truth in (0.0, 0.5, 2.0):
            for likeness in (0.2, 0.8):
                what = f"{prompts} prompts, four answers each, {truth} deviations, likeness {likeness}"
                yield "gain over SFT", what, gain, scores(prompts, truth, likeness), truth
    yield "data report", "500 prompts, 0.8, 1 to 6", of_report, alike(500, 0.8, 6, 0.3), 0.8
    for prompts in (10, 30, 193):
        yield "mean", f"{prompts} prompts, 1 to 4 normal values", mean, normal(prompts, 4), 0.0
        yield "mean", f"{prompts} prompts, one skewed value", mean, skewed(prompts), float(np.exp(0.125))
    for runs in (3, 5):
        yield "over seeds", f"{runs} runs, normal", over_seeds, normal(runs, 1), 0.0


def main() -> None:
    """Print the table."""
    times, seed = (int(text) for text in (*sys.argv[1:], *("2000", "0")[len(sys.argv) - 1:]))
    print("| interval | situation | holds the truth | truth below | truth above | width |\n|---|---|---|---|---|---|")
    missed = 0
    for name, what, ends, draw, truth in situations():
        rng = np.random.default_rng(seed)
        found: NDArray[np.float64] = np.array([ends(*draw(rng)) for _ in range(times)])
        below, above = float((truth < found[:, 0] - 1e-12).mean()), float((truth > found[:, 1] + 1e-12).mean())
        holds = 1 - below - above
        missed += not WANTED[0] <= holds <= WANTED[1]
        mark = "" if WANTED[0] <= holds <= WANTED[1] else " *"
        print(f"| {name} | {what} | {100 * holds:.1f} %{mark} | {100 * below:.1f} % | {100 * above:.1f} % | "
              f"{float((found[:, 1] - found[:, 0]).mean()):.3f} |", flush=True)
    print(f"\n{missed} outside of {100 * WANTED[0]:g} to {100 * WANTED[1]:g} % (*).")


if __name__ == "__main__":
    main()
