"""People as judges of held-out answers: what is asked, that nothing of it is learned, and what the figures say."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from plumbline.errors import UserError
from plumbline.evaluation.samples import Sample, SampleAnswer
from plumbline.feedback.collect import collect_from, uncollected
from plumbline.feedback.judging import PeopleFigures, judging_pairs, people_figures, said
from plumbline.feedback.next_pair import annotators, next_pair, stock
from plumbline.feedback.store import FeedbackStore
from plumbline.feedback.verdicts import CHOICES, OfferedPair, rows_of
from plumbline.preferences.batches.arrivals import arrivals, folder_of
from plumbline.preferences.batches.batch import ROWS
from plumbline.preferences.types import Message
from plumbline.project.home import Home
from testing.made_up import run, step
from testing.verdict_makers import pair_number, say, verdict

NAMES = ("policy", "policy_greedy", "sft", "sft_greedy", "champion", "champion_greedy")
FACTS = {"models/policy/model": "p.dir", "models/sft/model": "s.dir", "models/champion": "c.dir"}
RUN = run(steps={"preference_eval": step("preference_eval", inputs=FACTS)})


def sample(number: int, outcome: float = 1.0, names: tuple[str, ...] = NAMES) -> Sample:
    """A held-out prompt with an answer of each model, and the first judge's outcome against every opponent."""
    answers = {name: SampleAnswer(f"{name} says {number}", True, {"reward": 0.5}) for name in names}
    outcomes = {name: outcome for name in names if not name.startswith("policy")}
    return Sample((Message("user", f"Held out {number}?"),), answers, outcomes)


def asked(store: FeedbackStore, samples: list[Sample], sampled: bool = False) -> list[OfferedPair]:
    """The pairs against SFT that people are asked about, in the order of the samples."""
    made = judging_pairs(samples, RUN, len(samples), sampled)
    store.add_pairs(made)
    return [pair for pair in made if pair.answers[1].model.startswith("sft")]


def test_the_policy_meets_sft_and_the_champion_with_greedy_answers_where_there_are_some() -> None:
    samples = [sample(number) for number in range(5)]
    pairs = judging_pairs(samples, RUN, 3)
    assert [(pair.prompt, [answer.text for answer in pair.answers]) for pair in (pairs[0], pairs[3])] == [
        (samples[0].prompt, ["policy_greedy says 0", "sft_greedy says 0"]),
        (samples[0].prompt, ["policy_greedy says 0", "champion_greedy says 0"])]
    assert len(pairs) == 6 and {pair.source for pair in pairs} == {"judge"}
    assert [answer.digest for answer in pairs[3].answers] == ["p.dir", "c.dir"]
    assert RUN.id in pairs[0].reason
    first = judging_pairs(samples, RUN, 1, sampled=True)
    assert [answer.text for answer in first[0].answers] == ["policy says 0", "sft says 0"]
    without = judging_pairs([sample(0, names=("policy", "sft"))], RUN)
    assert [answer.model for answer in without[0].answers] == ["policy", "sft"]


def test_nobody_sees_the_policys_answer_to_a_prompt_twice_in_a_row(store: FeedbackStore) -> None:
    store.add_pairs(judging_pairs([sample(number) for number in range(6)], RUN))
    seen = []
    for _ in range(12):
        pair = next_pair(store, "ada")
        assert pair
        say(store, verdict(pair))
        seen.append(pair.prompt)
    assert all(one != other for one, other in pairwise(seen))
    assert len(set(seen[:6])) == 6


def test_answers_that_read_the_same_are_not_asked_about() -> None:
    same = sample(0, names=("policy", "sft"))
    spaced = SampleAnswer("policy  says 0\n", True, {})
    with pytest.raises(UserError, match="word by word"):
        judging_pairs([replace(same, answers={**same.answers, "sft": spaced})], RUN)
    with pytest.raises(UserError, match="no answers to held-out prompts"):
        judging_pairs([], RUN)


def test_they_are_asked_first_and_do_not_keep_pairs_to_learn_from_from_being_made(store: FeedbackStore) -> None:
    store.add_pairs([pair_number(1)])
    pair, = asked(store, [sample(0, names=("policy", "sft"))])
    assert next_pair(store, "ada") == pair
    assert stock(store) == 1
    for who in ("ada", "ben"):
        say(store, verdict(pair, annotator=who))
        assert next_pair(store, who) == pair_number(1)
    assert next_pair(store, "cyd") == pair_number(1)


def test_no_verdict_on_a_held_out_prompt_becomes_data(home: Home, store: FeedbackStore) -> None:
    learned = pair_number(1)
    store.add_pairs([learned])
    pair, = asked(store, [sample(0, names=("policy", "sft"))])
    told = verdict(pair, "A")
    say(store, told, verdict(pair, "B", annotator="ben"), verdict(pair, "both bad", annotator="cyd"))
    assert uncollected(store).count == 0
    assert collect_from(store, home) == [] == arrivals(home.preferences)
    say(store, verdict(learned))
    arrival, = collect_from(store, home)
    rows = (folder_of(home.preferences, arrival) / ROWS).read_text()
    assert "Question 1?" in rows and "Held out" not in rows
    store.undo(told.key, told.session)
    assert collect_from(store, home) == []


@pytest.mark.parametrize("choice", CHOICES)
def test_nor_would_it_if_it_were_collected_by_mistake(choice: str) -> None:
    pair = replace(pair_number(1, answers=2), source="judge")
    ranks = (1, 2) if choice in ("ranking", "best") else None
    assert rows_of(pair, verdict(pair, choice, ranks=ranks)) == []


def figures(store: FeedbackStore, samples: list[Sample]) -> PeopleFigures:
    found, = people_figures(said(store.reading), samples, "gold")
    return found


