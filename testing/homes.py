"""A home of its own for each test."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from plumbline.project.home import Home, enter
from plumbline.tracking.store import prepare


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A project's home, entered; the environment is put back afterwards."""
    before = dict(os.environ)
    for name in ("PLUMBLINE_HOME", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("{}\n")
    home = Home(tmp_path, tmp_path / ".plumbline")
    enter(home)
    yield home
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Path:
    """An MLflow database with nothing but our experiment."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(mlflow_database, folder)
    before = dict(os.environ)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    prepare(Home(folder, folder))
    os.environ.clear()
    os.environ.update(before)
    return folder / "mlflow.db"


@pytest.fixture
def recording_home(home: Home, empty_store: Path) -> Home:
    """A home in which something could be recorded already."""
    shutil.copy(empty_store, home.folder / "mlflow.db")
    return home
