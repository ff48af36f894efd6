"""Cancelling a run from another terminal, and going on from where it stopped."""

import json
from pathlib import Path

import pytest

from plumbline.project.digests import digest
from plumbline.project.home import Home
from plumbline.project.run_record import find_run
from testing.fake_project import plumbline
from testing.going_on import processes_of, run_in_ppo
from testing.waiting import PATIENCE

pytestmark = [pytest.mark.slow]


def newest(project: Path) -> Path:
    return find_run(Home(project, project / ".plumbline"), "latest")


def test_cancel_then_retry_with_the_code_and_the_data_of_the_run(project: Path) -> None:
    with run_in_ppo(project, "--set", "ppo.updates=40") as process:
        cancelled = newest(project)
        done = plumbline(project, "cancel", "latest", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"id": cancelled.name, "status": "cancelled"}
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, errors
        assert processes_of(project) == []
    assert plumbline(project, "cancel", "latest").returncode == 2

    # The checkout has changed meanwhile, in its code and in its parameters.
    code, params = project / "tasks/sft.py", project / "params.yaml"
    kept = code.read_text(), params.read_text()
    try:
        code.write_text(kept[0] + "\n# a change\n")
        params.write_text(kept[1].replace("simulated_comparisons: 10000", "simulated_comparisons: 20000"))
        again = plumbline(project, "retry", "latest", "--json")
        assert again.returncode == 0, again.stderr
        retried = newest(project)
        assert json.loads(again.stdout)["retry_of"] == cancelled.name
        stages = json.loads(again.stdout)["stages"]
        done_before = ["snapshot", "ingest", "base", "sft", "reward_model", "reward_eval", "judge"]
        assert [name for name, stage in stages.items() if stage["status"] == "reused"] == done_before
        assert (retried / "params.yaml").read_text() == (cancelled / "params.yaml").read_text()
        assert digest(retried / "tasks") == digest(cancelled / "tasks") != digest(project / "tasks")
        assert plumbline(project, "retry", retried.name).returncode == 2
    finally:
        code.write_text(kept[0])
        params.write_text(kept[1])
