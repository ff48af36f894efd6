"""Annotators of different reliability, and the preference data that they produce.

An annotator sees the gold reward through noise: utility = gold + taste for length + Gumbel noise /
reliability, so that choices between two follow Bradley-Terry and rankings follow Plackett-Luce (Luce 1959;
Plackett 1975). One likes long answers, one hardly looks.
"""

import math
import random
from dataclasses import dataclass
from functools import cache

from plumbline.preferences.simulated.gold import score
from plumbline.preferences.simulated.responses import CONTESTANTS, DEMONSTRATORS, write
from plumbline.preferences.simulated.world import Kind, SimulatedRequest, requests
from plumbline.preferences.types import (
    Comparison,
    Demonstration,
    Message,
    Origin,
    Prompt,
    Ranking,
    Row,
    label_of,
)

TIE_WITHIN = 0.15
SECOND_OPINIONS = 0.15


@dataclass(frozen=True)
class SimulatedAnnotator:
    """`reliability`: inverse scale of the noise. `length_taste`: utility a word. `careless`: chance of a
    random one."""

    name: str
    reliability: float
    length_taste: float = 0.0
    careless: float = 0.0

    def utility(self, gold: float, response: str, rng: random.Random) -> float:
        """Return the noisy utility of a response with this gold reward to the annotator."""
        if rng.random() < self.careless:
            return rng.uniform(-3.0, 3.0)
        noise = -math.log(-math.log(rng.uniform(1e-12, 1 - 1e-12))) / self.reliability
        return gold + self.length_taste * len(response.split()) + noise


ANNOTATORS = (
    SimulatedAnnotator("ada", 8.0),
    SimulatedAnnotator("ben", 5.0),
    SimulatedAnnotator("cleo", 4.0),
    SimulatedAnnotator("dov", 3.0, 0.03),
    SimulatedAnnotator("eve", 2.0),
    SimulatedAnnotator("finn", 3.0, 0.0, 0.5))


def rows(seed: int, demonstrations: int, comparisons: int, rankings: int) -> list[Row]:
    """Return the preference data of the simulated world: the same for the same arguments."""
    rng = random.Random(f"simulated-{seed}")
    found: list[Row] = [_demonstration(rng) for _ in range(demonstrations)]
    for _ in range(comparisons):
        request, responses = _contest(2, rng)
        judges = rng.sample(ANNOTATORS, 2 if rng.random() < SECOND_OPINIONS else 1)
        found += [_compare(judge, request, responses, rng) for judge in judges]
    for _ in range(rankings):
        request, responses = _contest(4, rng)
        found.append(_rank(rng.choice(ANNOTATORS), request, responses, rng))
    return found


def _draw(rng: random.Random) -> SimulatedRequest:
    by_kind = _requests_by_kind()
    return rng.choice(by_kind[rng.choice(list(by_kind))])


@cache
def _requests_by_kind() -> dict[Kind, list[SimulatedRequest]]:
    found: dict[Kind, list[SimulatedRequest]] = {}
    for request in requests().values():
        found.setdefault(request.kind, []).append(request)
    return found


def _prompt(request: SimulatedRequest) -> Prompt:
    return (Message("user", request.text),)


def _demonstration(rng: random.Random) -> Demonstration:
    request = _draw(rng)
    return Demonstration(_prompt(request), write(request, DEMONSTRATORS, rng), Origin("simulated"))


def _contest(k: int, rng: random.Random) -> tuple[SimulatedRequest, list[str]]:
    """Return a request with k different responses."""
    request = _draw(rng)
    responses: list[str] = []
    while len(responses) < k:
        response = write(request, CONTESTANTS, rng)
        if response not in responses:
            responses.append(response)
    return request, responses


def _compare(judge: SimulatedAnnotator, request: SimulatedRequest, responses: list[str],
             rng: random.Random) -> Comparison:
    first, second = (judge.utility(score(request, response), response, rng) for response in responses)
    label = "tie" if abs(first - second) < TIE_WITHIN else label_of(first, second)
    return Comparison(_prompt(request), (responses[0], responses[1]), label, Origin("simulated", judge.name))


def _rank(judge: SimulatedAnnotator, request: SimulatedRequest, responses: list[str],
          rng: random.Random) -> Ranking:
    utilities = [judge.utility(score(request, response), response, rng) for response in responses]
    order = sorted(utilities, reverse=True)
    ranks = tuple(1 + order.index(own) for own in utilities)
    return Ranking(_prompt(request), tuple(responses), ranks, Origin("simulated", judge.name))
