"""Stage `promote`: register the policy; make it champion if it is better; say why in decision.json."""

import json
from typing import TYPE_CHECKING

from tasks.stage import Stage, StageRun

if TYPE_CHECKING:
    from plumbline.runs.workspace import Workspace
    from plumbline.tracking.promotion import Decision


def program(run: StageRun) -> None:
    """Register the policy as challenger, decide, and move the aliases."""
    from plumbline.tracking.outbox import patiently
    from plumbline.tracking.promotion import decide

    measured = json.loads((run.root / "reports/preference/metrics.json").read_text(encoding="utf-8"))
    champion = json.loads((run.root / "models/champion/champion.json").read_text(encoding="utf-8"))
    compared_with, win_rate = champion["version"], measured["win_rate_vs_sft"]
    wins = decide(measured, compared_with, run.params.promote.min_win_rate)
    version, decision = patiently(run.home, lambda: _settle(run, win_rate, compared_with, wins))
    found = {"promoted": decision.promoted, "name": run.params.promote.model_name, "version": version,
             "compared_with": compared_with, "reasons": decision.reasons}
    (run.folder / "decision.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    run.finish({"promoted": decision.promoted, "version": version})


def _settle(run: StageRun, win_rate: float, compared_with: int | None,
            wins: "Decision") -> "tuple[int, Decision]":
    """Register the policy and act on what was measured; return its version and the decision.

    A second time it finds the same version and decides the same.
    """
    from plumbline.project.digests import digest
    from plumbline.tracking.promotion import kept_out, postponed, was_overtaken
    from plumbline.tracking.receipts import Receipt
    from plumbline.tracking.registry import Registry

    file = run.root / "models/policy/receipt.json"
    receipt = Receipt.model_validate_json(file.read_text(encoding="utf-8"))
    policy = receipt.outputs["models/policy/model"]
    assert policy.model_id is not None
    registry, by = Registry.open(run.home, run.params.promote.model_name), run.pipeline_run
    tags = {"snapshot": digest(run.root / "data/snapshot"), "pipeline_run": by,
            "win_rate_vs_sft": str(win_rate)}
    registered = registry.register(policy.md5, policy.model_id, receipt.mlflow_run, compared_with, tags)
    version = registered.version
    registry.make_challenger(version, "the newest version", by)
    with registry.alone():
        champion = registry.champion()
        champion_now = champion.version if champion else None
        if wins.promoted and registered.rolled_back:
            return version, kept_out(wins, version, registered.rolled_back)
        if wins.promoted and was_overtaken(compared_with, champion_now, version):
            registry.leave_open(version)
            return version, postponed(wins, compared_with, champion_now)
        if wins.promoted:
            registry.make_champion(version, "; ".join(wins.reasons), by)
    return version, wins


def _still_registered(workspace: "Workspace") -> bool:
    """True if the registry knows the policy: it may have been lost, while the cache was not."""
    from plumbline.project.digests import digest
    from plumbline.tracking.outbox import patiently
    from plumbline.tracking.registry import Registry

    md5, name = digest(workspace.folder / "models/policy/model"), workspace.params.promote.model_name
    return patiently(workspace.home, lambda: Registry.open(workspace.home, name).find(md5)) is not None


promote = Stage("promote", program, in_flow=True, still_done=_still_registered)

if __name__ == "__main__":
    promote.main()
