"""A snapshot names the exact rows of a run: same content, same digest, same bytes; unchanged, it costs nothing."""

import gzip
import hashlib
import json
import os

import pytest

from plumbline.errors import UserError
from plumbline.preferences.batches.manifest import read_manifest
from plumbline.preferences.batches.snapshot import Simulation
from plumbline.preferences.reading import read as reading
from testing.preference_files import pairs, write_jsonl


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_files_are_named_by_the_digest_of_their_content(tmp_path, snapshot):
    write_jsonl(tmp_path / "a.jsonl", pairs(3))
    manifest, folder = snapshot("a.jsonl")
    batch = manifest.batches[0]
    assert batch.digest == hashlib.sha256((folder / f"{batch.digest}.jsonl").read_bytes()).hexdigest()
    assert (batch.source, batch.rows, batch.kinds, batch.quarantined) == ("a.jsonl", 3, {"comparison": 3}, 0)
    assert read_manifest(folder) == manifest


def test_the_same_sources_give_the_same_bytes_with_and_without_the_store(tmp_path, snapshot):
    write_jsonl(tmp_path / "a.jsonl", [*pairs(3), {"colour": "blue"}])
    first = contents(snapshot("a.jsonl", "simulated")[1])
    assert contents(snapshot("a.jsonl", "simulated")[1]) == first
    os.utime(tmp_path / "a.jsonl", (1, 1))
    (tmp_path / "home").rename(tmp_path / "lost")
    assert contents(snapshot("a.jsonl", "simulated")[1]) == first


def test_a_changed_file_of_the_same_size_and_age_is_a_new_batch(tmp_path, snapshot):
    file = write_jsonl(tmp_path / "a.jsonl", pairs(3))
    os.utime(file, (1, 1))
    before = snapshot("a.jsonl")[0]
    file.write_text(file.read_text().replace("Good", "Fine"))
    os.utime(file, (1, 1))
    assert snapshot("a.jsonl")[0].digest != before.digest


def test_other_simulation_parameters_are_another_batch(snapshot):
    digests = {snapshot("simulated", simulation=Simulation(*values))[0].digest
               for values in [(0, 5, 5, 1), (1, 5, 5, 1), (0, 6, 5, 1), (0, 5, 6, 1), (0, 5, 5, 2)]}
    assert len(digests) == 5


def test_an_unchanged_snapshot_reads_nothing_again(tmp_path, snapshot, monkeypatch):
    write_jsonl(tmp_path / "a.jsonl", pairs(2000))
    simulation = Simulation(0, 2000, 3000, 300)
    before = snapshot("a.jsonl", "simulated", simulation=simulation)[0]
    monkeypatch.setattr(reading, "read_file", lambda file, name: pytest.fail("read again"))
    monkeypatch.setattr(Simulation, "rows", lambda self: pytest.fail("simulated again"))
    assert snapshot("a.jsonl", "simulated", simulation=simulation)[0] == before


def test_a_folder_gives_one_batch_a_file_and_leaves_other_files_alone(tmp_path, snapshot):
    write_jsonl(tmp_path / "data/b.jsonl", pairs(2))
    write_jsonl(tmp_path / "data/deep/a.jsonl", pairs(3, start=10))
    (tmp_path / "data/README.md").write_text("not data")
    for hidden in ("data/.a.jsonl", "data/.ipynb_checkpoints/a.jsonl", "data/deep/.git/x/a.jsonl"):
        write_jsonl(tmp_path / hidden, pairs(1))
    (tmp_path / "data/.cache").symlink_to(tmp_path)
    manifest, folder = snapshot("data")
    assert [batch.source for batch in manifest.batches] == ["data/b.jsonl", "data/deep/a.jsonl"]
    assert len(contents(folder)) == 3


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "A.CSV", "a.Tsv", "a.jsonl.GZ", "A.NDJSON.Zst"])
def test_a_folder_is_read_whatever_the_case_of_its_names(tmp_path, snapshot, name):
    folder = tmp_path / "given"
    folder.mkdir()
    mark = "\t" if ".tsv" in name.lower() else ","
    table = "prompt,chosen,rejected\nQ,yes,no\n".replace(",", mark)
    text = table if name.lower().startswith(("a.tsv", "a.csv")) else json.dumps(pairs(1)[0]) + "\n"
    packed = name.lower().endswith((".gz", ".zst"))
    (folder / name).write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    batch, = snapshot("given")[0].batches
    assert (batch.source, batch.rows, batch.quarantined) == (f"given/{name}", 1, 0)


