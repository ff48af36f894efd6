"""gc while a run is going on: the run loses nothing, and goes on from its finished stages."""

import json
import shutil
from pathlib import Path

import pytest

from testing.fake_project import plumbline
from testing.going_on import run_in_ppo
from testing.waiting import PATIENCE

pytestmark = [pytest.mark.slow]


def test_a_run_that_is_going_on_loses_nothing(project: Path, tmp_path: Path) -> None:
    root = tmp_path / "own"
    shutil.copytree(project, root, symlinks=True)
    before = {folder.name for folder in root.glob("runs/*")}
    with run_in_ppo(root, "--set", "reward_model.epochs=0.75") as process:
        going_on = ({folder.name for folder in root.glob("runs/*")} - before).pop()
        freed = plumbline(root, "gc", "--runs", "0", "--yes", "--json")
        assert freed.returncode == 0, freed.stderr
        kept = json.loads(freed.stdout)["kept"]
        assert kept.pop(going_on) == "it is going on"
        assert all("registered version" in why for why in kept.values())
        assert {folder.name for folder in root.glob("runs/*")} == {going_on, *kept}
        assert plumbline(root, "cancel", going_on).returncode == 0
        process.communicate(timeout=PATIENCE)
    again = plumbline(root, "retry", going_on, "--json", timeout=400)
    assert again.returncode == 0, again.stderr
    stages = json.loads(again.stdout)["stages"]
    done_before = ["snapshot", "ingest", "base", "sft", "reward_model", "reward_eval", "judge"]
    assert [name for name, stage in stages.items() if stage["status"] == "reused"] == done_before
    assert stages["promote"]["status"] == "ran"
