"""From verdicts to batches: each verdict that counts is in exactly one, whenever the collecting is killed."""

import json
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from plumbline.config import load_params
from plumbline.errors import UserError
from plumbline.feedback import collect as collecting
from plumbline.feedback.collect import collect, collect_from, uncollected
from plumbline.feedback.store import FeedbackStore
from plumbline.feedback.verdicts import OfferedPair
from plumbline.preferences.batches.arrivals import arrivals, folder_of
from plumbline.preferences.batches.batch import ROWS
from plumbline.preferences.batches.manifest import read_manifest
from plumbline.preferences.batches.snapshot import Simulation, fix_snapshot
from plumbline.preferences.prepare.prepare import prepare
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home
from plumbline.runs.stage_run import StageRun
from tasks.snapshot import program as take_snapshot
from testing.verdict_makers import pair_number, say, verdict

CHECKOUT = Path(__file__).parents[2]
STEPS = ("plan add", "plan remove", "export add", "publish add", "finish add", "end add")
EACH_DATABASE_AT_LENGTH = pytest.mark.parametrize(
    "home", ["sqlite", pytest.param("postgresql", marks=pytest.mark.evidence)], indirect=True)
REMOVAL_STEPS = tuple(step.replace("add", "remove") for step in STEPS[2:])


def in_batches(home: Home) -> list[dict[str, object]]:
    """Every row of every batch."""
    return [json.loads(line) for arrival in arrivals(home.preferences)
            for line in (folder_of(home.preferences, arrival) / ROWS).read_bytes().splitlines()]


def in_snapshot(home: Home) -> list[dict[str, object]]:
    """Every row that a run would learn from."""
    out = home.folder / "snapshot"
    manifest = fix_snapshot(["added"], Simulation(0, 0, 0, 0), home.preferences, out)
    return [json.loads(line) for batch in manifest.batches
            for line in (out / f"{batch.digest}.jsonl").read_bytes().splitlines()]


def test_verdicts_become_rows_in_the_order_in_which_they_were_shown(
        home: Home, store: FeedbackStore, pair: OfferedPair) -> None:
    told = verdict(pair, "A", shown=(1, 0), strength=3, comment="stays in the store")
    say(store, told)
    assert uncollected(store).count == 1
    arrival, = collect_from(store, home)
    assert in_batches(home) == [{
        "kind": "comparison", "prompt": [{"role": "user", "content": "Question 0?"}],
        "responses": ["Answer 1 to 0", "Answer 0 to 0"], "label": "A", "strength": 3.0, "source": "feedback",
        "annotator": "ada", "time": told.time, "machine": False}]
    assert arrival.batch.source == "feedback"
    assert uncollected(store).count == 0


def test_each_choice_becomes_what_the_schema_can_say_and_a_skip_nothing(
        home: Home, store: FeedbackStore, pair: OfferedPair) -> None:
    three = pair_number(5, answers=3)
    store.add_pairs([three])
    choices = {"ada": "B", "ben": "tie", "cyd": "both bad", "dan": "skip"}
    say(store, *[verdict(pair, choice, annotator=who) for who, choice in choices.items()],
        verdict(three, "ranking", shown=(2, 0, 1), ranks=(1, 2, 2)))
    collect_from(store, home)
    rows = in_batches(home)
    assert Counter(row["kind"] for row in rows) == {"comparison": 2, "rating": 2, "ranking": 1}
    assert [row["label"] for row in rows if row["kind"] == "comparison"] == ["B", "tie"]
    assert [row["score"] for row in rows if row["kind"] == "rating"] == [0.0, 0.0]
    ranking, = (row for row in rows if row["kind"] == "ranking")
    assert (ranking["responses"], ranking["ranks"]) == (["Answer 2 to 5", "Answer 0 to 5", "Answer 1 to 5"], [1, 2, 2])


def test_nothing_new_makes_no_batch(home: Home, store: FeedbackStore, pair: OfferedPair) -> None:
    say(store, verdict(pair), verdict(pair, "skip"))
    assert len(collect_from(store, home)) == 1
    assert collect_from(store, home) == []
    assert len(arrivals(home.preferences)) == 1


def test_what_was_undone_in_time_never_arrives(home: Home, store: FeedbackStore, pair: OfferedPair) -> None:
    told, kept = verdict(pair), verdict(pair, "B", annotator="ben")
    say(store, told, kept)
    store.undo(told.key, "s1")
    collect_from(store, home)
    assert [row["label"] for row in in_batches(home)] == ["B"]


