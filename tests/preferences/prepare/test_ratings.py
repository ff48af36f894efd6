"""Ratings of one prompt by one annotator become the preferences that they hold, and the others are counted."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from plumbline.preferences.prepare.ratings import derive
from plumbline.preferences.types import Comparison, Message, Origin, Ranking, Rating, comparisons_of
from testing.depth import examples

ASK = (Message("user", "Why?"),)


def rate(response, score, prompt=ASK, **origin):
    return Rating(prompt, response, score, Origin(origin.pop("source", "house"), **origin))


def test_two_ratings_make_a_comparison_and_more_a_ranking_in_which_equal_scores_tie():
    ada = [rate("one", 3.0, annotator="ada"), rate("two", 4.5, annotator="ada")]
    ben = [rate(text, score, annotator="ben") for text, score in (("one", 4.0), ("two", 5.0), ("three", 4.0))]
    found = derive([ada[0], ben[0], ben[1], ada[1], ben[2]])
    assert found.preferences == [Comparison(ASK, ("one", "two"), "B", Origin("house", "ada"), 1.5),
                                 Ranking(ASK, ("one", "two", "three"), (2, 1, 2), Origin("house", "ben"))]
    assert (found.alone, found.replaced) == (0, 0)


def test_ratings_of_other_people_sources_and_prompts_are_not_compared():
    found = derive([rate("one", 1.0, annotator="ada"), rate("two", 0.0, annotator="ben"),
                    rate("two", 0.0, annotator="ada", source="elsewhere"),
                    rate("two", 0.0, (Message("user", "How?"),), annotator="ada")])
    assert not found.preferences
    assert found.alone == 4


def test_the_last_rating_of_a_response_counts_and_prompts_that_differ_in_spacing_are_one():
    found = derive([rate("one", 0.0), rate("two", 1.0), rate("one", 1.0, (Message("user", " why? "),))])
    assert found.preferences == [Comparison(ASK, ("one", "two"), "tie", Origin("house"), 0.0)]
    assert found.replaced == 1


def test_the_time_is_that_of_the_last_rating_and_a_machine_is_one_only_if_all_ratings_are():
    early = rate("one", 1.0, time="2026-01-01T00:00:00Z", machine=True)
    late = rate("two", 0.0, time="2026-01-02T00:00:00Z", machine=True)
    assert derive([late, early]).preferences[0].origin == Origin("house", None, "2026-01-02T00:00:00Z", True)
    person = replace(late, origin=replace(late.origin, machine=False))
    assert derive([early, person]).preferences[0].origin.machine is None


@examples(150)
@given(st.lists(st.builds(rate, st.sampled_from("abcd"), st.sampled_from([0.0, 1.0, 2.0]),
                          annotator=st.sampled_from(["ada", "ben"])), max_size=20))
def test_every_pair_says_what_the_last_scores_say_and_every_rating_is_accounted_for(ratings):
    last = {(rating.origin.annotator, rating.response): rating.score for rating in ratings}
    found = derive(ratings)
    for pair in (pair for preference in found.preferences for pair in comparisons_of(preference)):
        first, second = (last[pair.origin.annotator, text] for text in pair.responses)
        assert pair.label == ("tie" if first == second else "A" if first > second else "B")
    used = sum(len(preference.responses) for preference in found.preferences)
    assert used + found.alone + found.replaced == len(ratings)
