"""Who is shown what, and what the verdicts say of those who gave them."""

from dataclasses import replace

import pytest

from plumbline.feedback.next_pair import annotators, next_pair, open_prompts, order_seed, shown_order, stock
from plumbline.feedback.store import FeedbackStore
from plumbline.feedback.verdicts import OfferedPair
from testing.verdict_makers import pair_number, say, verdict


def judge_all(store: FeedbackStore, who: str, wanted: int = 1000) -> list[OfferedPair]:
    """What somebody is shown until there is nothing left."""
    shown: list[OfferedPair] = []
    while len(shown) < wanted and (pair := next_pair(store, who)):
        shown.append(pair)
        say(store, verdict(pair, annotator=who))
    return shown


def test_nobody_judges_a_pair_twice_and_a_pair_gets_two_people_at_most(store: FeedbackStore) -> None:
    store.add_pairs([pair_number(n) for n in range(6)])
    for who in ("ada", "ben"):
        shown = judge_all(store, who)
        assert len(shown) == len({pair.id for pair in shown}) == 6
    assert judge_all(store, "cyd") == []


def test_what_was_skipped_is_shown_to_others_and_what_was_undone_is_shown_again(store: FeedbackStore) -> None:
    pair = pair_number(1)
    store.add_pairs([pair])
    for number in range(3):
        say(store, verdict(pair, "skip", annotator=f"skipper {number}"))
    assert next_pair(store, "skipper 0") is None
    told = verdict(pair, annotator="ada")
    say(store, told)
    assert next_pair(store, "ada") is None
    store.undo(told.key, told.session)
    assert next_pair(store, "ada") == pair


def test_new_pairs_come_first_and_every_fifth_is_one_that_somebody_else_judged(store: FeedbackStore) -> None:
    store.add_pairs([pair_number(n) for n in range(40)])
    by_ada = {pair.id for pair in judge_all(store, "ada", 10)}
    shown = judge_all(store, "ben", 10)
    assert [place for place, pair in enumerate(shown, 1) if pair.id in by_ada] == [5, 10]


def test_rankings_and_pairs_of_try_it_are_not_offered_as_comparisons(store: FeedbackStore) -> None:
    three, tried = pair_number(1, answers=3), replace(pair_number(2), source="try it")
    store.add_pairs([three, tried])
    assert next_pair(store, "ada") is None
    assert next_pair(store, "ada", ranking=True) == three
    assert (stock(store), stock(store, ranking=True)) == (0, 1)


def test_sides_are_at_random_for_each_person_and_stay_for_one() -> None:
    def order(pair: OfferedPair, who: str) -> tuple[int, ...]:
        return shown_order(pair, order_seed(pair, who))

    pairs = [pair_number(n) for n in range(400)]
    for who in ("ada", "ben"):
        first = sum(order(pair, who)[0] == 0 for pair in pairs)
        assert 150 < first < 250
    assert all(order(pair, "ada") == order(pair, "ada") for pair in pairs)
    assert any(order(pair, "ada") != order(pair, "ben") for pair in pairs)


def test_the_stock_is_what_nobody_has_judged(store: FeedbackStore) -> None:
    store.add_pairs([pair_number(1), pair_number(2)])
    say(store, verdict(pair_number(1)))
    assert stock(store) == 1
    assert open_prompts(store) == {pair_number(2).prompt}


def test_agreement_looks_through_the_sides_and_the_first_shown_does_not(store: FeedbackStore) -> None:
    store.add_pairs([pair_number(n) for n in range(4)])
    for number in range(4):
        say(store, verdict(pair_number(number), "A", annotator="ada", shown=(0, 1)),
            verdict(pair_number(number), ("B", "B", "A", "both bad")[number], annotator="ben", shown=(1, 0)))
    say(store, verdict(pair_number(0), "skip", annotator="cyd"))
    ada, ben, cyd = annotators(store)
    assert (ada.agreement, ada.compared, ada.first_shown) == (0.5, 4, 1.0)
    assert (ben.agreement, ben.first_shown, ben.decided) == (0.5, pytest.approx(1 / 3), 3)
    assert (cyd.agreement, cyd.first_shown, cyd.choices) == (None, None, {"skip": 1})


def test_what_try_it_shows_first_says_nothing_of_a_habit(store: FeedbackStore) -> None:
    tried = [replace(pair_number(n), source="try it") for n in range(3)]
    store.add_pairs([pair_number(9), *tried])
    say(store, *[verdict(pair, "A", annotator="ben") for pair in tried], verdict(pair_number(9), "B", annotator="ada"),
        *[verdict(pair, "A", annotator="ada") for pair in tried])
    ada, ben = annotators(store)
    assert (ada.first_shown, ada.decided, ada.choices) == (0.0, 1, {"A": 3, "B": 1})
    assert (ben.first_shown, ben.decided, ben.verdicts, ben.agreement) == (None, 0, 3, 1.0)


def test_ties_agree_with_both_bad(store: FeedbackStore, pair: OfferedPair) -> None:
    say(store, verdict(pair, "tie", annotator="ada"), verdict(pair, "both bad", annotator="ben"))
    assert [one.agreement for one in annotators(store)] == [1.0, 1.0]
