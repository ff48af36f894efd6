"""Fake projects for the flow tests."""

from pathlib import Path

import pytest

from testing.fake_project import make_project, plumbline
from testing.prefect_server import server

__all__ = ["server"]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which one run has finished; the tests share it, because a first run takes half a minute."""
    root = make_project(tmp_path_factory.mktemp("projects") / "shared")
    done = plumbline(root, "run", "--json", timeout=400)
    assert done.returncode == 0, done.stderr
    (root / "first.json").write_text(done.stdout)
    return root
