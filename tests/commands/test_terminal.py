"""What is said of stages while a run goes on: what they will need, and what is wrong with them."""

import io

import pytest
from rich.console import Console

from plumbline.commands.terminal import Bars, Lines


@pytest.mark.parametrize("kind", [Bars, Lines])
def test_plans_and_findings_are_printed_as_they_are(kind: type[Bars] | type[Lines]) -> None:
    out = io.StringIO()
    watcher = kind(Console(file=out, width=40))
    watcher.planned("sft", "needs about 1.7 GB of this machine's [23 GB], and 0.3 TFLOP a step")
    watcher.noticed("ppo", "KL runs away [40 nats]")
    assert out.getvalue() == ("sft needs about 1.7 GB of this machine's [23 GB], and 0.3 TFLOP a step\n"
                              "ppo: KL runs away [40 nats]\n")
