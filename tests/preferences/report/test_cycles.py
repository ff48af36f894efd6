"""Circles in preferences are found wherever they are, and nowhere else."""

import random
from graphlib import CycleError, TopologicalSorter

from plumbline.preferences.types import Origin, Ranking
from testing.reported import judged, prompt, reported


def cycles(*rows):
    return reported(rows)["agreement"].get("cycles")


def chain(names, annotator="ada", of="Question"):
    """Each is preferred to the next, and the last to the first."""
    return [judged("A", annotator, (a, b), of) for a, b in zip(names, names[1:] + names[:1], strict=True)]


def test_three_in_a_circle_and_four():
    for names in ("abc", "abcd"):
        assert cycles(*chain(names)) == {"prompts": 1, "with_cycle": 1, "prompts_of_one_annotator": 1,
                                         "with_cycle_of_one_annotator": 1}


def test_an_order_is_no_circle():
    rows = [judged("A", "ada", pair) for pair in (("a", "b"), ("b", "c"), ("a", "c"))]
    assert cycles(*rows)["with_cycle"] == 0
    assert cycles(Ranking(prompt(), tuple("abcd"), (1, 2, 2, 3), Origin("house", "ada")))["with_cycle"] == 0


def test_a_circle_of_the_majority_need_not_be_anyones():
    # Condorcet's three voters.
    found = cycles(*(Ranking(prompt(), tuple(order), (1, 2, 3), Origin("house", who))
                     for who, order in (("ada", "abc"), ("ben", "bca"), ("cleo", "cab"))))
    assert found == {"prompts": 1, "with_cycle": 1, "prompts_of_one_annotator": 3, "with_cycle_of_one_annotator": 0}


def test_pairs_of_different_prompts_make_no_circle():
    rows = [row for name in ("one", "two") for row in chain("abc", of=name)[:2]]
    assert cycles(*rows) is None


def test_draws_are_not_decided():
    assert cycles(*chain("abc"), judged("B", "ben", ("a", "b"))) is None


def test_random_tournaments_have_as_many_circles_as_a_topological_sort_finds():
    rng, rows, expected = random.Random(0), [], 0
    for i in range(200):
        graph = {}
        for a in range(5):
            for b in range(a):
                if rng.random() < 0.5:
                    continue
                label = rng.choice("AB")
                rows.append(judged(label, "ada", (str(a), str(b)), f"Q{i}"))
                winner, loser = (a, b) if label == "A" else (b, a)
                graph.setdefault(winner, set()).add(loser)
        try:
            TopologicalSorter(graph).prepare()
        except CycleError:
            expected += 1
    assert 0 < expected < 200
    assert cycles(*rows)["with_cycle"] == cycles(*rows)["with_cycle_of_one_annotator"] == expected