def test_a_file_is_read_whose_name_begins_like_somebodys_home(tmp_path, snapshot):
    write_jsonl(tmp_path / "~x.jsonl", pairs(3))
    assert snapshot("~x.jsonl")[0].batches[0].rows == 3


def test_a_link_out_of_a_folder_is_set_aside_and_the_rest_imported(tmp_path, snapshot):
    write_jsonl(tmp_path / "secret/b.jsonl", pairs(2))
    write_jsonl(tmp_path / "data/a.jsonl", pairs(3))
    (tmp_path / "data/file.jsonl").symlink_to(tmp_path / "secret/b.jsonl")
    (tmp_path / "data/folder").symlink_to(tmp_path / "secret")
    batches = snapshot("data")[0].batches
    assert [(batch.source, batch.rows, batch.quarantined) for batch in batches] == [
        ("data/a.jsonl", 3, 0), ("data/file.jsonl", 0, 1), ("data/folder", 0, 1)]


def test_the_same_batch_named_twice_is_one(tmp_path, snapshot):
    write_jsonl(tmp_path / "a.jsonl", pairs(3))
    assert len(snapshot("a.jsonl", str(tmp_path / "a.jsonl"))[0].batches) == 1


def test_quarantined_rows_are_part_of_the_batch(tmp_path, snapshot):
    clean = snapshot(write_jsonl(tmp_path / "one/a.jsonl", pairs(3)).as_posix())[0].batches[0]
    manifest, folder = snapshot(write_jsonl(tmp_path / "two/a.jsonl", [*pairs(3), {}]).as_posix())
    assert manifest.batches[0].quarantined == 1
    assert manifest.batches[0].digest != clean.digest
    assert "no fields" in (folder / f"{manifest.batches[0].digest}.quarantine.jsonl").read_text()


def test_nothing_of_an_earlier_snapshot_stays(tmp_path, snapshot):
    write_jsonl(tmp_path / "a.jsonl", pairs(3))
    snapshot("simulated")
    assert len(contents(snapshot("a.jsonl")[1])) == 2


def test_a_batch_that_was_cut_short_in_the_store_is_made_again(tmp_path, snapshot):
    write_jsonl(tmp_path / "a.jsonl", pairs(3))
    before = snapshot("a.jsonl")[0]
    kept = next((tmp_path / "home/batches").iterdir())
    (kept / "batch.json").unlink()
    (kept / "rows.jsonl").write_text("half a r")
    manifest, folder = snapshot("a.jsonl")
    assert manifest == before
    assert (folder / f"{manifest.batches[0].digest}.jsonl").read_text().count("\n") == 3


def test_only_purely_simulated_data_counts_as_simulated(tmp_path, snapshot):
    write_jsonl(tmp_path / "simulated.jsonl", pairs(3))
    assert snapshot("simulated")[0].simulated
    assert not snapshot("simulated.jsonl")[0].simulated
    assert not snapshot("simulated", "simulated.jsonl")[0].simulated


@pytest.mark.parametrize(("source", "says"), [
    ("nowhere.jsonl", "does not exist"), ("~x.jsonl", "does not exist"), (f"{'x' * 300}.jsonl", "does not exist"),
    ("empty", "holds no preference files"), ("simulated", "all 0")])
def test_a_source_without_data_says_what_to_do(tmp_path, snapshot, source, says):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=says) as caught:
        snapshot(source, simulation=Simulation(0, 0, 0, 0))
    assert "snapshot." in str(caught.value)
    assert not (tmp_path / "snapshot").exists()
