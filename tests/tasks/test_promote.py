"""The program of `promote`, with a real registry: what it registers, who is champion, what decision.json says."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from plumbline.config import check_params, load_params
from plumbline.preferences.batches.snapshot import Simulation, fix_snapshot
from plumbline.project.digests import digest
from plumbline.project.dvc_yaml import read_stages
from plumbline.project.home import Home
from plumbline.project.run_record import RunRecord
from plumbline.runs.stage_run import StageRun
from plumbline.runs.workspace import Workspace
from plumbline.tracking.receipts import Output, Receipt
from plumbline.tracking.recording import Recording
from plumbline.tracking.registry import AWAITING, CHAMPION, Registry
from plumbline.tracking.store import connect
from tasks.promote import program, promote
from testing.fake_project import CHECKOUT
from testing.preference_files import pairs, write_jsonl

GOOD = {"win_rate_vs_sft": 0.8, "win_rate_vs_sft_greedy": 0.8, "win_rate_vs_champion": 0.6}
STAGE = read_stages(CHECKOUT)["promote"]


class Project:
    """Runs whose policies were trained and measured by hand, in one home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        repository = Repo.init(str(home.root), no_scm=True)
        with repository.config.edit("local") as local:
            local["cache"]["dir"] = str(home.cache)

    def promote(self, name: str, rows: int = 6, champion_low: float = 0.55, compared_with: int | None = None,
                **params: object) -> dict[str, Any]:
        """Run the stage for a policy that learned from the first `rows` pairs; return its decision.json.

        It was compared with the champion, or with another version, which was champion at that time.
        """
        root = self.home.root / name
        root.mkdir(exist_ok=True)
        run = self._run(root, params)
        self._snapshot(root, rows)
        champion = Registry.open(self.home, "policy").champion()
        version = compared_with or (champion.version if champion else None)
        figures = {"judge": "gold", "kl_policy": 2.0, "characters_policy": 10.0, "characters_sft": 10.0}
        for key, rate in GOOD.items():
            low = champion_low if key.endswith("champion") else rate - 0.05
            figures |= {key: rate, f"{key}_low": low, f"{key}_high": rate + 0.05, f"{key}_n": 400}
        files = {"reports/preference/metrics.json": figures, "models/champion/champion.json": {"version": version},
                 "reports/reward/gate.json": {"passed": True, "reasons": []}, "models/judge/metrics.json": {"pairs": 0}}
        for path, values in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(json.dumps(values))
        self._policy(root, name)
        program(run)
        found = json.loads((root / "reports/promote/decision.json").read_text())
        assert isinstance(found, dict)
        return found

    def _run(self, root: Path, params: dict[str, object]) -> StageRun:
        values = load_params(CHECKOUT).model_dump()
        values["promote"] |= params
        return StageRun(root, self.home, STAGE, check_params(values, "test"), {}, "code", None, f"run of {root.name}")

    def _snapshot(self, root: Path, rows: int) -> None:
        source = write_jsonl(root / "pairs.jsonl", pairs(rows))  # type: ignore[no-untyped-call]
        shutil.rmtree(root / "data", ignore_errors=True)
        fix_snapshot([str(source)], Simulation(0, 0, 0, 0), self.home.preferences, root / "data/snapshot")
        with contextlib.chdir(self.home.root):
            Repo(str(self.home.root)).add([str(root / "data/snapshot")])

    def _policy(self, root: Path, name: str) -> None:
        folder = root / "models/policy/model"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_text(f"weights of {name}")
        md5 = digest(folder)
        made = Recording(self.home, "ppo", {})
        receipt = Receipt(stage="ppo", version="1", mlflow_run=made.run_id, pipeline_run=root.name, git_commit=None,
                          git_dirty=None, inputs={}, outputs={"models/policy/model": Output(
                              md5=md5, model_id=made.model("policy", {"dvc.md5": md5}))},
                          code="", params={}, seed=0, started="", seconds=0.0, host={})
        (root / "models/policy/receipt.json").write_text(receipt.model_dump_json())

    def still_done(self, name: str) -> bool:
        """Whether what was decided of a policy stays as it is when it comes from the cache."""
        params = check_params(load_params(CHECKOUT).model_dump(), "test")
        record = RunRecord(id="20260101-000000-abcdef", created="", project="", pid=1, host="here")
        assert promote.still_done is not None
        return promote.still_done(Workspace(self.home, self.home.root / name, params, record, {}))

    def keep(self, name: str) -> None:
        """Put a policy into the cache, so that a person can put it into use."""
        with contextlib.chdir(self.home.root):
            Repo(str(self.home.root)).add([str(self.home.root / name / "models/policy/model")])

    def aliases(self) -> dict[str, int]:
        found = connect(self.home).get_registered_model("policy").aliases
        return {alias: int(number) for alias, number in found.items()}


