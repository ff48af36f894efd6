"""The gate between reward model and PPO: a file with the decision whether the reward model may be
optimised."""

import json
from collections.abc import Sequence
from pathlib import Path

from plumbline.errors import GateFailed


def write_verdict(file: Path, reasons: Sequence[str]) -> None:
    """Write the decision to `file`: the reward model passes if there are no reasons against it."""
    verdict = {"passed": not reasons, "reasons": list(reasons)}
    file.write_text(json.dumps(verdict, indent=1) + "\n", encoding="utf-8")


def require_passed(file: Path) -> None:
    """Raise GateFailed, with the reasons in `file`, unless the reward model passed."""
    verdict = json.loads(file.read_text(encoding="utf-8"))
    if not verdict["passed"]:
        raise GateFailed("The reward model failed its examination, so PPO was not started: "
                         + "; ".join(verdict["reasons"]) + ".")
