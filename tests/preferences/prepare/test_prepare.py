"""Prepared data: every row is accounted for, no prompt is in two splits, and the report says what is there."""

import json
from dataclasses import replace

import pytest

from plumbline.errors import UserError
from plumbline.preferences.batches.arrivals import NO_ROWS, draft, publish
from plumbline.preferences.batches.folders import Folders
from plumbline.preferences.batches.manifest import read_manifest
from plumbline.preferences.batches.snapshot import Simulation
from plumbline.preferences.prepare import reader as prepared
from plumbline.preferences.prepare.prepare import prepare
from plumbline.preferences.prepare.writer import Splitting
from plumbline.preferences.reading.read import read_file
from plumbline.preferences.reading.results import Quarantined
from plumbline.preferences.splits import SPLITS, prompt_key
from plumbline.preferences.types import Comparison, Message, Origin, Ranking, Rating, from_json, to_json
from testing.preference_files import demonstrations, pairs, write_jsonl

SPLITTING = Splitting(0.1, 0.3, chosen_as_demonstrations=False, near_duplicate=0.8)
PROMPT = (Message("user", "Question"),)


def share(found):
    return {name: found[name] for name in ("share", "n")}


def judged(label, annotator, responses=("one", "two"), prompt=PROMPT):
    return to_json(Comparison(prompt, responses, label, Origin("house", annotator)))


def rated(prompt, *scores):
    """Ada's ratings of responses, in the order in which she gave them."""
    return [to_json(Rating(prompt, response, score, Origin("house", "ada"))) for response, score in scores]


def preferences_of(prompt, folder):
    return [row for split in SPLITS for row in prepared.preferences(folder, split) if row.prompt == prompt]


@pytest.fixture
def prepared_from(tmp_path, snapshot):
    """Prepares records, together with enough plain ones that no split is empty."""

    def run(*records, splitting=SPLITTING):
        write_jsonl(tmp_path / "plain.jsonl", [*pairs(60), *demonstrations(60)])
        write_jsonl(tmp_path / "more.jsonl", records)
        sources = ["plain.jsonl", "more.jsonl"] if records else ["plain.jsonl"]
        counts, report = prepare(snapshot(*sources)[1], tmp_path / "prepared", splitting)
        return counts, report, tmp_path / "prepared"

    return run


def test_every_row_read_is_accepted_a_duplicate_or_quarantined(prepared_from):
    counts, report, folder = prepared_from(*pairs(5), *pairs(5), judged("A", "ada"), {"colour": "blue"}, {})
    expected = {"rows_read": 133, "rows_accepted": 126, "duplicates": 5, "quarantined": 2}
    assert counts.items() >= expected.items()
    kept = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["file"], row["line"]) for row in kept] == [("more.jsonl", 12), ("more.jsonl", 13)]
    assert sum(report["by_source"].values()) == 126


def test_no_prompt_is_in_two_splits_whatever_kind_of_row_it_is_in(prepared_from):
    _, _, folder = prepared_from(*[judged("A", "ada", prompt=(Message("user", f"  QUESTION {i}"),)) for i in range(60)])
    keys = {split: {prompt_key(row.prompt) for row in [*prepared.demonstrations(folder, split),
                                                       *prepared.preferences(folder, split)]} for split in SPLITS}
    assert sum(map(len, keys.values())) == len(set.union(*keys.values())) == 60
    for split in SPLITS:
        assert sorted(map(prompt_key, prepared.prompts(folder, split))) == sorted(keys[split])


def test_prompts_stay_in_their_split_as_data_grows(prepared_from, tmp_path):
    splitting = replace(SPLITTING, judge_fraction=0.4)
    _, _, folder = prepared_from(splitting=splitting)
    before = {split: set(prepared.prompts(folder, split)) for split in SPLITS}
    _, _, folder = prepared_from(*pairs(200, start=60), splitting=splitting)
    for split in SPLITS:
        assert before[split] < set(prepared.prompts(folder, split))


def test_annotators_who_disagree_stay_in_and_are_counted(prepared_from):
    records = [judged("A", "ada"), judged("B", "ben"), judged("B", "ada", ("two", "one")), judged("tie", "cleo")]
    counts, report, _ = prepared_from(*records)
    assert counts["rows_accepted"] == 124
    assert counts["contradictions"] == 1
    # Put into one order: ada A, ben B, ada A, cleo tie; of the three pairs of annotators none agrees.
    assert share(report["agreement"]["overall"]) == {"share": 0.0, "n": 3}


def test_agreement_between_annotators_counts_pairs_of_judgements(prepared_from):
    records = [judged("A", "ada"), judged("A", "ben"), judged("B", "cleo", ("two", "one")), judged("B", "dov")]
    _, report, _ = prepared_from(*records)
    assert share(report["agreement"]["overall"]) == {"share": 0.5, "n": 6}
    assert share(report["agreement"]["by_annotator"]["dov"]) == {"share": 0.0, "n": 3}
    assert share(report["agreement"]["by_annotator"]["ada"]) == {"share": pytest.approx(2 / 3), "n": 3}


