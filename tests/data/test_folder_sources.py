"""A folder means the same to `plumbline data add` and to `snapshot.sources`: the same files, rows and quarantine."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plumbline.data import changes as data_changes
from plumbline.data.intake import take_in_file
from plumbline.errors import UserError
from plumbline.preferences.batches.arrivals import folder_of
from plumbline.preferences.batches.batch import QUARANTINE, ROWS
from plumbline.preferences.batches.snapshot import Simulation, fix_snapshot
from plumbline.preferences.reading import read as reading
from plumbline.preferences.reading.formats import RECOGNISED, Reading
from plumbline.project.home import Home

PARAMS = Path(__file__).parents[2] / "params.yaml"
NOTHING_SIMULATED = Simulation(0, 0, 0, 0)


def pairs(*numbers: int) -> str:
    return "".join(json.dumps({"prompt": f"Question {n}", "chosen": "Good", "rejected": "Bad"}) + "\n"
                   for n in numbers)


def given(home: Home, monkeypatch: pytest.MonkeyPatch, **files: str | bytes) -> None:
    monkeypatch.chdir(home.root)
    shutil.copy(PARAMS, home.root)
    monkeypatch.setattr(data_changes, "track", lambda home: None)  # there is no DVC repository
    for name, content in files.items():
        file = home.root / "given" / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())


def added(home: Home, source: str = "given") -> tuple[list[str], list[str]]:
    """The rows and the quarantined rows of a batch that was added."""
    folder = folder_of(home.preferences, data_changes.add(home, source, RECOGNISED).arrival)
    return tuple((folder / name).read_text().splitlines() for name in (ROWS, QUARANTINE))  # type: ignore[return-value]


def taken(home: Home, *sources: str) -> tuple[list[str], list[str]]:
    """The same of a snapshot's batches, one after the other."""
    out = home.root / "snapshot"
    manifest = fix_snapshot(sources or ["given"], NOTHING_SIMULATED, home.preferences, out)
    files = [[out / f"{batch.digest}{end}" for batch in manifest.batches] for end in (".jsonl", ".quarantine.jsonl")]
    return tuple([line for file in kind if file.exists() for line in file.read_text().splitlines()]
                 for kind in files)  # type: ignore[return-value]


MIXED = {"a_dot_jsonl": pairs(1, 2), "b_dot_csv": "prompt;chosen;rejected\nQ;yes;no\n", "deep__c_dot_json": "[]",
         "dataset_info_dot_json": '{"pairs": {"file_name": "a.jsonl"}}', "d_dot_jsonl": pairs(3) + "not json\n",
         "lfs_dot_jsonl": "version https://git-lfs.github.com/spec/v1\noid sha256:9a\nsize 5\n", "notes_dot_txt": "x"}


