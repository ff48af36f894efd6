"""Preferences that go in a circle: A over B, B over C, C over A. No reward can satisfy all three.

Two responses to one prompt are decided when more judgements prefer the one than the other. A prompt has a
cycle when its decided pairs, drawn as arrows, lead from some response back to it. One annotator's judgements
are looked at in the same way: a circle that a single person makes is carelessness, one that only the majority
makes can be honest taste (Condorcet 1785).
"""

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from plumbline.preferences.report.intervals import Ints
from plumbline.preferences.report.judgements import NOBODY, Judgements

_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))


class Cycles(TypedDict):
    """Prompts with at least three decided pairs, and how many have a cycle; then the same within one
    annotator."""

    prompts: int
    with_cycle: int
    prompts_of_one_annotator: int
    with_cycle_of_one_annotator: int


def cycles(found: Judgements) -> Cycles:
    """Return the number of prompts with cycles."""
    prompts, with_cycle = _count(found, found.prompts)
    known = found.annotators.astype(np.int64) - NOBODY
    own, own_cycles = _count(found,
                             np.where(known > 0, found.prompts * (known.max(initial=0) + 1) + known, -1))
    return {"prompts": prompts, "with_cycle": with_cycle, "prompts_of_one_annotator": own,
            "with_cycle_of_one_annotator": own_cycles}


def _count(found: Judgements, graphs: Ints) -> tuple[int, int]:
    """Return the number of graphs with three decided pairs, and of those with a cycle; graph -1 is left out.
    """
    rows = np.flatnonzero(graphs >= 0)
    keys = graphs[rows].astype(np.uint64) * _MIX[0] + found.pairs[rows].astype(np.uint64) * _MIX[1]
    _, first, pair = np.unique(keys, return_index=True, return_inverse=True)
    balance = np.bincount(pair, found.labels[rows], len(first))
    decided = np.flatnonzero(balance)
    _, graph = np.unique(graphs[rows[first[decided]]], return_inverse=True)
    enough = np.bincount(graph) >= 3
    kept = decided[enough[graph]]
    if not len(kept):
        return 0, 0
    graph, row = graph[enough[graph]], rows[first[kept]]
    cyclic = _cyclic(graph, found.firsts[row], found.seconds[row], balance[kept] > 0)
    return int(enough.sum()), len(np.unique(graph[cyclic]))


def _cyclic(graph: Ints, firsts: NDArray[np.uint64], seconds: NDArray[np.uint64],
            first_wins: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return (N,) flags of the arrows on a cycle: within a strongly connected component (Tarjan 1972)."""
    # Slow to import, and only this function needs it.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    responses = np.concatenate([firsts, seconds]) + np.tile(graph, 2).astype(np.uint64) * _MIX[0]
    distinct, node = np.unique(responses, return_inverse=True)
    first, second = node[: len(graph)], node[len(graph) :]
    winner, loser = np.where(first_wins, first, second), np.where(first_wins, second, first)
    arrows = coo_array((np.ones(len(graph), np.int8), (winner, loser)), shape=(len(distinct), len(distinct)))
    part: Ints = connected_components(arrows, connection="strong")[1]
    same: NDArray[np.bool_] = part[winner] == part[loser]
    return same
