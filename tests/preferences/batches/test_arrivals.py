"""What arrives stays, corrections and removals hold from then on, and an import leaves the whole batch or nothing."""

import hashlib
import json
import shutil
from datetime import UTC, datetime

import numpy as np
import pytest

from plumbline.errors import UserError
from plumbline.preferences.batches.arrivals import (
    NO_ROWS,
    arrivals,
    draft,
    find_arrival,
    folder_of,
    not_here,
    publish,
    time_of_next,
)
from plumbline.preferences.batches.batch import BATCH, ROWS
from plumbline.preferences.batches.folders import Folders
from plumbline.preferences.batches.index import COLUMNS, index_of, make_index
from plumbline.preferences.batches.snapshot import Simulation, fix_snapshot, removed_since
from plumbline.preferences.reading.read import read_file
from testing.preference_files import demonstrations, pairs, write_jsonl


@pytest.fixture
def folders(tmp_path):
    return Folders(tmp_path, tmp_path / "home")


def arrive(folders, records, action="add", added="2026-01-01", removed=NO_ROWS, reason=""):
    """Publish records as an arrival; returns it with the ids of its rows in the order of the records."""
    file = write_jsonl(folders.root / "in.jsonl", records)
    with draft(folders, "in.jsonl", read_file(file, "in.jsonl") if records else []) as drafted:
        rows = drafted.index.row
        return publish(folders, drafted, action, added, "", removed, reason), rows


def in_snapshot(folders):
    out = folders.root / "snapshot"
    manifest = fix_snapshot(["added"], Simulation(0, 0, 0, 0), folders, out)
    lines = [line for batch in manifest.batches for line in (out / f"{batch.digest}.jsonl").read_bytes().splitlines()]
    return {int(hashlib.sha256(line).hexdigest()[:16], 16) for line in lines}, manifest


def test_every_batch_that_was_added_is_in_the_next_snapshot(folders):
    _, first = arrive(folders, pairs(3))
    _, second = arrive(folders, demonstrations(2), added="2026-01-02")
    rows, manifest = in_snapshot(folders)
    assert rows == {*first.tolist(), *second.tolist()}
    assert [batch.rows for batch in manifest.batches] == [3, 2]


def test_a_row_that_was_removed_is_in_no_later_snapshot_though_its_batch_is(folders):
    _, rows = arrive(folders, pairs(3))
    before = in_snapshot(folders)[1]
    arrive(folders, [], "remove", "2026-01-02", rows[:1], "withdrew consent")
    found, manifest = in_snapshot(folders)
    assert found == set(rows[1:].tolist())
    assert (manifest.batches[0].removed, manifest.batches[0].rows) == (1, 2)
    assert manifest.batches[0].whole == before.batches[0].digest
    assert manifest.digest != before.digest
    assert "Good answer 0" not in "".join(file.read_text() for file in (folders.root / "snapshot").iterdir())


def test_adding_a_removed_row_again_does_not_bring_it_back_but_a_correction_does(folders):
    _, rows = arrive(folders, pairs(2))
    arrive(folders, [], "remove", "2026-01-02", rows[:1])
    arrive(folders, pairs(4), added="2026-01-03")
    assert int(rows[0]) not in in_snapshot(folders)[0]
    arrive(folders, pairs(1), "supersede", "2026-01-04")
    assert int(rows[0]) in in_snapshot(folders)[0]


def test_labels_can_be_corrected_there_and_back(folders):
    _, first = arrive(folders, pairs(1))
    flipped = [{"prompt": "Question 0", "chosen": "Bad", "rejected": "Good answer 0"}]
    _, second = arrive(folders, flipped, "supersede", "2026-01-02", first)
    assert in_snapshot(folders)[0] == set(second.tolist())
    arrive(folders, pairs(1), "supersede", "2026-01-03", second)
    assert in_snapshot(folders)[0] == set(first.tolist())


def test_when_everything_is_removed_the_snapshot_is_empty(folders):
    _, rows = arrive(folders, pairs(2))
    arrive(folders, [], "remove", "2026-01-02", rows)
    assert in_snapshot(folders)[1].batches == ()


def test_no_snapshot_goes_without_an_arrival_that_was_not_pulled(folders):
    _, rows = arrive(folders, pairs(3))
    removal = folder_of(folders, arrive(folders, [], "remove", "2026-01-02", rows[:1], "withdrew consent")[0])
    removal.with_suffix(".dvc").write_text("outs: []\n")
    assert in_snapshot(folders)[0] == set(rows[1:].tolist())
    shutil.rmtree(removal)  # as in a checkout between `git pull` and `plumbline pull`
    assert not_here(folders) == [removal.name]
    with pytest.raises(UserError, match=rf"1 are not on this machine: {removal.name}\. .* `plumbline pull` brings"):
        in_snapshot(folders)


