"""Stage `promote`: register the policy; make it champion if every rule allows it; say why.

decision.json has the rules for programs, decision.md for people.
"""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tasks.stage import Stage, StageRun

if TYPE_CHECKING:
    from plumbline.runs.workspace import Workspace
    from plumbline.tracking.promotion import Decision
    from plumbline.tracking.registry import PolicyVersion, Registry


def program(run: StageRun) -> None:
    """Register the policy as challenger, decide, and move the aliases."""
    from plumbline.tracking.outbox import patiently
    from plumbline.tracking.promotion import Circumstances, as_markdown, decide

    measured = _read(run, "reports/preference/metrics.json")
    compared_with = _read(run, "models/champion/champion.json")["version"]
    examined = _read(run, "reports/reward/gate.json")
    second = _read(run, "models/judge/metrics.json")
    around = Circumstances(compared_with, examined, second, _lost_rows(run, compared_with))
    wins = decide(measured, around, run.params.promote)
    win_rate = measured.get("win_rate_vs_sft")
    version, decision = patiently(run.home, lambda: _settle(run, win_rate, compared_with, wins))
    found = {"promoted": decision.promoted, "awaiting": decision.awaiting,
             "name": run.params.promote.model_name, "version": version, "compared_with": compared_with,
             "reasons": decision.reasons, "rules": [rule.plain() for rule in decision.rules]}
    (run.folder / "decision.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (run.folder / "decision.md").write_text(as_markdown(version, decision), encoding="utf-8")
    run.finish({"promoted": decision.promoted, "version": version})


def _read(run: StageRun, file: str) -> dict[str, Any]:
    values = json.loads((run.root / file).read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def _lost_rows(run: StageRun, champion: int | None) -> int:
    """Return how many rows of the champion's snapshot are gone from this one, where a rule asks.

    Where the champion's snapshot is nowhere, none counts as lost: the policy has to be better.
    """
    if champion is None or run.params.promote.non_inferior_by is None:
        return 0
    from plumbline.data.lost_rows import lost_rows
    from plumbline.tracking.outbox import patiently
    from plumbline.tracking.registry import SNAPSHOT, Registry

    name = run.params.promote.model_name
    before = patiently(run.home, lambda: Registry.open(run.home, name).tag(champion, SNAPSHOT))
    return (lost_rows(run.home, before, run.root / "data/snapshot") or 0) if before else 0


def _settle(run: StageRun, win_rate: object, compared_with: int | None,
            wins: "Decision") -> "tuple[int, Decision]":
    """Register the policy and act on what was measured; return its version and the decision.

    A second time it finds the same version and decides the same.
    """
    from plumbline.tracking.promotion import kept_out, postponed, was_overtaken
    from plumbline.tracking.registry import Registry

    registry, by = Registry.open(run.home, run.params.promote.model_name), run.pipeline_run
    registered = _register(run, registry, win_rate, compared_with)
    version, reason = registered.version, "; ".join(wins.reasons)
    registry.make_challenger(version, "the newest version", by)
    with registry.alone():
        if not (wins.promoted or wins.awaiting):
            registry.stop_waiting(version)
            return version, wins
        champion = registry.champion()
        champion_now = champion.version if champion else None
        if registered.rolled_back:
            registry.stop_waiting(version)
            return version, kept_out(wins, version, registered.rolled_back)
        if was_overtaken(compared_with, champion_now, version):
            registry.stop_waiting(version)
            registry.leave_open(version)
            return version, postponed(wins, compared_with, champion_now)
        if wins.promoted:
            registry.make_champion(version, reason, by)
        elif champion_now == version:  # a person has approved it before
            return version, replace(wins, promoted=True, awaiting=False)
        else:
            registry.make_awaiting(version, reason, by)
    return version, wins


def _register(run: StageRun, registry: "Registry", win_rate: object,
              compared_with: int | None) -> "PolicyVersion":
    """Return the policy's version in the registry, made if there is none."""
    from plumbline.project.digests import digest
    from plumbline.tracking.receipts import Receipt
    from plumbline.tracking.registry import SNAPSHOT

    file = run.root / "models/policy/receipt.json"
    receipt = Receipt.model_validate_json(file.read_text(encoding="utf-8"))
    policy = receipt.outputs["models/policy/model"]
    assert policy.model_id is not None
    tags = {SNAPSHOT: digest(run.root / "data/snapshot"), "pipeline_run": run.pipeline_run}
    if win_rate is not None:
        tags["win_rate_vs_sft"] = str(win_rate)
    return registry.register(policy.md5, policy.model_id, receipt.mlflow_run, compared_with, tags)


def _still_holds(workspace: "Workspace") -> bool:
    """Return whether the decision that comes from the cache still holds.

    The registry may have been lost, while the cache was not; and a version that was left open has been
    overtaken, or waited for a person in vain: it is decided again.
    """
    from plumbline.project.digests import digest
    from plumbline.tracking.outbox import patiently
    from plumbline.tracking.registry import Registry

    md5, name = digest(workspace.folder / "models/policy/model"), workspace.params.promote.model_name
    found = patiently(workspace.home, lambda: Registry.open(workspace.home, name).find(md5))
    return found is not None and found.settled


promote = Stage("promote", program, in_flow=True, still_done=_still_holds)

if __name__ == "__main__":
    promote.main()