def test_the_report_measures_what_a_reward_model_could_learn_wrongly(prepared_from):
    labels = [("A", "tie", "B", "A")[i % 4] for i in range(40)]
    records = [judged(label, "ada", ("x", "longer"), (Message("user", f"Q{i}"),)) for i, label in enumerate(labels)]
    _, report, _ = prepared_from(*records)
    judgements = report["judgements"]
    assert share(judgements["ties"]) == {"share": 10 / 100, "n": 100}
    assert share(judgements["longer_wins"]) == {"share": (60 + 10) / 90, "n": 90}
    # The plain file stores the chosen response first: who was shown first is not known there.
    assert share(judgements["first_shown_wins"]) == {"share": 20 / 30, "n": 30}


def test_chosen_responses_become_demonstrations_once_a_prompt(prepared_from):
    ranking = Ranking((Message("user", "Rank"),), ("c", "a", "b"), (3, 1, 2), Origin("house"))
    level = Ranking((Message("user", "Level"),), ("a", "b"), (1, 1), Origin("house"))
    records = [judged("B", "ada"), judged("B", "ben"), judged("tie", "ada", ("x", "y"), (Message("user", "Tie"),)),
               to_json(ranking), to_json(level)]
    splitting = Splitting(0.1, 0.3, chosen_as_demonstrations=True, near_duplicate=0.8)
    _, _, folder = prepared_from(*records, splitting=splitting)
    found = [row for split in SPLITS for row in prepared.demonstrations(folder, split)]
    # "Question 0" to 59 are demonstrated and chosen with the same words, so only these two are new.
    assert {(row.prompt[-1].content, row.response) for row in found} == {
        *((f"Question {i}", f"Good answer {i}") for i in range(60)), ("Question", "two"), ("Rank", "a")}
    assert len(found) == 62


@pytest.mark.parametrize(("records", "says"), [
    (pairs(60), "no demonstrations to train on"), (demonstrations(60), "no preferences to train the reward model on"),
    ([*demonstrations(60), *pairs(1, start=2)], "no preferences to examine")])
def test_a_missing_kind_of_data_is_named_with_what_to_do(tmp_path, snapshot, records, says):
    write_jsonl(tmp_path / "a.jsonl", records)
    with pytest.raises(UserError, match=says) as caught:
        prepare(snapshot("a.jsonl")[1], tmp_path / "prepared", Splitting(0.1, 0.3, False, None))
    assert "snapshot.sources" in str(caught.value)
    assert not (tmp_path / "prepared").exists()


def test_a_snapshot_of_which_no_row_is_left_is_named_with_what_to_do(tmp_path, snapshot):
    folders = Folders(tmp_path, tmp_path / "home")
    rows = [from_json(judged(label, "ada")) for label in ("A", "B")]
    with draft(folders, "given", [*rows, Quarantined("given", 3, "-", "no fields")]) as drafted:
        publish(folders, drafted, "add", "2026-01-01", "", NO_ROWS, "")
        gone = drafted.index.row
    with draft(folders, "remove", []) as drafted:
        publish(folders, drafted, "remove", "2026-01-02", "", gone, "")
    with pytest.raises(UserError, match=r"snapshot is empty: .* 2 rows were removed, 1 are in quarantine.* data add"):
        prepare(snapshot("added")[1], tmp_path / "prepared", SPLITTING)
    assert not (tmp_path / "prepared").exists()


def test_removed_rows_are_counted_though_nothing_of_their_batch_is_left(tmp_path, snapshot):
    folders = Folders(tmp_path, tmp_path / "home")
    records = [*pairs(60), *demonstrations(60)], pairs(3, start=100), pairs(4, start=200)
    for number, given in enumerate(records):
        file = write_jsonl(tmp_path / "given.jsonl", given)
        with draft(folders, "given", list(read_file(file, file.name))) as drafted:
            publish(folders, drafted, "add", f"2026-01-0{number + 1}", "", NO_ROWS, "")
            gone = drafted.index.row if number else drafted.index.row[:2]
        with draft(folders, "remove", []) as drafted:
            publish(folders, drafted, "remove", f"2026-02-0{number + 1}", "", gone, "")
    manifest, folder = snapshot("added")
    assert (manifest.removed, manifest.wholly_removed, len(manifest.batches)) == (9, 7, 1)
    assert read_manifest(folder) == manifest
    assert {file.name for file in folder.iterdir()} == {f"{manifest.batches[0].digest}.jsonl", "manifest.json"}
    assert prepare(folder, tmp_path / "prepared", SPLITTING)[0]["removed"] == 9


def test_fractions_that_leave_nothing_to_train_on_are_refused(tmp_path, snapshot):
    with pytest.raises(UserError, match=r"ingest\.validation_fraction \(0\.5\)"):
        prepare(snapshot("simulated")[1], tmp_path / "prepared", Splitting(0.5, 0.5, False, None))


