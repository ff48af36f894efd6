"""`plumbline pull` brings what the run behind an alias left, or says that it could not ask for it."""

import shutil
from pathlib import Path

import pytest
import requests

from plumbline.errors import UserError
from plumbline.project.home import Home
from plumbline.storage.push_pull import pull, push
from plumbline.tracking.registry import Registry
from testing.fake_project import CHECKOUT
from testing.remotes import add_remote
from testing.stored_runs import RUN


@pytest.fixture
def champion(here: Home, there: Home) -> Path:
    """A policy of the run became champion; both machines have the same remote, and its folder is returned."""
    shelf = here.root.parent / "shelf"
    for home in (here, there):
        add_remote(home, "shelf", str(shelf))
        shutil.copy(CHECKOUT / "params.yaml", home.root)
    push(here, RUN, None)
    registry = Registry.open(here, "policy")
    version = registry.register("0" * 32, "m-0", "0" * 32, None, {"pipeline_run": RUN}).version
    registry.make_champion(version, "a test", "tester")
    return shelf


def test_the_outputs_of_the_champion_s_run_come_along(there: Home, champion: Path) -> None:
    assert pull(there, None).fetched == [f"{RUN}: data/snapshot"]


@pytest.mark.parametrize("unanswered", [
    "mlflow.MlflowClient.download_artifacts",
    "mlflow.store.artifact.local_artifact_repo.LocalArtifactRepository.download_artifacts"])
def test_a_record_that_mlflow_does_not_give_is_not_passed_over(there: Home, champion: Path, unanswered: str,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_more: object) -> None:
        raise requests.ConnectionError("the connection was reset")

    monkeypatch.setattr(unanswered, fail)
    with pytest.raises(UserError, match=rf"of the run {RUN}, but does not give them now"):
        pull(there, None)
