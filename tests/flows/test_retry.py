"""gc during a run, cancelling it from another terminal, and going on from where it stopped."""

import json
import shutil
from pathlib import Path

import pytest

from plumbline.project.digests import digest
from testing.fake_project import newest, plumbline
from testing.going_on import processes_of, run_in_ppo
from testing.in_process import command
from testing.waiting import PATIENCE

pytestmark = [pytest.mark.slow]


@pytest.mark.evidence
def test_gc_cancel_then_retry_with_the_code_and_the_data_of_the_run(project: Path, tmp_path: Path) -> None:
    root = tmp_path / "own"
    shutil.copytree(project, root, symlinks=True)
    with run_in_ppo(root, "--set", "reward_model.epochs=0.75") as process:
        going_on = newest(root)
        gc_takes_nothing_of_it(root, going_on)
        done = command(root, "cancel", "latest", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"id": going_on.name, "status": "cancelled"}
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, errors
        assert processes_of(root) == []
    assert command(root, "cancel", "latest").returncode == 2

    # The checkout has changed meanwhile, in its code and in its parameters.
    code, params = root / "tasks/sft.py", root / "params.yaml"
    code.write_text(code.read_text() + "\n# a change\n")
    params.write_text(params.read_text().replace("simulated_comparisons: 10000", "simulated_comparisons: 20000"))
    again = plumbline(root, "retry", "latest", "--json")
    assert again.returncode == 0, again.stderr
    retried = newest(root)
    assert json.loads(again.stdout)["retry_of"] == going_on.name
    stages = json.loads(again.stdout)["stages"]
    done_before = ["snapshot", "ingest", "base", "sft", "reward_model", "reward_eval", "judge"]
    assert [name for name, stage in stages.items() if stage["status"] == "reused"] == done_before
    assert stages["promote"]["status"] == "ran"
    assert (retried / "params.yaml").read_text() == (going_on / "params.yaml").read_text()
    assert digest(retried / "tasks") == digest(going_on / "tasks") != digest(root / "tasks")
    assert command(root, "retry", retried.name).returncode == 2


def gc_takes_nothing_of_it(root: Path, going_on: Path) -> None:
    """Free everything that nothing needs while a run is going on."""
    freed = command(root, "gc", "--runs", "0", "--yes", "--json")
    assert freed.returncode == 0, freed.stderr
    kept = json.loads(freed.stdout)["kept"]
    assert kept.pop(going_on.name) == "it is going on"
    assert all("registered version" in why for why in kept.values())
    assert {folder.name for folder in root.glob("runs/*")} == {going_on.name, *kept}
