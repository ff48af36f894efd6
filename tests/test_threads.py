"""Threads that wait for each other must sleep soon: beside other work they would keep its cores from what works."""

import os
import subprocess
import sys

import pytest

SET = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
SAY = "import os, tasks.ppo; print(os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.parametrize(("given", "found"), [
    ({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "None")])
def test_how_long_they_spin_is_set_unless_the_user_has(given: dict[str, str], found: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in SET} | given
    said = subprocess.run([sys.executable, "-c", SAY], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == found