def test_rows_are_read_at_any_place_as_often_as_wanted(prepared_from, monkeypatch):
    _, _, folder = prepared_from()
    expected = [from_json(json.loads(line)) for line in (folder / "preferences/train.jsonl").read_text().splitlines()]
    monkeypatch.setattr(prepared, "BLOCK", 7)
    rows = prepared.preferences(folder, "train")
    assert list(rows) == list(rows) == expected
    assert (len(rows), rows[-1], rows[2:4], rows[3]) == (len(expected), expected[-1], expected[2:4], expected[3])
    with pytest.raises(IndexError):
        rows[len(expected)]
    assert not prepared.preferences(folder, "judge")


def test_reading_before_ingest_says_which_stage_is_missing(tmp_path):
    with pytest.raises(UserError, match="run the ingest stage"):
        prepared.prompts(tmp_path, "train")


def test_the_same_snapshot_is_prepared_into_the_same_bytes_and_names_itself(tmp_path, snapshot):
    manifest, folder = snapshot("simulated")
    for name in ("one", "two"):
        prepare(folder, tmp_path / name, SPLITTING)
    files = [sorted(path for path in (tmp_path / name).rglob("*") if path.is_file()) for name in ("one", "two")]
    assert len(files[0]) == 16
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    assert read_manifest(tmp_path / "one") == manifest


def test_the_default_amount_of_data_is_prepared(tmp_path, snapshot):
    _, folder = snapshot("simulated", simulation=Simulation(0, 2000, 3000, 300))
    counts, _ = prepare(folder, tmp_path / "prepared", SPLITTING)
    assert counts["rows_accepted"] > 5000
    parts = ("demonstrations", "preferences", "prompts")
    assert all(counts[f"{part}_{split}"] for part in parts for split in ("train", "validation", "heldout"))


def test_prompts_are_kept_for_the_judge_unless_the_gold_reward_judges(prepared_from, tmp_path, snapshot):
    splitting = replace(SPLITTING, judge_fraction=0.4)
    counts, report, folder = prepared_from(splitting=splitting)
    kept = {prompt_key(row.prompt) for row in prepared.preferences(folder, "judge")}
    assert 5 < len(kept) == counts["preferences_judge"] == counts["prompts_judge"] < 25
    assert kept == {prompt_key(row.prompt) for row in prepared.demonstrations(folder, "judge")}
    assert report["splits"]["preferences"]["judge"] == len(kept)
    assert {line.split(",")[2] for line in (folder / "rows.csv").read_text().splitlines()[1:]} >= {"judge", "train"}
    counts, _ = prepare(snapshot("simulated")[1], tmp_path / "simulated", splitting)
    assert counts["preferences_judge"] == counts["prompts_judge"] == counts["demonstrations_judge"] == 0


def test_a_prompt_whose_texts_look_like_the_end_of_it_is_prepared_as_it_is(prepared_from):
    prompt = (Message("user", 'An array: "}], '), Message("assistant", 'So: "}], "response'), Message("user", '"}], '))
    _, _, folder = prepared_from(judged("A", "ada", prompt=prompt))
    assert preferences_of(prompt, folder) == [Comparison(prompt, ("one", "two"), "A", Origin("house", "ada"))]
    assert prompt in [one for split in SPLITS for one in prepared.prompts(folder, split)]


def test_the_last_rating_of_a_response_counts_though_it_is_given_for_the_second_time(prepared_from):
    ratings = rated(PROMPT, ("one", 1.0), ("one", 0.0), ("one", 1.0), ("two", 0.0))
    counts, _, folder = prepared_from(*ratings)
    assert preferences_of(PROMPT, folder) == [Comparison(PROMPT, ("one", "two"), "A", Origin("house", "ada"), 1.0)]
    assert (counts["rows_read"], counts["rows_accepted"], counts["duplicates"]) == (124, 123, 1)
    assert len((folder / "rows.csv").read_text().splitlines()) == 1 + 123


def test_ratings_of_a_prompt_that_nearly_repeats_a_held_out_one_stay_out_however_often_they_are_given(prepared_from):
    asked = [(Message("user", f"What is the capital of country {n}"),) for n in range(60)]
    held = next(prompt for prompt in asked if SPLITTING.split(prompt_key(prompt)) == "heldout")
    others = [(Message("user", f"{held[0].content} {mark}"),) for mark in ("?", "!", "?!", "...", "??", "!!")]
    near = next(prompt for prompt in others if SPLITTING.split(prompt_key(prompt)) == "train")
    ratings = rated(near, ("one", 1.0), ("one", 0.0), ("one", 1.0), ("two", 0.0))
    counts, _, folder = prepared_from(judged("A", "ada", prompt=held), *ratings)
    assert preferences_of(near, folder) == []
    assert (counts["near_heldout"], counts["duplicates"]) == (3, 1)