def test_a_folder_gives_the_same_rows_and_sets_the_same_aside_both_ways(
        home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given(home, monkeypatch, **MIXED)
    (home.root / "given/link.jsonl").symlink_to("/etc/hosts")
    rows, quarantined = added(home)
    assert (rows, quarantined) == taken(home)
    assert [json.loads(row)["prompt"][0]["content"] for row in rows] == ["Question 1", "Question 2", "Q", "Question 3"]
    assert [(row["file"], row["line"]) for row in map(json.loads, quarantined)] == [
        ("given/d.jsonl", 2), ("given/dataset_info.json", 1), ("given/deep/c.json", 0), ("given/lfs.jsonl", 0),
        ("given/link.jsonl", 0)]
    assert "Git LFS pointer" in quarantined[3]


def test_a_snapshot_gives_each_file_a_batch_and_a_file_without_rows_one_too(
        home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given(home, monkeypatch, **MIXED)
    for _ in range(2):  # the second time from the store
        manifest = fix_snapshot(["given"], NOTHING_SIMULATED, home.preferences, home.root / "snapshot")
        assert [(batch.source, batch.rows, batch.quarantined) for batch in manifest.batches] == [
            ("given/a.jsonl", 2, 0), ("given/b.csv", 1, 0), ("given/d.jsonl", 1, 1), ("given/dataset_info.json", 0, 1),
            ("given/deep/c.json", 0, 1), ("given/lfs.jsonl", 0, 1)]


def test_a_folder_of_which_no_file_is_usable_is_refused_both_ways(
        home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given(home, monkeypatch, a_dot_jsonl="", b_dot_jsonl="<html></html>")
    for read in (added, taken, added, taken):
        with pytest.raises(UserError, match=r"folder given is usable: 2 files\. given/a\.jsonl is empty"):
            read(home)


def test_a_file_that_was_named_itself_is_refused_though_the_store_has_it_as_part_of_its_folder(
        home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given(home, monkeypatch, a_dot_jsonl=pairs(1), b_dot_jsonl="not json\n")
    assert len(taken(home)[1]) == 1
    for read in (added, taken):
        with pytest.raises(UserError, match=r"Nothing in given/b\.jsonl is usable"):
            read(home, "given/b.jsonl")


def test_a_folder_that_holds_links_alone_is_refused_both_ways(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given(home, monkeypatch, readme_dot_txt="x")
    (home.root / "given/link.jsonl").symlink_to("/etc/hosts")
    for read in (added, taken):
        with pytest.raises(UserError, match="links alone, out of it or to nothing"):
            read(home)


def test_a_file_whose_numbers_are_in_doubt_stops_the_folder_both_ways(
        home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    doubt = "".join(json.dumps({"prompt": f"Q{n}", "response_1": "a", "response_2": "b", "label": n}) + "\n"
                    for n in (1, 0))
    given(home, monkeypatch, a_dot_jsonl=pairs(1), b_dot_jsonl=doubt)
    for read in (added, taken):
        with pytest.raises(UserError, match=r"Nothing of given/b\.jsonl was read: in line 2, field `label`.* So "
                                            r"nothing of the folder is added: correct the file, or take it out"):
            read(home)
        with pytest.raises(UserError, match=r"tie instead of the numbers\.$"):  # no folder, no word of it
            read(home, "given/b.jsonl")
    assert not list(home.preferences.arrived.glob("*/batch.json"))


def test_a_link_to_nothing_is_set_aside_both_ways(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given(home, monkeypatch, a_dot_jsonl=pairs(1))
    (home.root / "given/c.jsonl").symlink_to("not-fetched.jsonl")
    rows, quarantined = added(home)
    assert (rows, quarantined) == taken(home)
    assert len(rows) == 1
    assert "target is missing" in quarantined[0]


def test_a_file_that_cannot_be_opened_stops_the_folder_both_ways(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given(home, monkeypatch, a_dot_jsonl=pairs(1), b_dot_jsonl=pairs(2))
    opened = Path.open

    def refuse(path: Path, *arguments: object, **options: object) -> object:
        if path.name == "b.jsonl":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    for source in ("given", "given/b.jsonl"):
        for way in (added, taken):
            with pytest.raises(UserError, match=r"b\.jsonl cannot be read: Permission denied"):
                way(home, source)
    assert nothing_kept_of(home, "b.jsonl")


def nothing_kept_of(home: Home, name: str) -> bool:
    """True if no batch was added, and none imported of the file."""
    kept = [json.loads(file.read_text())["source"] for file in home.preferences.imported.glob("*/batch.json")]
    return f"given/{name}" not in kept and not list(home.preferences.arrived.glob("*/batch.json"))


@pytest.mark.parametrize("before", ["", "not json\n"])
def test_a_file_that_fails_half_way_stops_the_folder_both_ways_and_is_read_once_the_disk_is_well(
        home: Home, monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    given(home, monkeypatch, a_dot_jsonl=pairs(1), b_dot_jsonl=before + pairs(*range(200)))
    whole = reading.read_records

    def failing(file: Path) -> Iterator[tuple[int, object]]:
        for line, record in whole(file):
            if (file.name, line) == ("b.jsonl", 100):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            yield line, record

    with monkeypatch.context() as ill:
        ill.setattr(reading, "read_records", failing)
        for way in (added, taken):
            with pytest.raises(UserError, match=r"given/b\.jsonl cannot be read: Input/output error"):
                way(home)
        assert nothing_kept_of(home, "b.jsonl")
    rows, quarantined = taken(home)
    assert (len(rows), len(quarantined)) == (201, bool(before))
    assert added(home) == (rows, quarantined)


def test_a_file_whose_digest_cannot_be_read_is_kept_under_none(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given(home, monkeypatch, a_dot_jsonl=pairs(1))

    def fails(file: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("plumbline.preferences.reading.sources.file_sha256", fails)
    for way in (added, taken):
        with pytest.raises(UserError, match=r"given/a\.jsonl cannot be read: Input/output error"):
            way(home, "given/a.jsonl")
    assert nothing_kept_of(home, "a.jsonl")


def test_a_file_that_lacks_a_mapped_column_beside_usable_rows_stops_the_folder(
        home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given(home, monkeypatch, a_dot_jsonl=pairs(1).replace("}", ', "who": "ada"}'), b_dot_jsonl=pairs(*range(5000)))
    with pytest.raises(UserError, match=r"given/b\.jsonl has no column 'who'"):
        data_changes.add(home, "given", Reading(columns={"annotator": "who"}))
    assert nothing_kept_of(home, "b.jsonl")


def test_a_file_of_which_nothing_is_usable_without_a_mapped_column_is_set_aside_and_says_so(
        home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given(home, monkeypatch, a_dot_jsonl=pairs(1).replace("prompt", "question"), b_dot_jsonl='{"colour": 1}\n' * 5000)
    batch = data_changes.add(home, "given", Reading(columns={"prompt": "question"})).arrival
    aside = (folder_of(home.preferences, batch) / QUARANTINE).read_text().splitlines()
    assert (batch.batch.rows, len(aside)) == (1, 1000)
    assert json.loads(aside[-1]) == {"file": "given/b.jsonl", "line": 0, "field": "-", "reason":
                                     "given/b.jsonl has no column 'question'. Its columns: colour."}


def test_what_a_missing_package_would_read_is_not_kept_as_unusable(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given(home, monkeypatch, a_dot_jsonl=pairs(1), b_dot_parquet=b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for way in (added, taken):
        with pytest.raises(UserError, match="Reading Parquet needs pyarrow"):
            way(home)
    assert nothing_kept_of(home, "b.parquet")


@pytest.mark.parametrize("name", ["given", "given/deep"])
def test_a_folder_that_cannot_be_listed_is_named_and_not_left_out(
        home: Home, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    given(home, monkeypatch, a_dot_jsonl=pairs(1), deep__b_dot_jsonl=pairs(2))
    listed = os.scandir

    def refuse(path: str) -> object:
        if Path(path) == home.root / name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for way in (added, taken):
        with pytest.raises(UserError, match=rf"folder .*/{name} cannot be read: Permission denied"):
            way(home)


def test_a_file_in_a_folder_that_only_lets_itself_be_listed_stops_it(
        home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given(home, monkeypatch, a_dot_jsonl=pairs(1), deep__b_dot_jsonl=pairs(2))
    is_file = Path.is_file

    def refuse(path: Path) -> bool:
        if path.name == "b.jsonl":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    for way in (added, taken):
        with pytest.raises(UserError, match=r"file .*/given/deep/b\.jsonl cannot be read: Permission denied"):
            way(home)


@pytest.mark.parametrize("nested", [False, True])
def test_what_save_to_disk_left_is_told_by_its_arrow_files(
        home: Home, monkeypatch: pytest.MonkeyPatch, nested: bool) -> None:
    at = "train__" if nested else ""
    files = {f"{at}data-00000-of-00001_dot_arrow": b"\xff\xff\xff\xff\x10\x01\0\0", f"{at}state_dot_json": "{}",
             f"{at}dataset_info_dot_json": "{}"} | ({"dataset_dict_dot_json": "{}"} if nested else {})
    given(home, monkeypatch, **files)
    for read in (added, taken):
        with pytest.raises(UserError, match=r"1 file\. .*\.arrow cannot be read\. It is an Arrow file.*to_json"):
            read(home)


def test_data_that_dvc_has_not_fetched_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given(home, monkeypatch, a_dot_jsonl_dot_dvc="outs:\n- md5: ab\n  path: a.jsonl\n")
    for read in (added, taken):
        with pytest.raises(UserError, match=r"found a\.jsonl\.dvc; `dvc pull` fetches"):
            read(home)
        with pytest.raises(UserError, match=r"given/a\.jsonl\.dvc is, which stands for it: `dvc pull`"):
            read(home, "given/a.jsonl")


def test_other_files_in_a_folder_without_data_are_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given(home, monkeypatch, book_dot_xlsx="x", rows_dot_pkl="x")
    with pytest.raises(UserError, match=r"found book\.xlsx, rows\.pkl"):
        added(home)


def test_a_file_whose_name_is_not_utf_8_is_read_under_a_name_that_can_be_shown_both_ways(
        home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given(home, monkeypatch, good_dot_jsonl=pairs(1))
    file = home.root / "given" / os.fsdecode(b"pr\xe9f.jsonl")
    file.write_text(pairs(2) + "not json\n")
    file.with_name(f"link-{file.name}").symlink_to("nowhere")
    rows, quarantined = added(home)
    assert (rows, quarantined) == taken(home)
    assert [json.loads(row)["source"] for row in rows] == ["good", "pr\ufffdf"]
    assert [(row["file"], row["line"]) for row in map(json.loads, quarantined)] == [
        ("given/link-pr\ufffdf.jsonl", 0), ("given/pr\ufffdf.jsonl", 2)]
    by_program = take_in_file(home, file, file.name)
    assert (by_program.arrival.batch.source, by_program.quarantined[0].file) == ("pr\ufffdf.jsonl", "pr\ufffdf.jsonl")
    file.write_text("")
    assert "given/pr\ufffdf.jsonl is empty" in taken(home)[1][1]
