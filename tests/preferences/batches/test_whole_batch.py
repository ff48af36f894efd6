"""What is damaged is noticed before anything is learned from it, and what is derived is made again."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from plumbline.errors import UserError
from plumbline.preferences.batches.arrivals import (
    NO_ROWS,
    Arrival,
    arrival_index,
    arrivals,
    draft,
    find_arrival,
    folder_of,
    publish,
    readable_arrivals,
    removed_rows,
)
from plumbline.preferences.batches.batch import BATCH, QUARANTINE, ROWS
from plumbline.preferences.batches.folders import Folders
from plumbline.preferences.batches.index import COLUMNS, index_of
from plumbline.preferences.batches.manifest import Manifest
from plumbline.preferences.batches.snapshot import Simulation, fix_snapshot
from plumbline.preferences.batches.whole_batch import DamagedBatch
from plumbline.preferences.reading.read import read_file
from plumbline.preferences.versions.compare import Columns, DataVersion, rows_of
from plumbline.preferences.versions.export import write_export
from testing.preference_files import demonstrations, pairs, write_jsonl

NOTHING_SIMULATED = Simulation(0, 0, 0, 0)
Spoil = Callable[[Path], object]


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without_its_last_line(file: Path) -> None:
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))


def with_one_letter_changed(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"Good", b"Gold", 1))


def with_a_line_more(file: Path) -> None:
    file.write_bytes(file.read_bytes() * 2)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def garbage(file: Path) -> None:
    file.write_bytes(np.random.default_rng(0).bytes(4000))


def gone(file: Path) -> None:
    file.unlink()


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


ANYTHING: list[Spoil] = [half, without_its_last_line, with_one_letter_changed, with_a_line_more, empty, garbage, gone,
                         a_folder]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path, tmp_path / "home")


def arrive(folders: Folders, records: list[dict[str, object]], action: str = "add", added: str = "2026-01-01",
           removed: object = NO_ROWS) -> Arrival:
    file = write_jsonl(folders.root / "in.jsonl", records)
    with draft(folders, "in.jsonl", read_file(file, "in.jsonl") if records else []) as drafted:
        return publish(folders, drafted, action, added, "", removed, "")


def take(folders: Folders, *sources: str) -> Manifest:
    return fix_snapshot(sources or ["added"], NOTHING_SIMULATED, folders, folders.root / "snapshot")


@pytest.mark.parametrize("spoil", ANYTHING)
@pytest.mark.parametrize("others_are_removed", [False, True])
def test_a_damaged_batch_is_not_learned_from(folders: Folders, spoil: Spoil, others_are_removed: bool) -> None:
    arrival = arrive(folders, pairs(6))
    if others_are_removed:
        arrive(folders, [], "remove", "2026-01-02", arrival_index(folders, arrival).row[2:4])
    rows = folder_of(folders, arrival) / ROWS
    spoil(rows)
    with pytest.raises(DamagedBatch) as caught:
        take(folders)
    assert not (folders.root / "snapshot/manifest.json").exists()
    for word in (str(rows), arrival.digest, "dvc checkout", "plumbline pull", "adding its data again"):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damage_to_what_was_set_aside_counts_too(folders: Folders) -> None:
    arrival = arrive(folders, [*pairs(3), {"prompt": "x"}])
    half(folder_of(folders, arrival) / QUARANTINE)
    with pytest.raises(DamagedBatch, match=arrival.digest):
        take(folders)


def test_what_is_put_back_is_learned_from(folders: Folders) -> None:
    arrival = arrive(folders, pairs(6))
    before, rows = take(folders), folder_of(folders, arrival) / ROWS
    kept = rows.read_bytes()
    half(rows)
    with pytest.raises(DamagedBatch):
        take(folders)
    rows.write_bytes(kept)
    assert take(folders) == before


@pytest.mark.parametrize("spoil", ANYTHING)
def test_an_import_that_is_damaged_is_made_of_its_source_again(folders: Folders, spoil: Spoil) -> None:
    write_jsonl(folders.root / "given.jsonl", [*pairs(5), {"prompt": "x"}])
    before = take(folders, "given.jsonl")
    imported, = folders.imported.glob(f"*/{ROWS}")
    spoil(imported)
    assert take(folders, "given.jsonl") == before
    assert (folders.root / "snapshot" / f"{before.batches[0].digest}.jsonl").read_bytes().count(b"\n") == 5


@pytest.mark.parametrize("spoil", [half, empty, garbage, gone])
def test_so_is_one_that_does_not_say_what_it_is(folders: Folders, spoil: Spoil) -> None:
    write_jsonl(folders.root / "given.jsonl", pairs(5))
    before = take(folders, "given.jsonl")
    said, = folders.imported.glob(f"*/{BATCH}")
    spoil(said)
    assert take(folders, "given.jsonl") == before


def test_a_disk_that_damages_every_import_does_not_make_it_try_for_ever(folders: Folders,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(folders.root / "given.jsonl", pairs(5))
    move = shutil.move

    def spoiling(made: Path, folder: Path) -> None:
        half(made / ROWS)
        move(made, folder)

    monkeypatch.setattr("plumbline.preferences.batches.batch.move_into_place", spoiling)
    with pytest.raises(DamagedBatch):
        take(folders, "given.jsonl")


def without_a_column(file: Path) -> None:
    with np.load(file) as kept:
        np.savez(file, **{name: kept[name] for name in kept.files if name != "item"})


def with_a_short_column(file: Path) -> None:
    with np.load(file) as kept:
        columns = {name: kept[name] for name in kept.files}
    np.savez(file, **columns | {"start": columns["start"][:-1]})


def unreadable(file: Path) -> None:
    file.chmod(0)


@pytest.mark.parametrize("spoil", [empty, half, garbage, with_one_letter_changed, without_a_column, with_a_short_column,
                                   unreadable, a_folder, gone])
def test_a_damaged_index_is_made_again(folders: Folders, spoil: Spoil) -> None:
    arrival = arrive(folders, pairs(20))
    fresh = arrival_index(folders, arrival)
    arrive(folders, pairs(1), "supersede", "2026-01-02", fresh.row[1:3])
    for file in list(folders.indexes.iterdir()):
        spoil(file)
    again = arrival_index(folders, arrival)
    assert all(np.array_equal(getattr(again, name), getattr(fresh, name)) for name in COLUMNS)
    assert sum(batch.rows for batch in take(folders).batches) == 20 - 2 + 1


def test_an_index_of_which_a_byte_changed_is_made_again(folders: Folders) -> None:
    arrival = arrive(folders, pairs(4))
    fresh, (file,) = arrival_index(folders, arrival), folders.indexes.iterdir()
    whole = file.read_bytes()
    for place in range(0, len(whole), 37):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1:])
        again = arrival_index(folders, arrival)
        assert all(np.array_equal(getattr(again, name), getattr(fresh, name)) for name in COLUMNS), place


def test_no_index_is_made_of_damaged_rows(folders: Folders) -> None:
    """Under the name of the whole batch it would be believed once the batch is whole again."""
    arrival = arrive(folders, pairs(6))
    rows, (index,) = folder_of(folders, arrival) / ROWS, folders.indexes.iterdir()
    index.unlink()
    without_its_last_line(rows)
    with pytest.raises(DamagedBatch):
        index_of(rows, arrival.batch.digest, folders.indexes)
    assert not list(folders.indexes.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_index_that_cannot_be_kept_is_used_all_the_same(folders: Folders) -> None:
    arrival = arrive(folders, pairs(6))
    shutil.rmtree(folders.indexes)
    folders.home.chmod(0o500)
    try:
        assert len(arrival_index(folders, arrival)) == 6
    finally:
        folders.home.chmod(0o700)


def test_nor_does_a_file_in_the_place_of_its_folder_matter(folders: Folders) -> None:
    arrival = arrive(folders, pairs(6))
    shutil.rmtree(folders.indexes)
    folders.indexes.write_text("")
    assert len(arrival_index(folders, arrival)) == 6


@pytest.mark.parametrize("spoil", [empty, half, without_its_last_line, garbage, gone, with_a_line_more])
def test_a_removal_whose_list_is_damaged_does_not_bring_rows_back(folders: Folders, spoil: Spoil) -> None:
    arrival = arrive(folders, pairs(6))
    removal = arrive(folders, [], "remove", "2026-01-02", arrival_index(folders, arrival).row[2:5])
    spoil(folder_of(folders, removal) / "removed.txt")
    for use in (lambda: take(folders), lambda: removed_rows(folders, [removal])):
        with pytest.raises(UserError, match=r"removed\.txt is damaged"):
            use()


@pytest.mark.parametrize("spoil", [empty, half, garbage, a_folder,
                                   lambda file: file.write_text("[]"), lambda file: file.write_text('{"batch": 3}')])
def test_a_batch_that_does_not_say_what_it_is_costs_itself_alone_but_no_snapshot_leaves_it_out(
        folders: Folders, spoil: Spoil) -> None:
    first, second = arrive(folders, pairs(3)), arrive(folders, demonstrations(2), added="2026-01-02")
    file = folder_of(folders, second) / BATCH
    spoil(file)
    found, damaged = readable_arrivals(folders)
    assert found == [first]
    assert list(damaged) == [second.digest[:16]] and f"{file} is damaged" in damaged[second.digest[:16]]
    assert find_arrival(folders, first.digest[:8]) == first
    for use in (lambda: arrivals(folders), lambda: take(folders), lambda: find_arrival(folders, second.digest[:8])):
        with pytest.raises(UserError, match=f"{file} is damaged"):
            use()


def test_a_batch_that_says_it_is_another_is_damaged(folders: Folders) -> None:
    first, second = arrive(folders, pairs(3)), arrive(folders, demonstrations(2), added="2026-01-02")
    shutil.copy(folder_of(folders, first) / BATCH, folder_of(folders, second) / BATCH)
    found, damaged = readable_arrivals(folders)
    assert (found, list(damaged)) == ([first], [second.digest[:16]])


@pytest.mark.parametrize("spoil", [half, without_its_last_line, with_one_letter_changed, gone])
def test_an_export_of_a_damaged_batch_leaves_no_file(folders: Folders, spoil: Spoil) -> None:
    arrival = arrive(folders, pairs(4))
    rows, out = folder_of(folders, arrival) / ROWS, folders.root / "out.jsonl"
    spoil(rows)
    with pytest.raises(DamagedBatch, match=arrival.digest):
        write_export(rows_of(DataVersion("batch", ((rows, arrival.digest),))), "jsonl", out)
    assert not list(folders.root.glob("*out.jsonl*"))


@pytest.mark.parametrize("spoil", [half, with_one_letter_changed, empty])
def test_a_row_is_never_shown_as_another(folders: Folders, spoil: Spoil) -> None:
    arrival = arrive(folders, pairs(4))
    rows = folder_of(folders, arrival) / ROWS
    columns = Columns(DataVersion("batch", ((rows, arrival.digest),)), folders.indexes)
    before = [columns.read(place) for place in range(4)]
    spoil(rows)
    for place in range(4):
        try:
            assert columns.read(place) == before[place]
        except DamagedBatch as error:
            assert str(rows) in str(error)
    assert json.dumps(before).count("Good answer") == 4


def test_a_batch_of_another_digest_is_not_made_up(folders: Folders) -> None:
    arrival = arrive(folders, pairs(3))
    with pytest.raises(DamagedBatch):
        index_of(folder_of(folders, arrival) / ROWS, "0" * 64, folders.indexes)
