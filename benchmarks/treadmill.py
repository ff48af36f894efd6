"""The treadmill: how often does the gate replace a champion by a policy that is no better?

    python benchmarks/treadmill.py                         # simulated policies, ten minutes on a busy machine
    python benchmarks/treadmill.py runs/A runs/B           # two trained policies of the same data, other seeds

Simulated: a policy has a quality, the same for all, and a luck of its own with each prompt; it beats another on a
prompt with probability sigmoid(difference of quality + difference of luck). Each meeting gives `ANSWERS` outcomes a
prompt, from which the project's own interval and the project's own gate decide. Any promotion is then an error, and
the gate states 2.5 % a challenge: the lower end of a two-sided 95 % interval.

Two questions. *Two policies, each challenged by the other ten times*, with new answers each time. *Nightly*: a new
policy, as good as the champion, challenges it each night. Each is asked with three ways to choose the prompts out of
those that are held out: always the same ones; other ones for each champion; other ones each night.

Trained: the policies of two workspaces answer the prompts that are held out in both, with new answers for each of
ten challenges either way, and the judge that the first one's `preference_eval.judges` names first decides. One of two
trained policies is the better one, so only promotions of both can be errors: a treadmill would show as promotions in
both directions.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plumbline.config import load_params
from plumbline.evaluation.answers import answer_all, same_tokens
from plumbline.evaluation.judging.judges import judge_both_orders
from plumbline.evaluation.judging.names import JudgeSettings, make_judges
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import stop_tokens
from plumbline.lm.engines.own import OwnEngine
from plumbline.preferences.batches.manifest import read_manifest
from plumbline.preferences.prepare.reader import prompts as read_prompts
from plumbline.preferences.splits import prompt_key
from plumbline.project.home import find_home
from plumbline.statistics import share, wilson
from plumbline.tracking.promotion import Circumstances, decide

Floats = NDArray[np.float64]
CHALLENGES, ANSWERS = 10, 4
LUCK = 0.7
"""Deviation of a policy's luck with a prompt, in log-odds: equal policies win between 0.2 and 0.8 of the answers to
most single prompts."""
SPREAD = 0.15
"""Deviation of quality between trainings, in log-odds, where they differ: 0.745 and 0.811 against SFT were measured
for two seeds of the demo."""
SCHEMES = ("the same prompts", "others for each champion", "others each night")
STATED = 0.025
PARAMS = load_params(find_home().root).promote


@dataclass(frozen=True)
class World:
    """How many prompts are held out, and how many of them an evaluation takes."""

    heldout: int
    prompts: int
    spread: float = 0.0

    def policy(self, rng: np.random.Generator) -> tuple[float, Floats]:
        """Return the quality of a new policy and its luck with each held-out prompt."""
        return rng.normal(0, self.spread) if self.spread else 0.0, rng.normal(0, LUCK, self.heldout)

    def sample(self, rng: np.random.Generator) -> NDArray[np.intp]:
        """Return the prompts of an evaluation."""
        return rng.permutation(self.heldout)[: self.prompts]


Policy = tuple[float, Floats]


def promoted(outcomes: Floats) -> bool:
    """Return what the gate decides from a challenger's outcomes against the champion: [prompts, answers].

    Everything else that the gate asks is given: this is about the champion alone.
    """
    keys = np.repeat(np.arange(len(outcomes)), outcomes.shape[1]).tolist()
    rate = share(outcomes.ravel().tolist(), keys)
    found: dict[str, object] = {"judge": "gold", "kl_policy": 1.0, "characters_policy": 1.0, "characters_sft": 1.0}
    for key in ("win_rate_vs_sft", "win_rate_vs_sft_greedy"):
        found |= {key: 0.9, f"{key}_low": 0.85, f"{key}_high": 0.95, f"{key}_n": 400}
    key = "win_rate_vs_champion"
    found |= {key: rate.value, f"{key}_low": rate.low, f"{key}_high": rate.high, f"{key}_n": rate.n}
    return decide(found, Circumstances(1, {"passed": True, "reasons": []}), PARAMS).promoted


def meet(challenger: Policy, champion: Policy, prompts: NDArray[np.intp], rng: np.random.Generator) -> Floats:
    """Return outcomes of new answers: [prompts, ANSWERS]."""
    difference = challenger[0] - champion[0] + challenger[1][prompts] - champion[1][prompts]
    chance = 1 / (1 + np.exp(-difference))
    return (rng.random((len(prompts), ANSWERS)) < chance[:, None]).astype(float)


def pairs(world: World, scheme: str, count: int, seed: int) -> list[int]:
    """Return for each of `count` pairs of policies the promotions in twenty challenges."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        policies = (world.policy(rng), world.policy(rng))
        same, changes = world.sample(rng), 0
        for challenge in range(2 * CHALLENGES):
            prompts = same if scheme == SCHEMES[0] else world.sample(rng)
            one, other = policies[challenge % 2], policies[1 - challenge % 2]
            changes += promoted(meet(one, other, prompts, rng))
        found.append(changes)
    return found


@dataclass(frozen=True)
class Nights:
    """What became of many nights of retraining."""

    promotions: int
    worse: int
    """Promotions of a policy whose quality is below the champion's."""
    claimed: float
    """Mean win rate of the champion against each night's policy, as the evaluation measured it."""


