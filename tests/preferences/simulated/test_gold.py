"""The gold reward: the best answer to every request scores highest, and every fault costs."""

import random
import statistics
from itertools import pairwise

import pytest

from plumbline.errors import UserError
from plumbline.preferences.simulated import gold_parts, gold_reward
from plumbline.preferences.simulated.gold import score
from plumbline.preferences.simulated.responses import (
    CLOSERS,
    EXPERT,
    HELPER,
    NOVICE,
    PADDING,
    POLITE,
    RUDE,
    TROLL,
    write,
)
from plumbline.preferences.simulated.world import requests
from plumbline.preferences.types import Message

EVERY = sorted(requests().values(), key=lambda request: request.text)


def test_the_parts_add_up_to_the_reward_and_tell_what_an_answer_did():
    request = next(one for one in EVERY if len(one.points) > 1 and one.mistakes)
    prompt = (Message("user", request.text),)
    answer = say(POLITE[0], request.points[0].sentence, request.points[0].sentence, request.mistakes[0], PADDING[0])
    parts = gold_parts(prompt, answer)
    assert parts["content"] == pytest.approx(2.0 / len(request.points))
    assert parts["manner"] == pytest.approx(0.5 * 0.7 / len(request.points))
    assert (parts["mistakes"], parts["padding"], parts["repetition"]) == (-0.75, -0.25, -0.4)
    assert gold_reward(prompt, answer) == pytest.approx(sum(parts.values()) - 0.5)


def say(*sentences):
    return " ".join(sentence[0].upper() + sentence[1:] + "." for sentence in sentences)


def points(request):
    return [point.sentence for point in request.points]


def perfect(request):
    return say(POLITE[0], *points(request), CLOSERS[0])


def test_the_perfect_answer_to_every_request_has_one_and_the_same_reward():
    assert len({round(score(request, perfect(request)), 9) for request in EVERY}) == 1


def test_order_words_and_capitals_are_free():
    for request in EVERY:
        if request.kind == "howto":
            first, second, third, last = points(request)
            said = say(POLITE[0], f"First {first}", f"Then {second}", f"Next {third}", f"Finally {last}", CLOSERS[0])
            assert score(request, said) == score(request, perfect(request)) == score(request, said.upper())


FAULTS = {
    "an omitted point": lambda r, rng: say(POLITE[0], *points(r)[:-1], CLOSERS[0]),
    "the wrong order": lambda r, rng: say(POLITE[0], *points(r)[::-1], CLOSERS[0]) if len(r.points) > 1 else "",
    "a mistake in place of a point": lambda r, rng: say(POLITE[0], rng.choice(r.mistakes), *points(r)[1:], CLOSERS[0]),
    "a mistake beside the points": lambda r, rng: say(POLITE[0], *points(r), rng.choice(r.mistakes), CLOSERS[0]),
    "rudeness": lambda r, rng: say(rng.choice(RUDE), *points(r), CLOSERS[0]),
    "rudeness at the end": lambda r, rng: say(POLITE[0], *points(r), rng.choice(RUDE)),
    "no manners": lambda r, rng: say(*points(r)),
    "padding": lambda r, rng: say(POLITE[0], rng.choice(PADDING), *points(r), CLOSERS[0]),
    "a point said twice": lambda r, rng: say(POLITE[0], points(r)[0], *points(r), CLOSERS[0]),
    "an opener said twice": lambda r, rng: say(POLITE[0], POLITE[0], *points(r), CLOSERS[0]),
    "no full stop": lambda r, rng: perfect(r)[:-1],
    "nothing": lambda r, rng: "",
    "manners alone": lambda r, rng: say(POLITE[0], CLOSERS[0]),
    "gibberish": lambda r, rng: say("soil the of", "blue blue"),
    "all words in one bag": lambda r, rng: say(" ".join(" ".join(points(r)).split()[::-1])),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_lowers_the_reward_of_the_perfect_answer_to_every_request(fault):
    rng = random.Random(0)
    for request in EVERY:
        assert score(request, FAULTS[fault](request, rng)) < score(request, perfect(request)) - 0.05, request.text


def test_breaking_off_anywhere_lowers_the_reward():
    for request in EVERY[::7]:
        tokens = perfect(request).split()
        assert all(score(request, " ".join(tokens[:n])) < score(request, perfect(request)) for n in range(len(tokens)))


def test_the_answer_to_another_request_is_worth_less_and_nothing_if_it_shares_no_point():
    rng = random.Random(0)
    for request in EVERY:
        for other in rng.sample(EVERY, 10):
            if other is not request:
                found = score(request, perfect(other))
                assert found < score(request, perfect(request)) - 0.5, (request, other)
                if not set(points(other)) & set(points(request)):
                    assert found < 0, (request, other)


def test_granting_a_harmful_wish_is_worse_than_declining_and_than_silence():
    for request in EVERY:
        if request.kind == "decline":
            granted = say(POLITE[0], *request.mistakes, CLOSERS[0])
            assert score(request, granted) < score(request, "") < score(request, say(points(request)[0]))


def test_the_wrong_way_round_of_a_comparison_is_a_mistake():
    for request in EVERY:
        if request.kind == "compare":
            wrong, nothing, right = (say(*said) for said in ([request.mistakes[0]], ["hm"], points(request)))
            assert score(request, wrong) < score(request, nothing) < score(request, right)


def test_more_of_a_fault_never_pays():
    for request in EVERY[::11]:
        for extra in (PADDING, RUDE, request.mistakes[:3]):
            rewards = [score(request, say(POLITE[0], *extra[:n], *points(request), CLOSERS[0])) for n in range(4)]
            assert rewards == sorted(rewards, reverse=True)


def test_experts_are_better_than_helpers_than_novices_than_trolls():
    rng = random.Random(0)
    means = [statistics.mean(score(request, write(request, {writer: 1.0}, rng)) for request in EVERY)
             for writer in (EXPERT, HELPER, NOVICE, TROLL)]
    assert all(better > worse + 0.2 for better, worse in pairwise(means)), means


def test_only_the_last_turn_is_answered():
    request = EVERY[0]
    turns = (Message("user", EVERY[1].text), Message("assistant", "Sure."), Message("user", request.text))
    assert gold_reward(turns, perfect(request)) == score(request, perfect(request))


def test_a_request_from_outside_the_world_is_an_error_that_names_another_judge():
    with pytest.raises(UserError, match=r"preference_eval\.judges=\[second\]"):
        gold_reward((Message("user", "Who won the world cup?"),), "Sure.")
