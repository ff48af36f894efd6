"""A project in which some runs were recorded by the real code, made once for all workers of a test session."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testing.databases import made_once
from testing.fake_project import CHECKOUT, environment

MANY_RUNS = CHECKOUT / "benchmarks" / "many_runs.py"
RUNS = 12


@pytest.fixture(scope="session")
def recorded_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This worker's copy. Finished and failed runs, reused stages, versions; tests that change something copy it."""

    def record(folder: Path) -> None:
        done = subprocess.run([sys.executable, str(MANY_RUNS), str(folder), str(RUNS)], env=environment(),
                              check=False, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr

    made = made_once(tmp_path_factory, "recorded", record)
    own = tmp_path_factory.mktemp("projects") / "shared"
    shutil.copytree(made, own, symlinks=True)
    return own