def test_what_was_undone_later_is_taken_away_by_the_next_collection_and_only_that(
        home: Home, store: FeedbackStore, pair: OfferedPair) -> None:
    told, kept = verdict(pair, "both bad"), verdict(pair, "B", annotator="ben")
    say(store, told, kept)
    collect_from(store, home)
    assert len(in_snapshot(home)) == 3
    store.undo(told.key, "s1")
    assert (uncollected(store).count, uncollected(store).to_add) == (1, 0)
    removal, = collect_from(store, home)
    assert (removal.action, removal.removes) == ("remove", 2)
    assert [row["label"] for row in in_snapshot(home)] == ["B"]
    assert collect_from(store, home) == []


@pytest.mark.parametrize("collected", [False, True])
def test_of_two_verdicts_of_one_person_on_a_pair_the_last_is_learned_from_also_if_the_first_was_collected(
        home: Home, store: FeedbackStore, pair: OfferedPair, collected: bool) -> None:
    say(store, verdict(pair, "A"))
    if collected:
        collect_from(store, home)
    say(store, verdict(pair, "B"))
    actions = [arrival.action for arrival in collect_from(store, home)]
    assert actions == (["add", "remove"] if collected else ["add"])
    assert [row["label"] for row in in_snapshot(home)] == ["B"]
    assert collect_from(store, home) == []


