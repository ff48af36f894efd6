"""A fake project and a Prefect server for the flow tests."""

from pathlib import Path

import pytest

from testing.databases import Databases
from testing.fake_project import SHARED, make_project, plumbline
from testing.prefect_server import prefect, server

__all__ = ["prefect", "server"]


@pytest.fixture(autouse=True)
def shared_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands of a test use one Prefect server: one of their own takes each of them seconds to start."""
    if "project" in request.fixturenames and "private_server" not in request.fixturenames:
        monkeypatch.setitem(SHARED, "PREFECT_API_URL", request.getfixturevalue("prefect")["PREFECT_API_URL"])


@pytest.fixture
def private_server() -> None:
    """Each command of the test starts a Prefect server of its own, as it does for a user who has none."""


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Path:
    """A project in which one run has finished; the tests share it, because a first run takes half a minute."""
    root = make_project(tmp_path_factory.mktemp("projects") / "shared")
    databases.give(root / ".plumbline")
    done = plumbline(root, "run", "--json", timeout=400)
    assert done.returncode == 0, done.stderr
    (root / "first.json").write_text(done.stdout)
    return root
