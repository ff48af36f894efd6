"""The child process: its output is followed, its failures are told apart, and its whole group can be ended."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from plumbline.errors import GateFailed, UserError
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home
from plumbline.project.processes import end_group
from plumbline.runs.stage_process import Child, StageFailed
from plumbline.runs.workspace import init_dvc

STAGE = """
import json, os, sys
def tell(line):
    with open(os.environ["PLUMBLINE_PROGRESS"], "a") as out:
        out.write(json.dumps(line) + "\\n")
print("working on it")
{body}
open("out.txt", "w").write("done")
"""


def child(home: Home, body: str) -> tuple[Child, list[object], list[str]]:
    init_dvc(home.root, home)
    (home.root / "dvc.yaml").write_text("stages: {one: {cmd: python program.py, outs: [out.txt]}}")
    (home.root / "program.py").write_text(STAGE.format(body=body))
    reports: list[object] = []
    lines: list[str] = []
    return Child(home, home.root, read_stages(home.root)["one"], reports.append, lines.append), reports, lines


def test_output_and_progress_are_followed(home: Home) -> None:
    one, reports, lines = child(home, 'tell({"mlflow_run": "abc"}); tell({"step": 1, "total": 2})')
    one.run()
    assert reports == [{"step": 1, "total": 2}]
    assert one.mlflow_run == "abc"
    assert "working on it" in lines
    assert "working on it" in one.log.read_text()
    assert (home.root / "out.txt").read_text() == "done"


@pytest.mark.parametrize("command", ["[exit 3, touch out.txt]", '"exit 3\\ntouch out.txt"', '"false\\ntouch out.txt"'])
def test_a_line_that_fails_ends_the_command(home: Home, command: str) -> None:
    one, _, _ = child(home, "")
    (home.root / "dvc.yaml").write_text(f"stages: {{one: {{cmd: {command}, outs: [out.txt]}}}}")
    one.stage = read_stages(home.root)["one"]
    with pytest.raises(StageFailed):
        one.run()
    assert not (home.root / "out.txt").exists()


@pytest.mark.parametrize(("status", "kind"), [(2, UserError), (3, GateFailed)])
def test_what_the_user_can_put_right(home: Home, status: int, kind: type[UserError]) -> None:
    one, _, _ = child(home, f'tell({{"error": "Too short.", "exit_code": {status}}}); sys.exit({status})')
    with pytest.raises(kind, match=r"^Too short\.$"):
        one.run()


@pytest.mark.parametrize(("body", "killed"), [('tell({"crashed": "ValueError"}); raise ValueError("a bug")', False),
                                              ("os.kill(os.getpid(), 9)", True)])
def test_what_broke_names_the_log(home: Home, body: str, killed: bool) -> None:
    one, _, _ = child(home, body)
    with pytest.raises(StageFailed) as caught:
        one.run()
    assert str(one.log) in str(caught.value)
    assert "working on it" in str(caught.value)
    assert caught.value.killed is killed


def test_the_whole_group_ends_even_what_ignores_sigterm() -> None:
    stubborn = ("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
                "print('up', flush=True); time.sleep(60)")
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {stubborn!r}])"
    process = subprocess.Popen([sys.executable, "-c", outer], start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    members = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert len(members) == 2
    started = time.monotonic()
    end_group(process, grace=5.0)
    assert time.monotonic() - started < 15
    psutil.wait_procs(members, timeout=5)
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in members)


def test_the_child_uses_this_python(home: Home, tmp_path: Path) -> None:
    one, _, lines = child(home, "print(sys.executable)")
    one.run()
    # A virtual environment has several names for one interpreter; the folder tells which environment it is.
    assert str(Path(sys.executable).parent) in {str(Path(line).parent) for line in lines}
