"""A snapshot taken of files in the test's own folder."""

import pytest

from plumbline.preferences.batches.folders import Folders
from plumbline.preferences.batches.snapshot import Simulation, fix_snapshot


@pytest.fixture
def snapshot(tmp_path):
    """Takes a snapshot of sources in tmp_path; returns its manifest and its folder."""

    def take(*sources, simulation=None, out="snapshot"):
        simulation = simulation or Simulation(0, 40, 60, 10)
        return fix_snapshot(sources, simulation, Folders(tmp_path, tmp_path / "home"), tmp_path / out), tmp_path / out

    return take
