"""The feedback store: a verdict that was acknowledged is there, once, and can be taken back."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from plumbline.errors import UserError
from plumbline.feedback.database import open_database
from plumbline.feedback.schema import metadata
from plumbline.feedback.store import FeedbackStore
from plumbline.feedback.verdicts import OfferedAnswer, OfferedPair
from plumbline.project.home import Home
from testing.verdict_makers import count, pair_number, say, verdict


def test_what_was_written_is_there_after_the_store_is_opened_again(home: Home) -> None:
    first, pair = FeedbackStore.open(home), pair_number(1)
    first.add_pairs([pair])
    told = verdict(pair, "B", shown=(1, 0), strength=2, comment="clearer  \U0001f600")
    say(first, told)
    first.close()
    second = FeedbackStore.open(home)
    assert second.last("s1") == told
    assert second.pair(pair.id) == pair
    second.close()


def test_the_same_verdict_sent_again_counts_once(store: FeedbackStore, pair: OfferedPair) -> None:
    told = verdict(pair)
    say(store, told, told, verdict(pair, annotator="ben"), told)
    assert count(store) == 2


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("changed", [{"choice": "B"}, {"choice": "tie"}, {"strength": 2}, {"annotator": "ben"},
                                     {"shown": (1, 0)}, {"pair": pair_number(1).id}])
def test_another_verdict_under_the_same_key_is_refused_and_takes_nobody_with_it(
        store: FeedbackStore, pair: OfferedPair, changed: dict[str, object], at_once: bool) -> None:
    store.add_pairs([pair_number(1)])
    told = verdict(pair)
    if not at_once:
        say(store, told)
    good = verdict(pair, annotator="cyd")
    first, again, other, beside = (store.submit(one) for one in (
        told, replace(told, session="s2", time="later"), replace(told, **changed), good))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"answered already, with 'A'.*load the page again"):
        other.result(30)
    for written in (first, again, beside):
        written.result(30)
    assert count(store) == 2
    assert store.last("s1") == good


def test_other_ranks_under_the_same_key_are_refused(store: FeedbackStore) -> None:
    pair = pair_number(1, answers=3)
    store.add_pairs([pair])
    told = verdict(pair, "ranking", ranks=(1, 2, 3))
    say(store, told, told)
    with pytest.raises(UserError, match="answered already"):
        say(store, replace(told, ranks=(3, 2, 1)))
    assert store.last("s1") == told


@pytest.mark.parametrize("choice", ["A", "B"])
def test_a_verdict_under_the_key_of_one_that_was_undone_is_refused_and_not_dropped(
        store: FeedbackStore, pair: OfferedPair, choice: str) -> None:
    told = verdict(pair, "A")
    say(store, told)
    store.undo(told.key, "s1")
    with pytest.raises(UserError, match=r"undone.*load the page again"):
        say(store, verdict(pair, choice, key=told.key))
    assert count(store) == 0


@pytest.mark.parametrize("at_once", [False, True])
def test_of_one_persons_verdicts_on_a_pair_the_last_counts_and_those_of_others_and_on_other_pairs_stay(
        store: FeedbackStore, pair: OfferedPair, at_once: bool) -> None:
    store.add_pairs([pair_number(1)])
    others = [verdict(pair, "A", annotator="ben", session="s2"), verdict(pair_number(1), "A", session="s3")]
    told = [*others, verdict(pair, "skip"), verdict(pair, "A"), verdict(pair, "both bad"), verdict(pair, "B")]
    for group in [told] if at_once else [[one] for one in told]:
        say(store, *group)
    assert count(store) == 3
    assert store.last("s1") == told[-1]
    assert [store.last("s2"), store.last("s3")] == others


def test_a_skip_takes_back_nothing(store: FeedbackStore, pair: OfferedPair) -> None:
    told, skipped = verdict(pair, "A"), verdict(pair, "skip")
    say(store, told)
    say(store, skipped)
    assert store.undo(skipped.key, "s1") == skipped
    assert store.last("s1") == told


def test_a_verdict_sent_again_after_it_was_replaced_is_not_the_last_word(
        store: FeedbackStore, pair: OfferedPair) -> None:
    told, last = verdict(pair, "A"), verdict(pair, "B")
    say(store, told, last, told)
    with pytest.raises(UserError, match=r"replaced by a later one.*load the page again"):
        say(store, told)
    assert count(store) == 1
    assert store.last("s1") == last


def test_several_servers_leave_each_person_one_verdict_on_a_pair(home: Home, store: FeedbackStore) -> None:
    asked = [pair_number(number) for number in range(8)]
    store.add_pairs(asked)
    servers = [store, *(FeedbackStore.open(home) for _ in range(3))]
    written = [server.submit(verdict(pair, choice)) for _ in range(5) for choice in ("A", "B")
               for place, server in enumerate(servers) for pair in asked[::1 if place % 2 else -1]]
    for one in written:
        one.result(30)
    assert count(store) == len(asked)
    for server in servers[1:]:
        server.close()


def test_who_stops_waiting_does_not_stop_the_writer(store: FeedbackStore, pair: OfferedPair) -> None:
    assert store.submit(verdict(pair)).cancel()
    say(store, verdict(pair))


def test_the_same_pair_is_kept_once(store: FeedbackStore) -> None:
    assert store.add_pairs([pair_number(1), pair_number(2), pair_number(1)]) == 2
    assert store.add_pairs([replace(pair_number(1), reason="another")]) == 0
    assert store.pair(pair_number(1).id) == pair_number(1)


def test_many_threads_lose_and_double_nothing(store: FeedbackStore, pair: OfferedPair) -> None:
    told = [verdict(pair, key=f"key {number % 300}", annotator=f"person {number % 300}") for number in range(600)]
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda one: say(store, one), told))
    assert count(store) == 300


def test_undo_takes_back_one_verdict_of_the_session_and_doing_it_twice_is_harmless(
        store: FeedbackStore, pair: OfferedPair) -> None:
    store.add_pairs([pair_number(1)])
    first, second, other = verdict(pair), verdict(pair_number(1)), verdict(pair, session="s2", annotator="ben")
    say(store, first, second, other)
    assert store.undo(second.key, "s1") == second
    assert store.undo(second.key, "s1") == second
    assert store.undo(other.key, "s1") is None
    assert store.last("s1") == first
    assert count(store) == 2


@pytest.mark.parametrize(("changed", "says"), [
    ({"shown": (0, 0)}, "each of the 2"), ({"choice": "ranking"}, "ranks"), ({"ranks": (1, 2)}, "nothing else"),
    ({"choice": "ranking", "ranks": (1, 3)}, "from 1 to 2"), ({"choice": "best", "ranks": (2, 2)}, "rank 1 for"),
    ({"choice": "best"}, "ranks"), ({"strength": 4}, "1, 2 or 3"),
    ({"choice": "tie", "strength": 1}, "goes with A or B"), ({"pair": "0"}, "no pair")])
def test_what_is_no_verdict_is_refused_with_the_reason(
        store: FeedbackStore, pair: OfferedPair, changed: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        store.submit(replace(verdict(pair), **changed))  # type: ignore[arg-type]


def test_a_choice_between_two_is_refused_for_three(store: FeedbackStore) -> None:
    pair = pair_number(1, answers=3)
    store.add_pairs([pair])
    with pytest.raises(UserError, match="rank them"):
        store.submit(verdict(pair, "A"))
    say(store, verdict(pair, "ranking", ranks=(1, 3, 1)))


def test_one_text_that_the_database_cannot_hold_does_not_take_the_others_with_it(
        store: FeedbackStore, pair: OfferedPair) -> None:
    bad = store.submit(verdict(pair, comment="a\0b"))
    say(store, *[verdict(pair, annotator=f"person {number}") for number in range(5)])
    assert count(store) == 5 + (bad.exception(10) is None)


def _open(home: Home) -> None:
    open_database(home).dispose()


def test_several_that_open_a_new_store_at_once_all_find_it_whole(home: Home) -> None:
    context = multiprocessing.get_context("spawn")
    opening = [context.Process(target=_open, args=(home,)) for _ in range(4)]
    for one in opening:
        one.start()
    for one in opening:
        one.join()
        assert one.exitcode == 0
    store = FeedbackStore.open(home)
    assert count(store) == 0
    store.close()


def test_the_changes_make_the_tables_that_the_code_writes_to(store: FeedbackStore) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_store_of_a_newer_version_is_refused(store: FeedbackStore, home: Home) -> None:
    from sqlalchemy import text

    with store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '99'"))
    with pytest.raises(UserError, match="newer"):
        FeedbackStore.open(home)


@pytest.mark.parametrize(("url", "says"), [("mysql://x/y", "postgresql or sqlite"), ("nonsense", "should be"),
                                           ("postgresql://nobody@127.0.0.1:1/none", "cannot be used")])
def test_an_address_that_does_not_lead_to_a_store_is_said_in_one_paragraph(
        home: Home, monkeypatch: pytest.MonkeyPatch, url: str, says: str) -> None:
    monkeypatch.setenv("PLUMBLINE_FEEDBACK_URL", url)
    with pytest.raises(UserError, match=says):
        FeedbackStore.open(home)


def test_a_pair_is_named_by_what_it_asks() -> None:
    pair = pair_number(1)
    assert pair.id == replace(pair, answers=tuple(OfferedAnswer(a.text, "x", "y", None) for a in pair.answers)).id
    assert pair.id != pair_number(2).id
