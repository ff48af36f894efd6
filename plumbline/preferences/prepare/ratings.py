"""From ratings to preferences: what one annotator thinks of several responses to one prompt puts them in
order.

Only ratings of one prompt, source and annotator are compared, because two people's scales are two scales; the
ratings whose annotator is unknown count as one person's within their source. Two responses make a comparison,
whose strength is the difference of the scores, and more make a ranking; equal scores are ties.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from plumbline.preferences.reading.formats.fields import distance, ranks_by
from plumbline.preferences.splits import prompt_key
from plumbline.preferences.types import Comparison, Origin, Preference, Prompt, Ranking, Rating, label_of


@dataclass(frozen=True)
class Derived:
    """The preferences that ratings hold, and what became of the other ratings."""

    preferences: Sequence[Preference]
    alone: int
    """Ratings with no other response beside them to compare with."""
    replaced: int
    """Ratings of a response that the same annotator rated again: the last one counts."""


def derive(ratings: Iterable[Rating]) -> Derived:
    """Return the comparisons and rankings that ratings imply, in the order in which their prompts were rated.

    All ratings are held in memory.
    """
    groups: dict[tuple[str, str, str | None], tuple[Prompt, dict[str, Rating]]] = {}
    replaced = 0
    for rating in ratings:
        key = (prompt_key(rating.prompt), rating.origin.source, rating.origin.annotator)
        _, group = groups.setdefault(key, (rating.prompt, {}))
        replaced += rating.response in group
        group[rating.response] = rating
    preferences = list(_preferences(groups.values()))
    return Derived(preferences, sum(len(group) == 1 for _, group in groups.values()), replaced)


def _preferences(groups: Iterable[tuple[Prompt, dict[str, Rating]]]) -> Iterator[Preference]:
    for prompt, group in groups:
        rated = list(group.values())
        origin = _origin(rated)
        scores = [rating.score for rating in rated]
        if len(rated) == 2:
            yield Comparison(prompt, (rated[0].response, rated[1].response), label_of(*scores), origin,
                             distance(*scores))
        elif len(rated) > 2:
            yield Ranking(prompt, tuple(group), ranks_by(scores), origin)


def _origin(rated: Sequence[Rating]) -> Origin:
    """Return the origin of a group of ratings, at the time of the last one.

    `machine` is None unless all ratings agree on it.
    """
    first = rated[0].origin
    machine = {rating.origin.machine for rating in rated}
    times = [rating.origin.time for rating in rated if rating.origin.time is not None]
    return Origin(first.source, first.annotator, max(times, default=None),
                  machine.pop() if len(machine) == 1 else None)
