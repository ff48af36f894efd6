"""Stage `promote`: register the policy; make it champion if it is better; say why in decision.json."""

import json

from tasks.stage import Stage, StageRun


def program(run: StageRun) -> None:
    """Register the policy as challenger, decide, and move the aliases."""
    from plumbline.lineage.declared import read_stage
    from plumbline.lineage.digests import digest
    from plumbline.lineage.promotion import decide, postponed, was_overtaken
    from plumbline.lineage.receipts import read_receipt
    from plumbline.lineage.registry import Registry

    params = run.params.promote
    measured = json.loads((run.root / "reports/preference/metrics.json").read_text(encoding="utf-8"))
    compared_with = json.loads((run.root / "models/champion/champion.json").read_text(encoding="utf-8"))["version"]
    receipt = read_receipt(run.root, read_stage(run.root, "ppo"))
    assert receipt is not None, "dvc ran promote before ppo"
    policy = receipt.outputs["models/policy/model"]
    assert policy.model_id is not None

    decision = decide(measured, compared_with, params.min_win_rate)
    registry = Registry.open(run.home, params.model_name)
    tags = {"snapshot": digest(run.root / "data/snapshot"), "pipeline_run": run.pipeline_run,
            "win_rate_vs_sft": str(measured["win_rate_vs_sft"])}
    version = registry.register(policy.md5, policy.model_id, receipt.mlflow_run, compared_with, tags).version
    registry.make_challenger(version)
    champion = registry.champion()
    champion_now = champion.version if champion else None
    if decision.promoted and was_overtaken(compared_with, champion_now, version):
        decision = postponed(decision, compared_with, champion_now)
        registry.leave_open(version)
    elif decision.promoted:
        registry.make_champion(version)
    found = {"promoted": decision.promoted, "name": registry.name, "version": version, "compared_with": compared_with,
             "reasons": decision.reasons}
    (run.folder / "decision.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    run.finish({"promoted": decision.promoted, "version": version})


promote = Stage("promote", program)

if __name__ == "__main__":
    promote.main()
