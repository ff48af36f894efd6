"""What a shard of all judgements adds up to. Pairs of responses, and circles of them, never cross a shard."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plumbline.preferences.report import agreement, biases
from plumbline.preferences.report.agreement import Floats, SharedTally
from plumbline.preferences.report.biases import Wins
from plumbline.preferences.report.census import counted
from plumbline.preferences.report.cycles import Cycles, cycles
from plumbline.preferences.report.intervals import Clusters, Flags, clusters_of
from plumbline.preferences.report.judgements import Contradictions, contradictions, table
from plumbline.preferences.shards import Shards
from plumbline.preferences.sums import Summed


@dataclass(frozen=True)
class Tally(Summed):
    """Of the judgements by themselves."""

    pairs: int
    ties: Clusters
    longer: Wins
    sides: NDArray[np.int64]
    """(sources, 2): how often the response shown first won, and the other."""
    chosen: Counter[int]
    """How often each length is there, in characters; of decided pairs, like the next."""
    rejected: Counter[int]
    contradictions: Contradictions
    cycles: Cycles
    shared: SharedTally


@dataclass(frozen=True)
class SecondTally(Summed):
    """Of what can only be counted when the first tally is known."""

    first_shown: Wins
    met: Floats
    """With which values two of the busiest annotators met."""


def tally(shard: tuple[Shards, int]) -> Tally:
    """Add up the judgements of a shard."""
    judgements, number = shard
    found = table(judgements.read(number))
    decided = np.flatnonzero(found.labels)
    chosen = found.lengths[decided, (found.labels[decided] < 0).astype(np.int64)]
    rejected = found.lengths[decided, (found.labels[decided] > 0).astype(np.int64)]
    return Tally(len(found.labels),
                 clusters_of(found.labels == 0, found.prompts, np.zeros(len(found.labels), np.int64)),
                 biases.longer_wins(found), biases.sides_won(found), Counter(counted(chosen)),
                 Counter(counted(rejected)), contradictions(found), cycles(found),
                 agreement.shared_tally(found))


def second_tally(asked: tuple[Shards, int, Flags, list[int]]) -> SecondTally:
    """Add up the judgements of a shard: those of sources where either side can win, and of the busiest
    annotators."""
    judgements, number, either, busiest = asked
    found = table(judgements.read(number))
    return SecondTally(biases.first_shown_wins(found, either), agreement.met_in_pairs(found, busiest))
