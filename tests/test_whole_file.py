"""A file is written whole or not at all."""

import os
from pathlib import Path

import pytest

from plumbline.whole_file import whole_file, write_whole


def test_it_replaces_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    write_whole(file, "über\n")
    write_whole(file, b"\x00\xff")
    assert file.read_bytes() == b"\x00\xff"
    assert [one.name for one in tmp_path.iterdir()] == ["record.json"]


def test_after_an_error_the_old_file_stays_and_no_draft_does(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    write_whole(file, "old")
    with pytest.raises(ZeroDivisionError), whole_file(file) as out:
        out.write(b"half of the n")
        assert file.read_text() == "old"
        raise ZeroDivisionError
    assert file.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["record.json"]


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a power loss may leave the name with nothing behind it."""
    file, happened = tmp_path / "record.json", list[str]()
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        happened.append("folder" if Path(f"/proc/self/fd/{descriptor}").resolve() == tmp_path else "content")
        fsync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        happened.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_whole(file, "new")
    assert happened == ["content", "name", "folder"]


def test_no_draft_looks_like_a_file_of_its_kind(tmp_path: Path) -> None:
    """A draft that a kill left must not be taken for a checkpoint, an index or a record."""
    with whole_file(tmp_path / "000003-abc.pt"):
        assert not list(tmp_path.glob("*.pt"))
