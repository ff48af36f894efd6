"""What the registered versions are worth beside each other: ratings from all evaluations that were recorded.

Each version met SFT, and the champion of its time. SFT counts as one contestant, at 0, although every run
trains its own: what differs between those is in no interval. A version that was judged by the reward model
that PPO optimised has no rating from that: each policy wins by its own.
"""

from collections.abc import Hashable, Iterator, Mapping
from functools import lru_cache

from plumbline.evaluation.ratings import PlayedMatch, Strength, games_of, ratings
from plumbline.history.history import History, RegisteredVersion, Step
from plumbline.lineage.graph import Graph
from plumbline.tracking.promotion import was_optimised

SFT = "SFT"


def standings(history: History) -> Mapping[int, Strength]:
    """Return the rating of each version that was measured, by number.

    A history replaces its graph when something is new, so the ratings of the same graph are worked out once.
    """
    return _standings(history, history.graph)


@lru_cache(maxsize=2)
def _standings(history: History, _graph: Graph) -> Mapping[int, Strength]:
    matches = [match for version in history.versions.values() for match in _matches(history, version)]
    found = ratings(matches, SFT)
    return {number: found[number] for number in history.versions if number in found}


def _matches(history: History, version: RegisteredVersion) -> Iterator[PlayedMatch]:
    """Yield the matches of a version's own evaluation."""
    run = history.runs.get(version.run)
    step = run.steps.get("preference_eval") if run else None
    if step is None or was_optimised(_judge(step), step.metrics):
        return
    opponents: dict[str, Hashable] = {"win_rate_vs_sft": SFT}
    if version.compared_with is not None:
        opponents["win_rate_vs_champion"] = version.compared_with
    for key, opponent in opponents.items():
        rate, low, high, n = (step.metrics.get(key + part) for part in ("", "_low", "_high", "_n"))
        if rate is not None and low is not None and high is not None and n:
            yield PlayedMatch(version.number, opponent, rate, games_of(rate, low, high, n))


def _judge(step: Step) -> str | None:
    """Return the judge that decided; the version before named it among the parameters alone."""
    return step.facts.get("judge", step.params.get("preference_eval.judge"))
