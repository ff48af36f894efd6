"""What one worker of a test session makes for all of them; above all the databases of a new home, migrated.

Their own migrations take the first start of each home three (MLflow) and ten seconds (Prefect) of processor time. Here
they run once a session, and a test's home gets a copy of what they left. The end-to-end test goes the whole way.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from plumbline.project.locks import file_lock
from plumbline.tracking import store
from plumbline.tracking.store import make_tables
from testing.fake_project import environment

MIGRATE = ("import asyncio; from prefect.server.database import provide_database_interface; "
           "asyncio.run(provide_database_interface().create_db())")
MLFLOW, PREFECT = "mlflow.db", "prefect/prefect.db"
"""Where they are in a home."""


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder which the first worker that asks for it makes, and which nobody changes."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, whole = shared / name, shared / f"{name}.whole"
    with file_lock(shared / f"{name}.lock"):
        if not whole.exists():
            make(folder)
            whole.touch()
    return folder


@dataclass(frozen=True)
class Databases:
    """Empty databases, of which homes get copies."""

    mlflow: Path
    prefect: Path

    def give(self, home: Path) -> None:
        """Put them into a home, each unless it has one."""
        for made, name in ((self.mlflow, MLFLOW), (self.prefect, PREFECT)):
            if not (home / name).exists():
                (home / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(made, home / name)


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database with no experiment of ours."""

    def migrate(folder: Path) -> None:
        folder.mkdir()
        make_tables(folder / MLFLOW)

    return made_once(tmp_path_factory, "empty-mlflow", migrate) / MLFLOW


@pytest.fixture(autouse=True)
def tables_made_before(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a home that is made in this process copy MLflow's tables, too."""
    monkeypatch.setattr(store, "make_tables",
                        lambda file: shutil.copy(request.getfixturevalue("mlflow_database"), file))


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Databases:
    """MLflow's database and Prefect's."""

    def migrate(folder: Path) -> None:
        (folder / PREFECT).parent.mkdir(parents=True)
        variables = environment(PREFECT_HOME=str((folder / PREFECT).parent), PREFECT_SERVER_ANALYTICS_ENABLED="false")
        subprocess.run([sys.executable, "-c", MIGRATE], cwd=folder, env=variables, check=True, capture_output=True)

    return Databases(mlflow_database, made_once(tmp_path_factory, "empty-prefect", migrate) / PREFECT)
