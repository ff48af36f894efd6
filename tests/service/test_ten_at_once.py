"""Ten runs at once, each in its own workspace, on one cache, one MLflow store and one Prefect server."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.preferences.types import to_line
from plumbline.project.home import Home
from plumbline.tracking.registry import Registry
from testing.always_on_project import comparisons, make_always_on
from testing.fake_project import environment
from testing.running_service import QUICK, Up

pytestmark = [pytest.mark.slow, pytest.mark.evidence]
RUNS = 10


def test_ten_runs_at_once(tmp_path: Path) -> None:
    root = make_always_on(tmp_path / "ten")
    for number in range(RUNS):
        (root / f"part-{number}.jsonl").write_text("".join(map(to_line, comparisons(100 * number, 7))))
    service = Up(root)
    try:
        service.start()
        started = [subprocess.Popen([sys.executable, "-m", "plumbline", "run", "--json", "--set",
                                     f"snapshot.sources=[part-{number}.jsonl]"], cwd=root, text=True,
                                    env=environment(root, **QUICK), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                   for number in range(RUNS)]
        answers = [process.communicate(timeout=1200) for process in started]
    finally:
        service.stop()
    assert [process.returncode for process in started] == [0] * RUNS, [errors[-500:] for _, errors in answers]
    found = [json.loads(out) for out, _ in answers]
    assert len({run["id"] for run in found}) == RUNS
    assert {run["status"] for run in found} == {"finished"}
    for number, run in enumerate(found):
        sees_only_its_own(root / "runs" / run["id"], number)
    policies = {(root / "runs" / run["id"] / "models/policy/model/model.safetensors").read_text() for run in found}
    assert len(policies) == RUNS
    registry = Registry.open(Home(root, root / ".plumbline"), "policy")
    assert {run for _, run, _ in registry.versions()} == {run["id"] for run in found}
    assert registry.champion() is not None


def sees_only_its_own(workspace: Path, number: int) -> None:
    """From its snapshot to its model a run has nothing of another's."""
    manifest = json.loads((workspace / "data/snapshot/manifest.json").read_text())
    assert [batch["source"] for batch in manifest["batches"]] == [f"part-{number}.jsonl"]
    [rows] = (workspace / "data/snapshot").glob("*.jsonl")
    prompts = [json.loads(line)["prompt"][0]["content"] for line in rows.read_text().splitlines()]
    assert prompts == [f"Question {100 * number + place}?" for place in range(7)]
    prepared = (workspace / "data/prepared/preferences.jsonl").read_bytes()
    sft = (workspace / "models/sft/model/model.safetensors").read_text()
    assert sft.startswith(hashlib.sha256(prepared).hexdigest())
