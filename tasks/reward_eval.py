"""Stage `reward_eval`: examine the reward model on held-out preferences, and decide whether PPO may use
it."""

from functools import partial

from tasks.stage import Stage, StageRun


def program(run: StageRun) -> None:
    """Write the examination to reports/reward/report, and PPO's permission or refusal to gate.json."""
    from plumbline.alignment.reward import RewardModel
    from plumbline.errors import UserError
    from plumbline.evaluation.examination import ScoredComparison, examine, score_comparisons
    from plumbline.evaluation.gate import write_verdict
    from plumbline.evaluation.probes import probe
    from plumbline.evaluation.reward_report import gate, write_report
    from plumbline.preferences.batches.manifest import read_manifest
    from plumbline.preferences.prepare.reader import preferences
    from plumbline.preferences.simulated import gold_reward
    from plumbline.preferences.types import comparisons_of

    chosen = run.params.reward_eval
    data = run.root / "data/prepared"
    model = RewardModel.load(run.root / "models/reward/model", chosen.precision)

    held = [pair for row in preferences(data, "heldout") for pair in comparisons_of(row)]
    comparisons = [pair for pair in held if all(model.fits(pair.prompt, text) for text in pair.responses)]
    if all(pair.label == "tie" for pair in comparisons):
        raise UserError(f"There is nothing to examine the reward model on: of {len(held)} held-out "
                        f"comparisons {len(held) - len(comparisons)} are longer than "
                        "reward_model.max_length, and the others are ties. Add preferences to "
                        "snapshot.sources, or raise ingest.heldout_fraction or reward_model.max_length.")
    report = partial(run.report, what="scoring")
    by_member = [score_comparisons(comparisons, partial(one.score, report=report)) for one in model.members]
    scored = by_member[0]
    if model.others:  # the whole follows from its members
        sides = [model.combined([[one.scores[side] for one in scored_by] for scored_by in by_member])
                 for side in (0, 1)]
        scored = list(map(ScoredComparison, comparisons, zip(*sides, strict=True)))
    gold = gold_reward if read_manifest(data).simulated else None
    found = examine(scored, gold, by_member if model.others else ())
    probed = probe(scored, partial(model.score, report=report), model.fits, chosen)
    reasons = gate(found, probed, chosen)
    write_report(run.folder / "report", found, scored, probed, chosen)
    write_verdict(run.folder / "gate.json", reasons)
    metrics = found.metrics() | {"passed": not reasons, "dropped_too_long": len(held) - len(comparisons)}
    for one in probed:
        metrics |= one.metrics()
    run.finish(metrics)


reward_eval = Stage("reward_eval", program, retries=1, timeout_minutes=12 * 60)

if __name__ == "__main__":
    reward_eval.main()
