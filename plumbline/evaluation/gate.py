"""The gate between the reward model and PPO: a file that says whether the reward model is good enough to optimise."""

import json
from collections.abc import Sequence
from pathlib import Path

from plumbline.errors import GateFailed


def write_verdict(file: Path, reasons: Sequence[str]) -> None:
    """Leave the decision where PPO looks; no reasons against the reward model means that it passed."""
    verdict = {"passed": not reasons, "reasons": list(reasons)}
    file.write_text(json.dumps(verdict, indent=1) + "\n", encoding="utf-8")


def require_passed(file: Path) -> None:
    """Raise GateFailed, with the reasons that the examination gave, unless the gate in `file` was passed."""
    verdict = json.loads(file.read_text(encoding="utf-8"))
    if not verdict["passed"]:
        raise GateFailed("The reward model failed its examination, so PPO was not started: "
                         + "; ".join(verdict["reasons"]) + ".")