def nightly(world: World, scheme: str, nights: int, seed: int) -> Nights:
    """Let a new policy challenge the champion each night."""
    rng = np.random.default_rng(seed)
    champion, prompts = world.policy(rng), world.sample(rng)
    changes, worse, claimed = 0, 0, 0.0
    for _ in range(nights):
        challenger = world.policy(rng)
        if scheme == SCHEMES[2]:
            prompts = world.sample(rng)
        outcomes = meet(challenger, champion, prompts, rng)
        claimed += 1 - outcomes.mean()
        if promoted(outcomes):
            changes, worse = changes + 1, worse + (challenger[0] < champion[0])
            champion = challenger
            if scheme == SCHEMES[1]:
                prompts = world.sample(rng)
    return Nights(changes, worse, claimed / nights)


def told(count: int, n: int) -> str:
    """Return a share with its interval, in percent."""
    low, high = wilson(count / n, n)
    return f"{100 * count / n:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"


def simulate(nights: int, count: int, seed: int) -> None:
    """Print what the gate does to simulated policies."""
    demo, larger = World(193, 193), World(1200, 400)
    print(f"{count} pairs of equal policies, each challenged by the other ten times; {100 * STATED:g} % are stated\n")
    print("| held out | taken | prompts | promotions a challenge | pairs with any | most in one pair |\n"
          "|---|---|---|---|---|---|")
    for world, scheme in ((demo, SCHEMES[0]), (larger, SCHEMES[0]), (larger, SCHEMES[2])):
        changes = pairs(world, scheme, count, seed)
        rate = share([one / (2 * CHALLENGES) for one in changes], range(count))
        print(f"| {world.heldout} | {world.prompts} | {scheme} | {100 * rate.value:.2f} % [{100 * rate.low:.2f}, "
              f"{100 * rate.high:.2f}] | {sum(one > 0 for one in changes)} | {max(changes)} |", flush=True)
    print(f"\nA new policy each night, {nights} nights\n")
    print("| held out | taken | prompts | qualities | promotions a night | of a worse policy | the champion's win rate "
          "against the night's policy |\n|---|---|---|---|---|---|---|")
    worlds = [(demo, SCHEMES[0]), *((larger, scheme) for scheme in SCHEMES)]
    worlds += [(World(one.heldout, one.prompts, SPREAD), scheme) for one, scheme in worlds]
    for world, scheme in worlds:
        found = nightly(world, scheme, nights, seed)
        qualities = f"sd {world.spread}" if world.spread else "equal"
        print(f"| {world.heldout} | {world.prompts} | {scheme} | {qualities} | {told(found.promotions, nights)} | "
              f"{found.worse if world.spread else '–'} | {found.claimed:.3f} |", flush=True)


def challenge_trained(one: Path, other: Path, seed: int) -> None:
    """Print the promotions of two trained policies, each challenged by the other ten times."""
    params = load_params(one).preference_eval
    home = find_home()
    settings = JudgeSettings(root=one, home_root=home.root, kept=home.folder / "verdicts",
                             simulated=read_manifest(one / "data/prepared").simulated, precision=params.precision,
                             missing_stop_deviations=load_params(one).ppo.missing_stop_deviations,
                             limit=params.judge_limit)
    [named] = make_judges(params.judges[:1], settings)
    shared = {prompt_key(prompt): prompt for prompt in read_prompts(other / "data/prepared", "heldout")}
    asked = [prompt for prompt in read_prompts(one / "data/prepared", "heldout") if prompt_key(prompt) in shared]
    if not asked:
        raise SystemExit("The two runs share no held-out prompt: train both with the same ingest.split_salt and seed.")
    models = [LanguageModel.load(folder / "models/policy/model", params.precision) for folder in (one, other)]
    engines = [OwnEngine(stop_tokens(lm.tokenizer, lm.model)) for lm in models]
    answers = [answer_all(lm, engine, asked, [CHALLENGES * ANSWERS] * len(asked), max_response=params.max_response,
                          temperature=params.temperature, seed=seed + place, keep_ids=same_tokens(*models))
               for place, (lm, engine) in enumerate(zip(models, engines, strict=True))]
    flat = [prompt for prompt in asked for _ in range(CHALLENGES * ANSWERS)]
    judged = judge_both_orders(named.judge, flat, *([answer for row in side for answer in row] for side in answers))
    outcomes = np.array(judged.outcomes).reshape(len(asked), CHALLENGES, ANSWERS)
    print(f"{len(asked)} prompts, judge {named.name}: the first wins {outcomes.mean():.3f}\n")
    for name, challenges in ((str(one), outcomes), (str(other), 1 - outcomes)):
        changes = sum(promoted(challenges[:, i]) for i in range(CHALLENGES))
        print(f"{name} as challenger: promoted {changes} times of {CHALLENGES}")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="two workspaces with trained policies")
    parser.add_argument("--nights", type=int, default=5000)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if len(given.runs) == 2:
        challenge_trained(given.runs[0], given.runs[1], given.seed)
        return
    clock = time.monotonic()
    simulate(given.nights, given.pairs, given.seed)
    print(f"\n{time.monotonic() - clock:.0f} s")


if __name__ == "__main__":
    main()
