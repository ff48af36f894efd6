"""A home of its own for each test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from plumbline.lineage.home import Home, enter


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