def test_what_another_process_has_not_planned_is_planned_by_the_one_that_came_second(
        home: Home, store: FeedbackStore, pair: OfferedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL lets both look before either has written."""
    say(store, verdict(pair, annotator="ada"))
    with store.engine.begin() as connection:
        seen = collecting._lines_to_add(connection)
    collect_from(store, home)
    say(store, verdict(pair, annotator="ben"))
    look = collecting._lines_to_add
    looks = [lambda connection: seen | look(connection), look]
    monkeypatch.setattr(collecting, "_lines_to_add", lambda connection: looks.pop(0)(connection))
    arrival, = collect_from(store, home)
    assert (arrival.batch.rows, looks) == (1, [])
    assert rows_by_annotator(home) == {"ada": 1, "ben": 1}


def test_a_plan_that_is_refused_again_and_again_ends(
        home: Home, store: FeedbackStore, pair: OfferedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    say(store, verdict(pair))
    with store.engine.begin() as connection:
        seen = collecting._lines_to_add(connection)
    collect_from(store, home)
    monkeypatch.setattr(collecting, "_lines_to_add", lambda _: seen)
    with pytest.raises(UserError, match="cannot be used"):
        collect_from(store, home)


def test_a_project_without_feedback_gets_no_store(home: Home) -> None:
    if not os.environ.get("PLUMBLINE_FEEDBACK_URL"):
        assert collect(home) == []
        assert not (home.folder / "feedback.db").exists()


def _die_at(home: Home, step: str) -> None:
    def look(now: str) -> None:
        if now == step:
            os.kill(os.getpid(), signal.SIGKILL)

    collect(home, look)


def run(home: Home, step: str) -> int | None:
    """Collect in a process of its own, which kills itself before `step`; its exit status."""
    process = multiprocessing.get_context("spawn").Process(target=_die_at, args=(home, step))
    process.start()
    process.join()
    return process.exitcode


def rows_by_annotator(home: Home) -> dict[object, int]:
    return Counter(row["annotator"] for row in in_snapshot(home))


@pytest.mark.slow
@EACH_DATABASE_AT_LENGTH
def test_killed_before_any_step_every_verdict_still_ends_up_in_exactly_one_batch(
        home: Home, store: FeedbackStore, pair: OfferedPair) -> None:
    for number, step in enumerate(STEPS):
        say(store, verdict(pair, annotator=f"early {number}"))
        assert run(home, step) == -signal.SIGKILL, f"the step {step!r} was not taken"
        say(store, verdict(pair, annotator=f"late {number}"))
        assert run(home, "none") == 0
        assert rows_by_annotator(home) == {f"{when} {n}": 1 for n in range(number + 1) for when in ("early", "late")}
    assert len(in_batches(home)) == 2 * len(STEPS)


@pytest.mark.slow
@EACH_DATABASE_AT_LENGTH
def test_killed_before_any_step_of_a_removal_the_row_still_goes_and_the_others_stay(
        home: Home, store: FeedbackStore, pair: OfferedPair) -> None:
    say(store, verdict(pair, annotator="stays"))
    for step in REMOVAL_STEPS:
        told = verdict(pair, annotator=step)
        say(store, told)
        collect_from(store, home)
        store.undo(told.key, "s1")
        assert run(home, step) == -signal.SIGKILL
        assert run(home, "none") == 0
        assert rows_by_annotator(home) == {"stays": 1}
    assert sum(arrival.action == "remove" for arrival in arrivals(home.preferences)) == len(REMOVAL_STEPS)


@pytest.mark.slow
def test_processes_that_collect_at_the_same_time_double_nothing(
        home: Home, store: FeedbackStore, pair: OfferedPair) -> None:
    say(store, *[verdict(pair, annotator=f"number {n}") for n in range(200)])
    context = multiprocessing.get_context("spawn")
    collecting = [context.Process(target=_die_at, args=(home, "none")) for _ in range(4)]
    for one in collecting:
        one.start()
    for n in range(200, 300):
        say(store, verdict(pair, annotator=f"number {n}"))
    for one in collecting:
        one.join()
        assert one.exitcode == 0
    collect_from(store, home)
    assert rows_by_annotator(home) == {f"number {n}": 1 for n in range(300)}
    assert len(in_batches(home)) == 300


def test_collected_verdicts_are_data_that_ingest_takes(home: Home, store: FeedbackStore) -> None:
    from plumbline.preferences.prepare.writer import Splitting

    for number in range(40):
        pair = pair_number(number)
        store.add_pairs([pair])
        say(store, verdict(pair, ("A", "tie", "both bad", "B")[number % 4]))
    collect_from(store, home)
    in_snapshot(home)
    (home.folder / "demonstrations.jsonl").write_text("".join(
        json.dumps({"prompt": f"Say {n}", "completion": str(n)}) + "\n" for n in range(40)))
    fix_snapshot(["added", str(home.folder / "demonstrations.jsonl")], Simulation(0, 0, 0, 0), home.preferences,
                 home.folder / "snapshot")
    counts, report = prepare(home.folder / "snapshot", home.folder / "prepared", Splitting(0.1, 0.3, False, None))
    assert sum(counts[f"preferences_{split}"] for split in ("train", "validation", "heldout", "judge")) == 40
    assert report["counts"]["quarantined"] == 0


def test_the_snapshot_of_a_run_holds_every_verdict_that_was_acknowledged_before(
        home: Home, store: FeedbackStore, pair: OfferedPair) -> None:
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(CHECKOUT / file, home.root / file)
    params = load_params(home.root, None, ["snapshot.sources=[added]"])
    run = StageRun(home.root / "run", home, read_stages(home.root)["snapshot"], params, {}, "", None)
    say(store, *[verdict(pair, annotator=who) for who in ("ada", "ben", "cyd")])
    take_snapshot(run)
    manifest = read_manifest(run.folder)
    assert [batch.rows for batch in manifest.batches] == [3]


def test_a_verdict_on_a_pair_from_try_it_has_that_source(home: Home, store: FeedbackStore) -> None:
    pair = replace(pair_number(1), source="try it")
    store.add_pairs([pair])
    say(store, verdict(pair))
    collect_from(store, home)
    assert in_batches(home)[0]["source"] == "try it"


@pytest.mark.parametrize(("choice", "ranks"), [("A", [1, 2]), ("B", [2, 1]), ("tie", [1, 1])])
def test_a_verdict_from_try_it_claims_no_shown_order(
        home: Home, store: FeedbackStore, choice: str, ranks: list[int]) -> None:
    pair = replace(pair_number(1), source="try it")
    store.add_pairs([pair])
    say(store, verdict(pair, choice))
    collect_from(store, home)
    row, = in_batches(home)
    assert (row["kind"], row["ranks"]) == ("ranking", ranks)
    assert row["responses"] == [answer.text for answer in pair.answers]


@pytest.mark.parametrize(("shown", "ranks", "pairs"), [
    ((0, 1, 2), (1, 2, 2), [["Answer 0 to 1", "Answer 1 to 1"], ["Answer 0 to 1", "Answer 2 to 1"]]),
    ((2, 0, 1), (2, 1, 2), [["Answer 0 to 1", "Answer 2 to 1"], ["Answer 0 to 1", "Answer 1 to 1"]])])
def test_the_best_of_several_beats_each_other_one_and_says_nothing_of_the_others(
        home: Home, store: FeedbackStore, shown: tuple[int, ...], ranks: tuple[int, ...],
        pairs: list[list[str]]) -> None:
    pair = replace(pair_number(1, answers=3), source="try it")
    store.add_pairs([pair])
    told = verdict(pair, "best", shown=shown, ranks=ranks)
    say(store, told)
    collect_from(store, home)
    rows = in_batches(home)
    assert [(row["kind"], row["responses"], row["ranks"]) for row in rows] == [
        ("ranking", couple, [1, 2]) for couple in pairs]
    store.undo(told.key, told.session)
    removal, = collect_from(store, home)
    assert (removal.removes, in_snapshot(home)) == (2, [])


def test_ranks_given_by_a_person_to_answers_of_try_it_keep_their_ties(home: Home, store: FeedbackStore) -> None:
    pair = replace(pair_number(1, answers=3), source="try it")
    store.add_pairs([pair])
    say(store, verdict(pair, "ranking", ranks=(1, 2, 2)))
    collect_from(store, home)
    assert [row["ranks"] for row in in_batches(home)] == [[1, 2, 2]]
