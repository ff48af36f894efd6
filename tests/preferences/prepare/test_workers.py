"""The same bytes whoever did the work: by one process, two or three, in large ranges or small ones."""

import hashlib
import json

import pytest

from plumbline.preferences import shards
from plumbline.preferences.prepare import gather, near_duplicates, ranges, survey
from plumbline.preferences.prepare.prepare import prepare
from plumbline.preferences.prepare.writer import Splitting
from plumbline.preferences.report.pages import write_report
from testing.hostile_rows import hostile_snapshot

ALL = Splitting(0.2, 0.3, chosen_as_demonstrations=True, near_duplicate=0.8, judge_fraction=0.4)
PLAIN = Splitting(0.1, 0.3, chosen_as_demonstrations=False, near_duplicate=None, salt="salt")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return hostile_snapshot(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return hostile_snapshot(tmp_path_factory.mktemp("small"), seed=1, rows=120)


def everything(snapshot, folder, splitting, processes):
    """All that ingest leaves, by the name of the file."""
    counts, report = prepare(snapshot, folder / "prepared", splitting, processes)
    write_report(report, folder / "report")
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return files | {"counts": json.dumps(counts).encode()}


@pytest.mark.parametrize(("splitting", "digest"), [
    (ALL, "709d5f50a8621e8a6d463bc1e5b271d6a18d661d69b548936fbb54e525e8352d"),
    (PLAIN, "a73d3b119920d7bf45415820966defe67bab8b0c06781a2b0e5d284d1c5333e4")])
def test_the_bytes_are_those_that_a_single_pass_in_memory_left(hostile, tmp_path, splitting, digest):
    prepare(hostile, tmp_path / "out", splitting)
    found = hashlib.sha256()
    for file in sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        found.update(file.relative_to(tmp_path / "out").as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    assert found.hexdigest() == digest


def test_one_worker_two_and_three_leave_the_same_bytes(small, tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "RANGE_BYTES", 3_000)
    monkeypatch.setattr(shards, "SHARD_RECORDS", 150)
    monkeypatch.setattr(gather, "RATINGS_AT_ONCE", 10)
    alone = everything(small, tmp_path / "1", ALL, 1)
    assert len(alone) == 20
    for processes in (2, 3):
        assert everything(small, tmp_path / str(processes), ALL, processes) == alone


@pytest.mark.parametrize("size", [1, 2_000])
def test_rows_go_where_they_went_however_they_are_divided(small, tmp_path, monkeypatch, size):
    whole = everything(small, tmp_path / "whole", ALL, 1)
    monkeypatch.setattr(ranges, "RANGE_BYTES", size)
    monkeypatch.setattr(shards, "SHARD_RECORDS", 1 + size // 10)
    monkeypatch.setattr(survey, "COMPARED_AT_ONCE", 7)
    monkeypatch.setattr(near_duplicates, "KEPT", 5)
    monkeypatch.setattr(gather, "RATINGS_AT_ONCE", 1)
    divided = everything(small, tmp_path / "divided", ALL, 1)
    reports = [json.loads(files.pop("report/report.json")) for files in (whole, divided)]
    assert same(*reports)
    for files in (whole, divided):
        files.pop("report/report.html"), files.pop("report/report.md")
    assert divided == whole


def same(one, other):
    """Equal but for the last digits of fractions."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == pytest.approx(other, rel=1e-12) if isinstance(one, float) else one == other
