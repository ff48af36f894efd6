"""The simulated world: many requests of five kinds, and nothing in the corpus that shows how to answer one."""

import re
from collections import Counter
from itertools import islice

import pytest

from plumbline.preferences.simulated import gold_reward, rows
from plumbline.preferences.simulated.corpus import documents
from plumbline.preferences.simulated.gold import score
from plumbline.preferences.simulated.world import requests
from plumbline.preferences.types import Comparison, Demonstration, Ranking


@pytest.fixture(scope="module")
def data():
    return rows(0, 400, 600, 200)


def test_there_are_hundreds_of_requests_of_five_kinds():
    kinds = Counter(request.kind for request in requests().values())
    assert kinds.keys() == {"howto", "fact", "compare", "comfort", "decline"}
    assert sum(kinds.values()) >= 500 and min(kinds.values()) >= 80


def test_a_combination_has_one_wording():
    """Otherwise a held-out request would have a paraphrase in training: two wordings that want the same answer."""
    wanted = Counter(tuple(point.sentence for point in request.points) for request in requests().values())
    assert wanted.most_common(1)[0][1] == 1


def test_every_request_has_right_points_and_wrong_ones():
    for request in requests().values():
        assert request.points and request.mistakes
        assert not {point.sentence for point in request.points} & set(request.mistakes)


def test_the_data_are_those_of_their_seed():
    assert rows(0, 20, 20, 20) == rows(0, 20, 20, 20) != rows(1, 20, 20, 20)
    assert list(islice(documents(0), 50)) == list(islice(documents(0), 50)) != list(islice(documents(1), 50))


def test_as_many_rows_of_each_kind_as_asked_for(data):
    kinds = Counter(type(row) for row in data)
    assert kinds[Demonstration] == 400 and kinds[Ranking] == 200
    assert 600 <= kinds[Comparison] <= 1.4 * 600, "some comparisons get a second opinion"


def test_the_data_cover_every_kind_of_request(data):
    kinds = Counter(requests()[row.prompt[-1].content].kind for row in data)
    assert len(kinds) == 5 and min(kinds.values()) > 0.1 * len(data)
    assert len({row.prompt for row in data}) > 300


def test_responses_to_one_request_differ_and_rankings_have_four(data):
    for row in data:
        if not isinstance(row, Demonstration):
            assert len(set(row.responses)) == len(row.responses)
            assert len(row.responses) == (4 if isinstance(row, Ranking) else 2)


def test_some_comparisons_are_judged_twice_and_some_judges_disagree(data):
    by_pair = {}
    for row in data:
        if isinstance(row, Comparison):
            by_pair.setdefault((row.prompt, row.responses), []).append(row)
    twice = [pair for pair in by_pair.values() if len(pair) > 1]
    assert len(twice) > 40
    assert all(len({row.origin.annotator for row in pair}) == len(pair) for pair in twice)
    assert 0 < sum(len({row.label for row in pair}) > 1 for pair in twice) < 0.5 * len(twice)


def test_demonstrations_leave_room_for_improvement(data):
    golds = [gold_reward(row.prompt, row.response) for row in data if isinstance(row, Demonstration)]
    assert 0 < sum(golds) / len(golds) < 1.2
    assert max(golds) > 1.7 and min(golds) < 0


@pytest.fixture(scope="module")
def corpus():
    return list(islice(documents(0), 5000))


def test_no_request_in_the_corpus_is_followed_by_anything_of_its_answer(corpus):
    """A base model that had read requests with their answers would be helpful before anyone aligned it."""
    world = requests()
    wordings = re.compile("|".join(re.escape(text) for text in sorted(world, key=len, reverse=True)))
    found = 0
    for document in corpus:
        for match in wordings.finditer(document):
            found += 1
            follows = document[match.end():].strip().partition(".")[0] + "."
            assert score(world[match.group()], follows) <= score(world[match.group()], "."), document
    assert found > 100, "requests do occur, with other things after them"


def test_no_demonstration_is_in_the_corpus(corpus, data):
    text = "\n".join(corpus)
    for row in data:
        if isinstance(row, Demonstration):
            assert f"{row.prompt[-1].content} {row.response}" not in text


def test_the_corpus_teaches_every_fact_that_is_asked_for(corpus):
    text = "\n".join(corpus).lower()
    facts = [request.points[0].sentence for request in requests().values() if request.kind == "fact"]
    assert sum(fact in text for fact in facts) == len(facts)
