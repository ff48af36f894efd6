"""Watched files are added once, when they have settled, and never touched."""

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from plumbline.data.dvc_tracking import sweep
from plumbline.preferences.batches.arrivals import arrivals
from plumbline.preferences.batches.folders import Folders
from plumbline.preferences.types import to_line
from plumbline.project.home import Home
from plumbline.service import watch_folder
from plumbline.service.watch_folder import Watch
from testing.always_on_project import comparisons
from testing.fake_project import CHECKOUT

SETTLE = 0.2


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    shutil.copy(CHECKOUT / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / ".plumbline").mkdir()
    (tmp_path / "drop").mkdir()
    return Home(tmp_path, tmp_path / ".plumbline")


def write(home: Home, name: str, start: int, count: int = 3) -> Path:
    file = home.root / "drop" / name
    file.write_text("".join(map(to_line, comparisons(start, count))))
    return file


def batches(home: Home) -> list[int]:
    return [one.batch.rows for one in arrivals(Folders(home.root, home.folder))]


def look(watch: Watch) -> list[str]:
    """Until a file that does not change has settled."""
    said = watch.look()
    time.sleep(1.5 * SETTLE)
    return said + watch.look()


def test_a_file_is_added_once(home: Home) -> None:
    file = write(home, "first.jsonl", 0)
    before = (file.read_bytes(), file.stat().st_mtime_ns)
    watch = Watch(home, "drop", SETTLE)
    assert "batch" in look(watch)[0]
    assert look(watch) == []
    assert batches(home) == [3]
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    # Nor after a restart, nor when the memory of it is lost.
    assert look(Watch(home, "drop", SETTLE)) == []
    (home.folder / "watched.json").unlink()
    look(Watch(home, "drop", SETTLE))
    assert batches(home) == [3]


def test_a_file_that_is_being_written_waits(home: Home) -> None:
    watch = Watch(home, "drop", SETTLE)
    lines = [to_line(row) for row in comparisons(0, 12)]
    with (home.root / "drop/slow.jsonl").open("w") as file:
        for line in lines:
            file.write(line[:20])
            file.flush()
            assert watch.look() == []
            time.sleep(SETTLE / 3)
            file.write(line[20:])
            file.flush()
            assert watch.look() == []
    look(watch)
    assert batches(home) == [12]


@pytest.mark.parametrize("named", [True, False])
def test_a_copy_makes_nothing(home: Home, named: bool) -> None:
    first = write(home, "first.jsonl", 0)
    if not named:
        first.write_text("".join(json.dumps({"prompt": f"Question {n}?", "chosen": "yes", "rejected": "no"}) + "\n"
                                 for n in range(3)))
    watch = Watch(home, "drop", SETTLE)
    look(watch)
    shutil.copy(first, first.with_name("copy.jsonl"))
    first.rename(first.with_name("renamed.jsonl"))
    said = look(watch)
    assert [line.partition(":")[0] for line in said] == [str(first.with_name(name)) for name in (
        "copy.jsonl", "renamed.jsonl")]
    assert batches(home) == [3]


def test_a_file_that_grew_is_read_again(home: Home) -> None:
    write(home, "log.jsonl", 0, 3)
    watch = Watch(home, "drop", SETTLE)
    look(watch)
    write(home, "log.jsonl", 0, 5)
    look(watch)
    assert batches(home) == [3, 5]


def test_what_is_not_usable_is_said_once(home: Home) -> None:
    (home.root / "drop/notes.jsonl").write_text('{"nothing": "of use"}\n')
    (home.root / "drop/readme.txt").write_text("not preferences")
    write(home, "good.jsonl", 0)
    watch = Watch(home, "drop", SETTLE)
    said = look(watch)
    assert len(said) == 2
    assert any("notes.jsonl" in line for line in said)
    assert look(watch) == []
    assert batches(home) == [3]


def test_a_link_that_is_not_followed_is_said_once(home: Home) -> None:
    write(home, "first.jsonl", 0)
    (home.root / "drop/second.jsonl").symlink_to("/etc/hosts")
    watch = Watch(home, "drop", SETTLE)
    said = look(watch)
    assert (batches(home), [line.partition(":")[0] for line in said]) == ([3], [str(home.root / "drop/first.jsonl"),
                                                                               "drop"])
    assert "drop/second.jsonl was not added. It is a symbolic link that leads out of the folder" in said[1]
    assert look(watch) == []


