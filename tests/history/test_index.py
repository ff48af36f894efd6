"""What is remembered of the recorded runs is derived: damaged it is begun anew, and without it everything goes on."""

import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbline.history.index import COMPLETE, FILE, HistoryIndex

MANY = [f"run {number:05}" for number in range(3000)]
SOURCE = "sqlite:///here"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    index = HistoryIndex(tmp_path, SOURCE)
    index.keep(MANY)
    index.note(COMPLETE, True)
    assert HistoryIndex(tmp_path, SOURCE).load().foreign == set(MANY)
    return tmp_path / FILE


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garbage(file: Path) -> None:
    file.write_bytes(os.urandom(20_000))


def empty(file: Path) -> None:
    file.write_bytes(b"")


def pages_of_zeros(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:4096] + bytes(file.stat().st_size - 4096))


def without_tables(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("drop table facts")
    database.close()


def of_another_version(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("pragma user_version = 99")
    database.close()


def other_bodies(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("update facts set kind = 'stage', body = '{\"x\": 1}'")
    database.close()


@pytest.mark.parametrize("spoil", [half, garbage, empty, pages_of_zeros, without_tables, of_another_version,
                                   other_bodies])
def test_a_damaged_one_is_begun_anew(file: Path, spoil: Callable[[Path], None]) -> None:
    spoil(file)
    known = HistoryIndex(file.parent, SOURCE).load()
    assert (len(known), known.complete) == (0, False)  # so that everything is read from MLflow again
    index = HistoryIndex(file.parent, SOURCE)
    index.keep(["again"])
    index.note(COMPLETE, True)
    again = HistoryIndex(file.parent, SOURCE).load()
    assert (again.foreign, again.complete) == ({"again"}, True)


@pytest.mark.parametrize("spoil", [half, garbage])
def test_one_that_is_damaged_meanwhile_is_left_for_the_next_server_to_begin(
        file: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture) -> None:
    index = HistoryIndex(file.parent, SOURCE)
    index.load()
    spoil(file)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            index.keep([f"new {number}"])
            index.note(COMPLETE, True)
    assert len(caplog.records) == 1 and str(file) in caplog.text
    assert HistoryIndex(file.parent, SOURCE).load().complete is False


def test_one_that_cannot_be_used_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).mkdir()
    index = HistoryIndex(tmp_path, SOURCE)
    assert len(index.load()) == 0
    with caplog.at_level(logging.WARNING):
        index.keep(["one"])
        index.forget(["one"])
    assert len(caplog.records) == 1


def test_one_that_another_program_writes_to_is_left_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plumbline.history.index.WAIT_SECONDS", 0.1)
    other = sqlite3.connect(file)
    other.execute("begin exclusive")
    index = HistoryIndex(file.parent, SOURCE)
    index.keep(["new"])
    other.rollback()
    other.close()
    assert HistoryIndex(file.parent, SOURCE).load().foreign == set(MANY)