@pytest.fixture
def project(recording_home: Home) -> Project:
    return Project(recording_home)


def test_a_policy_that_every_rule_allows_is_promoted_and_every_rule_is_told(project: Project) -> None:
    found = project.promote("first")
    assert (found["promoted"], found["awaiting"], found["version"], found["compared_with"]) == (True, False, 1, None)
    assert all(set(rule) == {"rule", "required", "measured", "verdict"} for rule in found["rules"])
    assert {rule["rule"]: rule["verdict"] for rule in found["rules"]}["KL to SFT"] == "passed"
    assert (project.home.root / "first/reports/promote/decision.md").read_text().startswith("# Version 1 becomes")
    second = project.promote("second", max_kl=1.0)
    assert (second["promoted"], second["version"], second["compared_with"]) == (False, 2, 1)
    assert project.aliases() == {CHAMPION: 1, "challenger": 2}


def test_with_approval_it_waits_until_a_person_promotes_it(project: Project) -> None:
    project.promote("first")
    waits = project.promote("second", approval=True)
    assert (waits["promoted"], waits["awaiting"]) == (False, True)
    assert project.aliases() == {CHAMPION: 1, "challenger": 2, AWAITING: 2}
    registry = Registry.open(project.home, "policy")
    project.keep("second")
    registry.promote(2, "read fifty answers", "Ada", 1)
    assert project.aliases() == {CHAMPION: 2, "challenger": 2, "previous": 1}


def test_a_version_that_waited_meets_the_champion_that_came_meanwhile(project: Project) -> None:
    project.promote("first")
    project.promote("second", approval=True)
    third = project.promote("third")
    assert third["promoted"] and AWAITING not in project.aliases()
    waited = Registry.open(project.home, "policy").version(2)
    assert waited is not None and not waited.settled


@pytest.mark.parametrize("approval", [True, False])
def test_a_version_that_was_left_open_is_decided_again_after_a_rollback(project: Project, approval: bool) -> None:
    """Its files are those of before: nothing but the registry says that it was overtaken."""
    project.promote("first")
    if approval:
        assert project.promote("second", approval=True)["awaiting"]
    project.promote("newer")
    if not approval:
        assert "run again to compare it" in project.promote("second", compared_with=1)["reasons"][-1]
    project.keep("first")
    Registry.open(project.home, "policy").roll_back("it rambles", "Ada")
    assert (project.still_done("first"), project.still_done("second")) == (True, False)
    again = project.promote("second", approval=approval)
    assert (again["compared_with"], again["promoted"], again["awaiting"]) == (1, not approval, approval)
    assert project.still_done("second")


def test_a_version_that_no_longer_passes_waits_no_longer(project: Project) -> None:
    project.promote("first")
    project.promote("second", approval=True)
    again = project.promote("second", approval=True, max_kl=1.0)
    assert (again["version"], again["awaiting"]) == (2, False)
    assert project.aliases() == {CHAMPION: 1, "challenger": 2}


def test_a_newer_version_waits_in_place_of_an_older_one(project: Project) -> None:
    project.promote("first")
    project.promote("second", approval=True)
    project.promote("third", approval=True)
    assert project.aliases()[AWAITING] == 3


@pytest.mark.parametrize(("rows", "promoted"), [(6, False), (7, False), (4, True)])
def test_after_rows_were_removed_not_worse_is_enough(project: Project, rows: int, promoted: bool) -> None:
    project.promote("first", rows=6)
    found = project.promote("second", rows=rows, champion_low=0.47, non_inferior_by=0.05)
    assert found["promoted"] is promoted
    asked = next(rule for rule in found["rules"] if "champion" in rule["rule"])
    assert ("2 of whose rows were removed" in asked["rule"]) is promoted


def test_a_champion_whose_snapshot_is_nowhere_has_to_be_beaten(project: Project) -> None:
    project.promote("first", rows=6)
    shutil.rmtree(project.home.cache)
    assert not project.promote("second", rows=4, champion_low=0.47, non_inferior_by=0.05)["promoted"]