def test_half_an_arrival_is_not_here_and_has_to_go_before_it_is_pulled(folders):
    folder = folder_of(folders, arrive(folders, pairs(3))[0])
    folder.with_suffix(".dvc").write_text("outs: []\n")
    (folder / BATCH).unlink()
    with pytest.raises(UserError, match=rf"Delete what there is of {folder.name}; then `plumbline pull`"):
        in_snapshot(folders)


@pytest.mark.parametrize(("newest", "next_time"), [
    ("2999-01-01T00:00:00.000009+00:00", "2999-01-01T00:00:00.000010+00:00"),
    ("2999-01-01T00:00:00.999999Z", "2999-01-01T00:00:01.000000+00:00")])
def test_what_arrives_comes_after_all_that_is_known_though_the_clock_was_put_back(folders, newest, next_time):
    old, new = arrive(folders, pairs(1))[0], arrive(folders, pairs(2), added=newest)[0]
    assert time_of_next([new, old]) == next_time
    before = datetime.now(UTC)
    assert before <= datetime.fromisoformat(time_of_next([old])) <= datetime.now(UTC)


def test_rows_that_were_removed_after_a_snapshot_are_counted_and_corrected_ones_are_not(folders):
    snapshot = folders.root / "snapshot"
    _, rows = arrive(folders, pairs(4))
    arrive(folders, [], "remove", "2026-01-02", rows[:1])
    in_snapshot(folders)
    assert removed_since(folders, snapshot) == 0
    flipped = [{"prompt": "Question 1", "chosen": "Bad", "rejected": "Good answer 1"}]
    arrive(folders, flipped, "supersede", "2026-01-03", rows[1:2])
    assert removed_since(folders, snapshot) == 0
    arrive(folders, [], "remove", "2026-01-04", rows[2:])
    assert removed_since(folders, snapshot) == 2
    arrive(folders, pairs(3), "supersede", "2026-01-05")
    assert removed_since(folders, snapshot) == 1, "the correction brought one of the two back"


def test_an_import_that_is_interrupted_leaves_nothing(folders):
    def interrupted():
        yield from read_file(write_jsonl(folders.root / "in.jsonl", pairs(5)), "in.jsonl")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), draft(folders, "in.jsonl", interrupted()):
        pass
    assert arrivals(folders) == []
    assert list(folders.arrived.iterdir()) == []


def test_the_index_that_an_import_leaves_is_the_one_that_its_file_gives(folders):
    records = [*pairs(3), *demonstrations(2), {"prompt": "é", "response": "x", "score": 1, "annotator": "ada"},
               {"prompt": "é", "responses": ["a", "b", "c"], "ranks": [2, 1, 3], "source": "other"}]
    arrival, _ = arrive(folders, records)
    kept = index_of(folders.root / "nowhere", arrival.batch.digest, folders.indexes)
    made = make_index(folder_of(folders, arrival) / ROWS, arrival.batch.digest)
    assert all(np.array_equal(getattr(kept, name), getattr(made, name)) for name in COLUMNS)


def test_a_draft_that_is_not_published_leaves_nothing(folders):
    with draft(folders, "in.jsonl", read_file(write_jsonl(folders.root / "in.jsonl", pairs(5)), "in.jsonl")) as drafted:
        assert drafted.batch.rows == 5
    assert arrivals(folders) == []


def test_a_batch_is_named_by_its_content_and_found_by_the_beginning_of_its_name(folders):
    arrival, _ = arrive(folders, pairs(3))
    rows = (folder_of(folders, arrival) / "rows.jsonl").read_bytes()
    assert arrival.digest == hashlib.sha256(rows).hexdigest()
    assert find_arrival(folders, arrival.digest[:6]) == arrival
    with pytest.raises(UserError, match="data list"):
        find_arrival(folders, "no such digest")
    assert np.array_equal(arrivals(folders), [arrival])


def test_an_arrival_of_an_earlier_version_whose_field_names_cannot_be_written_can_be_told(folders):
    arrival, rows = arrive(folders, pairs(3))
    kept = folder_of(folders, arrival) / BATCH
    said = json.loads(kept.read_text())
    said["batch"] |= {"unread": {"m\ud83d": 3}, "left_alone": {"\udc00": 1}}
    kept.write_text(json.dumps(said))
    found = arrivals(folders)[0].batch
    assert (found.unread, found.left_alone) == ({"m\ufffd": 3}, {"\ufffd": 1})
    assert in_snapshot(folders)[0] == set(rows.tolist())
    assert "\\ud83d" not in (folders.root / "snapshot/manifest.json").read_text()
