"""`plumbline promote` and `rollback` while MLflow is away: one paragraph, and no traceback."""

import shutil
from pathlib import Path

import pytest

from testing.fake_project import CHECKOUT
from testing.in_process import command
from testing.servers import free_port


@pytest.mark.parametrize("change", [["promote", "1"], ["rollback"]])
def test_a_store_that_is_away_is_said_in_one_paragraph(tmp_path: Path, change: list[str]) -> None:
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(CHECKOUT / file, tmp_path / file)
    address = f"http://127.0.0.1:{free_port()}"
    done = command(tmp_path, *change, "--reason", "it swears", "--yes", MLFLOW_TRACKING_URI=address)
    assert done.returncode == 2, done.stderr
    assert f"MLflow at {address} does not answer" in done.stderr
    assert done.stderr.count("\n") == 1
