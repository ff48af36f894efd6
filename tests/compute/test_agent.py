"""An agent on another machine ends when the stage is not wanted any more, and its ranks with it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plumbline.compute.rank import AGENT_PID
from testing.waiting import eventually

WATCHING = ("import sys, time; from pathlib import Path; from plumbline.compute.agent import end_without_sign; "
            "end_without_sign(Path(sys.argv[1]), 4.0); print('up', flush=True); time.sleep(120)")
RANK = ("import time; from plumbline.compute.rank import end_with_who_started_this; end_with_who_started_this(); "
        "print('up', flush=True); time.sleep(120)")


def started(code: str, *arguments: str, **variables: str) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE,
                               start_new_session=True, env={**os.environ, **variables})
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.mark.parametrize("deleted", [False, True])
def test_signs_of_life_keep_it_alive_and_their_end_ends_it(tmp_path: Path, deleted: bool) -> None:
    sign = tmp_path / "sign"
    sign.write_text("0")
    agent = started(WATCHING, str(sign))
    rank = started(RANK, **{AGENT_PID: str(agent.pid)})
    for count in range(6):
        sign.write_text(str(count))
        time.sleep(1)
        assert agent.poll() is None, "it has lived longer than without signs"
    if deleted:
        sign.unlink()
    eventually(lambda: agent.poll() is not None, "the end of the agent", 30)
    eventually(lambda: rank.poll() is not None, "the end of the rank", 10)
