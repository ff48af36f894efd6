"""Verdicts at speed, over real HTTP, with kill -9 of the server in between: none is lost, none counts twice."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "feedback_load.py"


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.evidence)])
def test_every_acknowledged_verdict_is_there_exactly_once(database: str) -> None:
    done = subprocess.run([sys.executable, str(BENCHMARK), database, "--seconds", "4", "--rate", "100"], text=True,
                          capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if "not installed" in done.stdout:
        pytest.skip("No PostgreSQL: install it (initdb, postgres) to run this test.")
    assert "each acknowledged one exactly once" in done.stdout
    assert "800 acknowledged" in done.stdout
