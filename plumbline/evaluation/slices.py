"""Comparisons divided by what could explain a reward model's accuracy: an average over all of them hides a
kind of prompt, an annotator or a length on which it is wrong.
"""

from collections import defaultdict
from collections.abc import Sequence

from plumbline.preferences.simulated import kind_of
from plumbline.preferences.splits import prompt_key
from plumbline.preferences.types import Comparison

SIMILAR_LENGTH = 1.25
"""Lengths in characters are similar if the longer is at most this many times the shorter."""
MUCH_LONGER = 2.0


def source_of(one: Comparison) -> str:
    """Return the name of the source that the judgement came from."""
    return one.origin.source


def annotator_of(one: Comparison) -> str:
    """Return the annotator's name, or `unknown`."""
    return one.origin.annotator or "unknown"


def kinds_of(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the simulated world's kind of each prompt; an empty list unless all are of that world."""
    kinds = [kind_of(one.prompt) for one in comparisons]
    return [kind for kind in kinds if kind] if all(kinds) else []


def length_of(one: Comparison) -> str:
    """Return how long the chosen response is beside the rejected one: `similar`, `longer`, `much longer` ...

    Lengths count characters; an empty response counts as one character.
    """
    chosen, rejected = max(1, len(one.chosen)), max(1, len(one.rejected))
    ratio = max(chosen, rejected) / min(chosen, rejected)
    if ratio <= SIMILAR_LENGTH:
        return "similar"
    side = "longer" if chosen > rejected else "shorter"
    return side if ratio <= MUCH_LONGER else f"much {side}"


def agreement_among(comparisons: Sequence[Comparison]) -> list[str]:
    """Return for each comparison whether its two responses were judged `once`, or several times: `unanimous`
    or `split`.

    A tie agrees with ties only. The order in which the two responses were shown plays no part.
    """
    verdicts: dict[tuple[str, frozenset[str]], list[str | None]] = defaultdict(list)
    pairs = [(prompt_key(one.prompt), frozenset(one.responses)) for one in comparisons]
    for pair, one in zip(pairs, comparisons, strict=True):
        verdicts[pair].append(None if one.label == "tie" else one.chosen)
    names = []
    for pair in pairs:
        judged = verdicts[pair]
        if len(judged) == 1:
            names.append("once")
        else:
            names.append("unanimous" if len(set(judged)) == 1 else "split")
    return names