def test_a_file_that_cannot_be_read_stops_no_other(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copyfile

    def refused(source: str, copied: Path) -> object:
        if source.endswith("a.jsonl"):
            raise PermissionError(13, "Permission denied", source)
        return copy(source, copied)

    monkeypatch.setattr(shutil, "copyfile", refused)
    write(home, "a.jsonl", 0)
    write(home, "b.jsonl", 10, 4)
    watch = Watch(home, "drop", SETTLE)
    first, second = look(watch)
    assert "a.jsonl could not be read" in first and "Permission denied" in first and "b.jsonl: batch" in second
    assert look(watch) == []
    monkeypatch.undo()
    assert "a.jsonl: batch" in look(watch)[0]
    assert sorted(batches(home)) == [3, 4]


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Names of folders that cannot be listed, as if they were another user's: root may list all."""
    names, listed = set[str](), os.scandir

    def scandir(folder: str | Path | int) -> object:
        if not isinstance(folder, int) and Path(folder).name in names:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    yield names


def test_a_folder_that_cannot_be_listed_is_said_once_and_stops_no_other(home: Home, locked: set[str]) -> None:
    drop = home.root / "drop"
    for folder in ("lost+found", "more/deep", "more/empty", ".hidden"):
        (drop / folder).mkdir(parents=True)
    write(home, "lost+found/a.jsonl", 100)
    write(home, "here.jsonl", 0)
    write(home, "more/deep/there.jsonl", 10, 4)
    (drop / "link.jsonl").symlink_to("/etc/hosts")
    (drop / "notes.txt").write_text("of no use")
    locked |= {"lost+found", ".hidden"}
    watch = Watch(home, "drop", SETTLE)
    said = look(watch)
    assert look(watch) == look(Watch(home, "drop", SETTLE)) == []
    assert sorted(batches(home)) == [3, 4]
    assert [line for line in said if "was not added" in line] == [
        "drop: drop/link.jsonl was not added. It is a symbolic link.",
        f"drop: drop/lost+found was not added. It is left out: The preference folder {drop / 'lost+found'} cannot be "
        "read: Permission denied."]
    locked.clear()
    look(watch)
    assert sorted(batches(home)) == [3, 3, 4], "it can be listed now"


def test_a_watched_folder_that_cannot_be_listed_is_said(home: Home, locked: set[str]) -> None:
    locked.add("drop")
    assert look(Watch(home, "drop", SETTLE)) == [
        f"drop: drop was not added. It is left out: The preference folder {home.root / 'drop'} cannot be read: "
        "Permission denied."]


def test_what_a_kill_leaves_of_a_copy_is_swept(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[Path] = []
    monkeypatch.setattr(watch_folder, "take_in_file", lambda home, file, name: copied.append(file) or 1 / 0)
    write(home, "a.jsonl", 0)
    look(Watch(home, "drop", SETTLE))
    folder = copied[0].parent
    assert (folder.parent, folder.name[:5]) == (home.preferences.arrived, ".new-")
    folder.mkdir()
    os.utime(folder, (0, 0))
    sweep(home.preferences.arrived)
    assert not folder.exists()


def test_a_folder_that_comes_later(home: Home) -> None:
    watch = Watch(home, "later/incoming", SETTLE)
    assert watch.look() == []
    (home.root / "later/incoming").mkdir(parents=True)
    (home.root / "later/incoming/a.jsonl").write_text("".join(map(to_line, comparisons(0, 2))))
    look(watch)
    assert batches(home) == [2]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a real S3-compatible server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"),
                        ("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_ENDPOINT_URL", f"http://{host}:{port}")):
        monkeypatch.setenv(name, value)
    yield "preferences"
    server.stop()


@pytest.mark.slow
def test_a_bucket(home: Home, bucket: str) -> None:
    import s3fs

    storage = s3fs.S3FileSystem()
    storage.mkdir(bucket)
    storage.pipe(f"{bucket}/in/a.jsonl", "".join(map(to_line, comparisons(0, 4))).encode())
    storage.pipe(f"{bucket}/other/b.jsonl", "".join(map(to_line, comparisons(10, 4))).encode())
    watch = Watch(home, f"s3://{bucket}/in/", SETTLE)
    look(watch)
    assert look(watch) == []
    assert batches(home) == [4]
    assert storage.exists(f"{bucket}/in/a.jsonl")
    assert json.loads((home.folder / "watched.json").read_text())


def test_a_link_that_leads_to_itself_stops_no_other(home: Home) -> None:
    drop = home.root / "drop"
    (drop / "loop.jsonl").symlink_to("loop.jsonl")
    (drop / "one.jsonl").symlink_to("other.jsonl")
    (drop / "other.jsonl").symlink_to("one.jsonl")
    (drop / "round").symlink_to(drop)
    (drop / "gone.jsonl").symlink_to("nowhere.jsonl")
    write(home, "zeta.jsonl", 0)
    said = look(Watch(home, "drop", SETTLE))
    assert sum("zeta.jsonl" in one for one in said) == 1
    assert batches(home) == [3]
