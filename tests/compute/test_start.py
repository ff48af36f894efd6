"""A stage on two ranks of this machine, by way of its own command: a real agent and a real gloo group."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.errors import GateFailed, UserError
from plumbline.project.home import Home
from plumbline.runs.stage_process import StageFailed
from testing.staged_project import child_of, none_left, staged

pytestmark = [pytest.mark.slow]
TWO = "ppo: {processes: 2}\n"
WORK = '''
print("working")
scratch = run.scratch()
run.report(1, 2, {"loss": 0.5})
run.report(2, 2, {"loss": float(sum(world().gathered([rank(), 10 * rank()])))})
places = world().gathered([(str(scratch), os.environ["OMP_NUM_THREADS"], run.silent)])
if rank():
    assert not hasattr(run, "_curves") or run._curves is None
run.write("model.txt", f"by {ranks()}: {len(set(place[0] for place in places))} {[place[2] for place in places]}")
run.finish({"loss": 0.25})
'''


def test_all_work_and_rank_0_writes(recording_home: Home) -> None:
    home = staged(recording_home, WORK, TWO)
    child, lines = child_of(home)
    child.run()
    folder = home.root / "models/policy"
    assert (folder / "model.txt").read_text() == "by 2: 1 [False, True]"
    assert [json.loads(line)["loss"] for line in (folder / "curves.jsonl").read_text().splitlines()] == [0.5, 11.0]
    assert json.loads((folder / "metrics.json").read_text()) == {"loss": 0.25}
    assert sorted(lines) == ["[rank 1] working", "working"]
    assert (child.host["processes"], child.host["nodes"]) == ("2", "1")
    child.drop_scratch()
    assert list(home.scratch.iterdir()) == []
    none_left(home.root)


def test_one_process_is_alone_and_without_torch(recording_home: Home) -> None:
    body = 'run.write("model.txt", str((ranks(), "torch" in sys.modules)))\nrun.report(1, 1)\nrun.finish({})'
    home = staged(recording_home, body.replace("world", ""), "ppo: {processes: 1}\n")
    task = home.root / "tasks/ppo.py"
    task.write_text(task.read_text().replace("from plumbline.lm.ranks.world import world\n", ""))
    child, _ = child_of(home)
    child.run()
    assert (home.root / "models/policy/model.txt").read_text() == "(1, False)"
    assert "processes" not in child.host


@pytest.mark.parametrize(("body", "kind", "words"), [
    ('raise UserError("Too short.")', UserError, "Too short."),
    ('if rank() == 1: raise GateFailed("Not good enough.")\nworld().gathered([1])', GateFailed, "Not good enough.")])
def test_what_the_user_can_put_right_is_what_the_first_rank_said(recording_home: Home, body: str,
                                                               kind: type[UserError], words: str) -> None:
    child, _ = child_of(staged(recording_home, body, TWO))
    with pytest.raises(kind) as caught:
        child.run()
    assert (type(caught.value), str(caught.value)) == (kind, words)
    assert "ChildFailedError" not in child.log.read_text()
    none_left(recording_home.root)


@pytest.mark.parametrize(("body", "killed"), [
    ('if rank() == 1: raise ValueError("a bug")\nworld().gathered([1])', False),
    ('if rank() == 1: os.kill(os.getpid(), 9)\nworld().gathered([1])', True),
    ('if rank() == 0: os.kill(os.getpid(), 9)\ntime.sleep(60)', True)])
def test_a_bug_is_told_from_a_kill(recording_home: Home, body: str, killed: bool) -> None:
    child, _ = child_of(staged(recording_home, body, TWO))
    with pytest.raises(StageFailed) as caught:
        child.run()
    assert caught.value.killed is killed
    assert ("was ended by signal 9" in str(caught.value)) is killed
    none_left(recording_home.root)


def test_the_command_itself_ends_with_the_status(recording_home: Home) -> None:
    body = 'if rank() == 1: raise GateFailed("Not good enough.")\nworld().gathered([1])'
    home = staged(recording_home, body, TWO)
    done = subprocess.run([sys.executable, "-m", "tasks.ppo"], cwd=home.root, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(home.root)}, timeout=120)
    assert done.returncode == GateFailed.exit_code
    assert done.stderr.count("Traceback") <= 1, "that of a rank which lost the other"
    none_left(home.root)


def test_dvc_repro(recording_home: Home) -> None:
    home = staged(recording_home, WORK, TWO)
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=home.root, text=True, capture_output=True,
                          env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})
    assert done.returncode == 0, done.stderr
    receipt = json.loads((home.root / "models/policy/receipt.json").read_text())
    assert (receipt["host"]["processes"], receipt["pipeline_run"]) == ("2", None)
    assert "compute" not in (home.root / "dvc.lock").read_text()
    none_left(home.root)
