"""What `plumbline pull` does where the registry cannot be asked."""

import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from plumbline.errors import UserError
from plumbline.project.home import Home
from plumbline.storage.push_pull import pull
from testing.fake_project import CHECKOUT
from testing.servers import free_port


def test_nothing_is_pulled_while_mlflow_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(CHECKOUT / "params.yaml", tmp_path)
    with Repo.init(str(tmp_path), no_scm=True).config.edit() as config:
        config["remote"]["store"] = {"url": str(tmp_path / "remote")}
        config["core"]["remote"] = "store"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address := f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UserError, match=f"MLflow at {address} does not answer.*Nothing was pulled"):
        pull(Home(tmp_path, tmp_path / ".plumbline"), None)
