"""The gold reward: how good a response really is. Training never sees it; the evaluation may.

Content counts most (the right points, in the right order, nothing wrong), then manner, then brevity: padding,
repetition, and anything that means nothing in this world cost a little each. The range is about -4 to 2.
"""

from functools import cache

from plumbline.errors import UserError
from plumbline.preferences.simulated.responses import CLOSERS, ORDER_WORDS, POLITE, RUDE
from plumbline.preferences.simulated.world import Point, SimulatedRequest, requests, words
from plumbline.preferences.types import Prompt

CONTENT, MISTAKE, MANNER, WASTE, REPETITION = 2.0, 0.75, 0.5, 0.25, 0.4
BASE = -0.5
"""Of an answer that says nothing right and nothing wrong."""


def gold_reward(prompt: Prompt, response: str) -> float:
    """Return the gold reward of `response`.

    Raises UserError for a prompt that is not of the simulated world.
    """
    return score(_request(prompt), response)


def gold_parts(prompt: Prompt, response: str) -> dict[str, float]:
    """Return what the gold reward is the sum of, apart from BASE: content, mistakes, manner, padding and
    repetition.

    Raises UserError for a prompt that is not of the simulated world.
    """
    return parts_of(_request(prompt), response)


def score(request: SimulatedRequest, response: str) -> float:
    """Return the gold reward of `response` to `request`: about -4 to 2."""
    parts = parts_of(request, response)
    return (parts["content"] + BASE + parts["mistakes"] + parts["manner"] + parts["padding"]
            + parts["repetition"])


def parts_of(request: SimulatedRequest, response: str) -> dict[str, float]:
    """Return the parts of the gold reward of `response` to `request`."""
    sentences = [said for part in response.replace("!", ".").replace("?",
                                                                     ".").split(".") if (said := words(part))]
    complete = response.rstrip().endswith((".", "!", "?"))
    covered, mistakes, waste, repeated, manner = [], 0, 0, 0, 0.0
    seen: set[tuple[str, ...]] = set()
    for position, said in enumerate(sentences):
        key = tuple(_without_order_word(said))
        if key in seen:
            repeated += 1
        elif (index := _point_of(request, key)) is not None:
            covered.append(index)
        elif _is_any(key, request.mistakes):
            mistakes += 1
        elif position == 0 and _is_any(key, POLITE):
            manner += 0.7
        elif position == len(sentences) - 1 and _is_any(key, CLOSERS):
            manner += 0.3
        elif _is_any(key, RUDE):
            manner -= 1.0
        else:
            waste += 1
        seen.add(key)
    content = _longest_increasing(covered) / len(request.points)
    waste += 0 if complete else 2
    # Kindness is no substitute for an answer: manner counts in full only beside content.
    polite = manner if manner < 0 else manner * content
    return {"content": CONTENT * content, "mistakes": -MISTAKE * min(mistakes, 2), "manner": MANNER * polite,
            "padding": -WASTE * min(waste, 4), "repetition": -REPETITION * min(repeated, 3)}


def _request(prompt: Prompt) -> SimulatedRequest:
    request = requests().get(prompt[-1].content)
    if request is None:
        raise UserError(f"The gold reward knows only simulated requests; found {prompt[-1].content[:80]!r}. "
                        "Choose another judge: --set preference_eval.judges=[second].")
    return request


def _point_of(request: SimulatedRequest, said: tuple[str, ...]) -> int | None:
    """Return the index of the point that a sentence makes: all its keywords, and at most two words more."""
    spoken = set(said) | _comparison(said)
    for index, wanted in enumerate(request.points):
        if wanted.keywords <= spoken and len(said) <= _length(wanted) + 2:
            return index
    return None


def _length(wanted: Point) -> int:
    return len(wanted.sentence.split())


def _comparison(said: tuple[str, ...]) -> set[str]:
    """Return the comparisons that a sentence implies: `fox>bee` for `the fox is bigger than the bee`."""
    if "bigger" not in said or "than" not in said:
        return set()
    before, after = said[: said.index("bigger")], said[said.index("than") :]
    return {f"{a}>{b}" for a in before for b in after}


def _is_any(said: tuple[str, ...], known: tuple[str, ...]) -> bool:
    return said in _bare(known)


@cache
def _bare(sentences: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    """Return each sentence's words without an order word, which some mistakes begin with."""
    return frozenset(tuple(_without_order_word(words(sentence))) for sentence in sentences)


def _without_order_word(said: list[str]) -> list[str]:
    return said[1:] if len(said) > 1 and said[0].capitalize() in ORDER_WORDS else said


def _longest_increasing(indices: list[int]) -> int:
    best = [0] * len(indices)
    for i, index in enumerate(indices):
        best[i] = 1 + max((best[j] for j in range(i) if indices[j] < index), default=0)
    return max(best, default=0)
