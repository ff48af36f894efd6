"""A retry of a run that another version made."""

import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from ruamel.yaml import YAML

from plumbline.config import Params, load_params
from plumbline.errors import UserError
from plumbline.project.digests import digest
from plumbline.project.home import Home
from plumbline.project.run_record import RunRecord
from plumbline.runs.retry import OtherVersionParams, take_outputs
from plumbline.runs.workspace import Workspace
from testing.stored_runs import RUN

ROOT = Path(__file__).resolve().parents[2]


def test_the_parameters_of_another_version_are_passed_on_as_they_are(tmp_path: Path) -> None:
    """A run's own code reads them again: it would refuse a key that it does not know, and miss one that is gone."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    old = re.sub(r"  missing_stop_deviations: .*", "  missing_stop_reward: -3.0", text)
    old = re.sub(r"  judge_fraction: .*\n", "", old) + "gone:\n  version: '1'\n"
    (tmp_path / "params.yaml").write_text(old, encoding="utf-8")
    with pytest.raises(UserError, match=r"`ingest\.judge_fraction` is missing"):
        load_params(tmp_path)
    found = OtherVersionParams.read(tmp_path)
    assert found.model_dump() == YAML(typ="safe").load(old)
    assert (found.seed, found.promote.model_name) == (0, "policy")
    changed = found.model_copy(update={"retrain": load_params(ROOT).retrain}).model_dump()
    assert changed == YAML(typ="safe").load(old)
    (tmp_path / "params.yaml").write_text(old.replace("seed: 0", "seed: 7").replace("clip: 0.2", "clip: 0.3"))
    whole = OtherVersionParams.read(tmp_path).completed(ROOT)
    assert type(whole) is Params and (whole.seed, whole.ppo.clip) == (7, 0.3)
    assert whole.ingest == load_params(ROOT).ingest


def retries(home: Home, *runs: str) -> Workspace:
    """Let a retry begin that goes on from the last of these runs, of which each is a retry of the one before."""
    for earlier, run in itertools.pairwise(runs):
        folder = home.runs / run
        folder.mkdir()
        for file in ("dvc.yaml", "params.yaml"):
            shutil.copy(home.root / file, folder / file)
        RunRecord(id=run, created="2026-01-01T00:00:00+00:00", project=str(home.root), pid=1, host="here",
                  status="killed", retry_of=earlier).save(folder)
    folder = home.root / "retry"
    folder.mkdir()
    return cast(Workspace, SimpleNamespace(home=home, folder=folder, record=SimpleNamespace(retry_of=runs[-1])))


def test_a_retry_of_a_retry_that_ended_before_its_snapshot_takes_that_of_the_first(here: Home) -> None:
    workspace = retries(here, RUN, "20260102-000000-abcdef", "20260103-000000-abcdef")
    assert take_outputs(workspace, "snapshot")
    assert digest(workspace.folder / "data/snapshot") == digest(here.runs / RUN / "data/snapshot")
    assert not take_outputs(workspace, "a stage that none of them did")


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.write_text("other rows")])
def test_a_retry_does_not_go_on_with_other_data_than_its_run(here: Home, spoil: Callable[[Path], object]) -> None:
    workspace = retries(here, RUN)
    file = next(file for file in here.cache.glob("files/md5/*/*") if not file.name.endswith(".dir"))
    file.chmod(0o644)
    spoil(file)
    with pytest.raises(UserError, match=rf"left in the run {RUN} is gone: 1 of its files.*Start a new run"):
        take_outputs(workspace, "snapshot")
    assert not (workspace.folder / "data").exists()
