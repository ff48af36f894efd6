"""`plumbline compare` through the real flow, with stages that take no time."""

import json
import shutil
from pathlib import Path

import pytest

from plumbline.project.home import Home
from plumbline.project.run_record import find_run, read_record
from plumbline.tracking.store import connect
from testing.fake_project import plumbline
from testing.going_on import run_in
from testing.in_process import command

pytestmark = [pytest.mark.slow]
NEAR = ("--set", "candidates.near={method: ppo, kl_coef: 0.02}")
FAR = ("--set", "candidates.far={method: ppo, kl_coef: 0.5}")


def compare(root: Path, *arguments: str) -> dict[str, dict[str, dict[str, str]]]:
    done = plumbline(root, "compare", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, dict[str, str]]] = json.loads(done.stdout)
    return found


def ran(found: dict[str, dict[str, dict[str, str]]]) -> list[str]:
    return [name for name, stage in found["stages"].items() if stage["status"] == "ran"]


def test_each_candidate_is_made_once_and_the_ordinary_stages_never_again(project: Path) -> None:
    first = compare(project, "near", *NEAR)
    assert ran(first) == ["candidate@near", "candidate_eval@near"]
    assert "promote" not in first["stages"]
    more = compare(project, "far", "near", *NEAR, *FAR)
    assert ran(more) == ["candidate@far", "candidate_eval@far"]
    table = json.loads((project / "runs" / str(more["id"]) / "comparison/comparison.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["ppo", "far", "near"]

    home = Home(project, project / ".plumbline")
    recorded = read_record(project / "runs" / str(more["id"])).mlflow_run
    assert recorded
    assert connect(home).get_run(recorded).data.tags["stage.candidate:near"] == "reused"
    names = {file.path for file in connect(home).list_artifacts(recorded, "record/comparison")}
    assert names == {f"record/comparison/comparison.{end}" for end in ("md", "json", "png")}

    # On a machine that has no workspace of it the comparison comes back with the run.
    shutil.rmtree(project / "runs" / str(more["id"]))
    assert command(project, "restore", str(more["id"])).returncode == 0
    assert "far" in command(project, "show", str(more["id"])).stdout
    assert (project / "runs" / str(more["id"]) / "comparison/comparison.png").exists()


@pytest.mark.evidence
def test_a_comparison_that_was_killed_goes_on_with_the_candidates_that_are_left(project: Path) -> None:
    first, second = (f"candidates.{name}={{method: ppo, clip: 0.33}}" for name in ("one", "two"))
    with run_in("candidate@two", project, "compare", "one", "two", "--set", first, "--set", second) as process:
        process.kill()
        process.wait()
    killed = find_run(Home(project, project / ".plumbline"), "latest")
    assert set(read_record(killed).stages) >= {"candidate@one", "candidate_eval@one"}
    done = plumbline(project, "retry", "latest", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["retry_of"] == killed.name and found["compare"] == ["one", "two"]
    assert ran(found) == ["candidate@two", "candidate_eval@two"]
    assert (project / "runs" / found["id"] / "comparison/comparison.md").exists()


def test_a_name_that_is_no_candidate_is_answered_with_those_that_are(project: Path) -> None:
    done = command(project, "compare", "nowhere")
    assert done.returncode == 2
    assert "no candidate `nowhere`" in done.stderr and "dpo" in done.stderr
    assert "--set candidates.nowhere=" in done.stderr
    wrong = command(project, "compare", "mine", "--set", "candidates.mine={method: ppo, kl_coeff: 0.1}")
    assert wrong.returncode == 2 and "candidates.mine.kl_coeff" in wrong.stderr


def test_the_help_shows_how_to_make_a_candidate_up(project: Path) -> None:
    shown = command(project, "compare", "--help").stdout
    assert "Examples" in shown and "candidates.mine=" in shown
