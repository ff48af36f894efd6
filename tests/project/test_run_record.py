"""run.json, and finding runs."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.errors import UserError
from plumbline.project.home import Home, find_home
from plumbline.project.run_record import (
    Outcome,
    RunRecord,
    earlier_runs,
    find_run,
    read_record,
    readable_records,
    run_folders,
)
from plumbline.runs.cancel import mark_dead


def make(home: Home, name: str, **more: object) -> Path:
    folder = home.runs / name
    folder.mkdir(parents=True)
    record = RunRecord.model_validate({"id": name, "created": "2026-01-01T00:00:00+00:00", "project": str(home.root),
                                       "pid": os.getpid(), "host": socket.gethostname(), **more})
    record.save(folder)
    return folder


def test_finding_a_run(home: Home) -> None:
    with pytest.raises(UserError, match="no runs"):
        find_run(home, "latest")
    first, second = make(home, "20260101-000000-aaaaaa"), make(home, "20260102-000000-bbbbbb")
    assert find_run(home, "latest") == second
    assert find_run(home, "20260101") == first
    with pytest.raises(UserError, match="beginning of 2 runs"):
        find_run(home, "2026")
    with pytest.raises(UserError, match="newest is 20260102-000000-bbbbbb"):
        find_run(home, "1999")


def test_earlier_runs_newest_first(home: Home) -> None:
    names = ["20260101-000000-aaaaaa", "20260102-000000-bbbbbb", "20260103-000000-cccccc"]
    for name in names:
        make(home, name)
    assert [folder.name for folder in earlier_runs(home, names[2])] == [names[1], names[0]]


def test_a_run_whose_process_is_gone_was_killed(home: Home) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    folder = make(home, "20260101-000000-aaaaaa", pid=process.pid)
    assert read_record(folder).status == "killed"
    assert read_record(make(home, "20260102-000000-bbbbbb")).status == "running"


def test_the_project_is_found_from_inside_a_workspace(home: Home) -> None:
    folder = make(home, "20260101-000000-aaaaaa")
    for file in ("dvc.yaml", "params.yaml"):
        (folder / file).write_text("")
    assert find_home(folder).root == home.root


def test_outside_of_a_project(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not inside a Plumbline project"):
        find_home(tmp_path)


@pytest.mark.parametrize("text", ["", '{"id": "2026', '{"id": 3}', "[]"])
def test_a_damaged_record_is_named(home: Home, text: str) -> None:
    folder = make(home, "20260101-000000-aaaaaa")
    (folder / "run.json").write_text(text)
    with pytest.raises(UserError, match=f"{folder / 'run.json'} is damaged"):
        read_record(folder)


def test_a_damaged_record_is_left_out_with_its_problem(home: Home) -> None:
    names = [f"2026010{day}-000000-aaaaaa" for day in range(1, 5)]
    for name in names:
        make(home, name)
    (home.runs / names[1] / "run.json").write_text("half of")
    (home.runs / names[2] / "run.json").unlink()
    (home.runs / names[2] / "run.json").mkdir()
    found, damaged = readable_records(run_folders(home))
    assert [record.id for record in found] == [names[0], names[3]]
    assert [name in problem for name, problem in zip(names[1:3], damaged, strict=True)] == [True, True]
    assert mark_dead(home) == []


def test_why_a_stage_ran_or_failed_holds_no_password() -> None:
    reason = "parameter base.source https://ann:open-sesame@host/a -> https://host/b?token=open-sesame"
    kept = Outcome(status="failed", seconds=1.0, reason=reason)
    assert kept.reason == "parameter base.source https://***@host/a -> https://host/b?token=***"
    assert Outcome.model_validate_json(kept.model_dump_json()) == kept