def test_the_win_rate_looks_through_the_sides_and_counts_a_tie_as_half(store: FeedbackStore) -> None:
    samples = [sample(number, names=("policy", "sft")) for number in range(5)]
    pairs = asked(store, samples)
    say(store, verdict(pairs[0], "A", shown=(0, 1)), verdict(pairs[1], "B", shown=(1, 0)),
        verdict(pairs[2], "A", shown=(1, 0)), verdict(pairs[3], "both bad"), verdict(pairs[4], "skip"))
    found = figures(store, samples)
    assert (found.opponent, found.people, found.win_rate.n, found.asked) == ("sft", 1, 4, 5)
    assert found.win_rate.value == (1 + 1 + 0 + 0.5) / 4
    assert found.win_rate.low < found.win_rate.value < found.win_rate.high
    assert found.among_people is None
    assert "0.625" in str(found) and "by 1 person on 4 of 5 pairs asked" in str(found)


def test_one_verdict_a_prompt_has_wilsons_interval(store: FeedbackStore) -> None:
    samples = [sample(number, names=("policy", "sft")) for number in range(20)]
    say(store, *[verdict(pair, "A" if place < 15 else "B") for place, pair in enumerate(asked(store, samples))])
    found = figures(store, samples)
    p, n, z = 0.75, 20, 1.959964
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    assert found.win_rate.value == p
    assert (found.win_rate.low, found.win_rate.high) == (pytest.approx(centre - half, abs=0.01),
                                                         pytest.approx(centre + half, abs=0.01))


def test_several_people_on_a_prompt_are_no_more_prompts(store: FeedbackStore) -> None:
    samples = [sample(number, names=("policy", "sft")) for number in range(20)]
    pairs = asked(store, samples)
    choices = ["A" if place < 15 else "B" for place in range(20)]
    say(store, *map(verdict, pairs, choices))
    alone = figures(store, samples).win_rate
    for who in ("ben", "cyd"):
        say(store, *[verdict(pair, choice, annotator=who) for pair, choice in zip(pairs, choices, strict=True)])
    together = figures(store, samples).win_rate
    assert (together.value, together.n, together.prompts) == (alone.value, 60, 20)
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.05)


def test_agreement_among_people_and_with_the_judge(store: FeedbackStore) -> None:
    outcomes = [1.0, 1.0, 0.0, 1.0, 0.5, 0.0]
    samples = [sample(number, outcome, ("policy", "sft")) for number, outcome in enumerate(outcomes)]
    pairs = asked(store, samples)
    for who, choices in (("ada", "AABBA"), ("ben", "ABBB")):
        say(store, *[verdict(pair, choice, annotator=who) for pair, choice in zip(pairs, choices, strict=False)])
    found = figures(store, samples)
    assert found.among_people and found.with_judge and found.judge_win_rate
    # The first four pairs are shared: alike on 0, 2 and 3. Of eight verdicts in both orders 3 + 2 say A,
    # so chance agrees on (3/8)^2 + (5/8)^2 = 34/64.
    assert (found.among_people.share.value, found.among_people.share.n) == (0.75, 4)
    assert found.among_people.kappa == pytest.approx((0.75 - 34 / 64) / (1 - 34 / 64))
    # With the judge, who leaves pair 4 open: Ada A A B B and Ben A B B B, against A A B A.
    assert found.with_judge.judges == ("people", "gold")
    assert (found.with_judge.share.value, found.with_judge.share.n) == (5 / 8, 8)
    chance = (3 / 8) * (6 / 8) + (5 / 8) * (2 / 8)
    assert found.with_judge.kappa == pytest.approx((5 / 8 - chance) / (1 - chance))
    assert found.judge_win_rate.value == (1 + 1 + 0 + 1 + 0.5) / 5
    assert "with gold on 0.62 of 8" in str(found)


def test_the_last_word_of_a_person_counts_and_what_was_undone_does_not(store: FeedbackStore) -> None:
    samples = [sample(0, names=("policy", "sft"))]
    pair, = asked(store, samples)
    last = verdict(pair, "B")
    say(store, verdict(pair, "A"), last)
    assert figures(store, samples).win_rate.value == 0
    assert figures(store, samples).win_rate.n == 1
    store.undo(last.key, last.session)
    assert people_figures(said(store.reading), samples, "gold") == [], "what it replaced does not come back"
    say(store, verdict(pair, "A"))
    say(store, verdict(pair, "skip"))
    assert figures(store, samples).win_rate.value == 1


def test_each_match_has_its_own_figures_and_another_evaluation_has_none(store: FeedbackStore) -> None:
    samples = [sample(0), sample(1)]
    for pair in judging_pairs(samples, RUN):
        store.add_pairs([pair])
        say(store, verdict(pair, "A" if pair.answers[1].model == "sft_greedy" else "B"))
    given = said(store.reading)
    assert {one.opponent: one.win_rate.value for one in people_figures(given, samples, None)} == {
        "sft_greedy": 1.0, "champion_greedy": 0.0}
    assert people_figures(given, [sample(7)], None) == []
    store.add_pairs(judging_pairs([sample(8)], RUN))
    assert people_figures(said(store.reading), [sample(8)], None) == []  # asked, and not answered yet
    # A training pair with the very same answers is another pair.
    twin = replace(judging_pairs([sample(7)], RUN)[0], source="feedback")
    store.add_pairs([twin])
    say(store, verdict(twin))
    assert people_figures(said(store.reading), [sample(7)], None) == []


def test_sides_of_pairs_for_judging_tell_a_habit(store: FeedbackStore) -> None:
    pair, = asked(store, [sample(0, names=("policy", "sft"))])
    say(store, verdict(pair, "A"))
    assert annotators(store)[0].first_shown == 1.0
