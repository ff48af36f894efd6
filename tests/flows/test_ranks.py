"""A run whose stages have several processes: the same records as with one, and nothing is made twice for it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from plumbline.history.history import History
from plumbline.project.digests import digest
from plumbline.project.home import Home
from testing.fake_project import newest, plumbline
from testing.staged_project import none_left

pytestmark = [pytest.mark.slow]
STAGES = ("sft", "reward_model", "judge", "ppo")
OTHER = ("--set", "ppo.clip=0.35")


@pytest.fixture
def compute(project: Path) -> Iterator[Path]:
    """compute.yaml of two processes for each stage that can have them."""
    file = project / "compute.yaml"
    file.write_text("".join(f"{stage}: {{processes: 2}}\n" for stage in STAGES))
    yield file
    file.unlink(missing_ok=True)


def run(root: Path, *arguments: str) -> dict[str, str]:
    done = plumbline(root, "run", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return {name: stage["status"] for name, stage in json.loads(done.stdout)["stages"].items()}


@pytest.mark.evidence
def test_what_one_process_made_is_reused_by_two_and_the_other_way_round(project: Path, compute: Path) -> None:
    assert set(run(project).values()) == {"reused"}
    assert run(project, *OTHER)["ppo"] == "ran"
    by_two = newest(project) / "models/policy"
    receipt = json.loads((by_two / "receipt.json").read_text())
    assert (receipt["host"]["processes"], receipt["host"]["nodes"]) == ("2", "1")
    none_left(newest(project))
    shown = plumbline(project, "show", "latest").stdout
    assert "ppo was made on 2 processes" in shown and "sft was made" not in shown
    history = History(Home(project, project / ".plumbline"))
    history.refresh()
    assert history.runs[newest(project).name].steps["ppo"].host == receipt["host"]
    compute.unlink()
    assert set(run(project, *OTHER).values()) == {"reused"}
    assert run(project, *OTHER, "--force", "ppo")["ppo"] == "ran"
    alone = newest(project) / "models/policy"
    assert {file: digest(alone / file) for file in ("model", "curves.jsonl", "metrics.json", "samples.md")} == {
        file: digest(by_two / file) for file in ("model", "curves.jsonl", "metrics.json", "samples.md")}
    again = json.loads((alone / "receipt.json").read_text())
    of_this_run = ("mlflow_run", "pipeline_run", "started", "seconds", "host", "outputs")
    assert {key: value for key, value in again.items() if key not in of_this_run} == {
        key: value for key, value in receipt.items() if key not in of_this_run}
    client = MlflowClient(f"sqlite:///{project / '.plumbline/mlflow.db'}")
    by_one_run, by_two_run = (client.get_run(str(one["mlflow_run"])) for one in (again, receipt))
    assert by_one_run.data.metrics == by_two_run.data.metrics
    assert by_one_run.data.params == by_two_run.data.params
    assert by_two_run.data.tags["host.processes"] == "2"


def test_a_mistake_in_compute_yaml_stops_a_run_before_it_begins(project: Path, compute: Path) -> None:
    before = newest(project)
    compute.write_text("ppo: {processes: 0}\n")
    done = plumbline(project, "run")
    assert done.returncode == 2
    assert "`ppo.processes` is 0, but must be greater than or equal to 1" in done.stderr
    assert newest(project) == before
    checked = json.loads(plumbline(project, "doctor", "--json").stdout)
    assert [finding["status"] for finding in checked if finding["about"] == "compute"] == ["broken"]
