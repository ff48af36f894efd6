"""Stage `judge`: a second reward model, which judges what PPO made against the first one.

It is made in the same way from the same SFT policy, but from preferences on other prompts and from another
seed, so that what PPO found to please the first one's mistakes need not please it.
"""

from functools import partial

from tasks.reward_model import train_on
from tasks.stage import Stage, StageRun

NONE = "NONE"
WHY_NONE = """There is no second reward model: no preference is kept for it. Where all data is simulated, the
gold reward judges. Otherwise add preferences on more prompts, or raise ingest.judge_fraction.
"""


def program(run: StageRun) -> None:
    """Write the second reward model to models/judge/model, or the file NONE, which says why there is none.

    How often it is right on held-out comparisons is among its metrics: where it decides, promote asks.
    """
    kept = run.root / "data/prepared/preferences/judge.jsonl"
    if kept.stat().st_size:
        metrics = train_on(run, "judge", run.params.seed + 1)
        run.finish(metrics | _right_on_heldout(run))
        return
    run.write(f"model/{NONE}", WHY_NONE)
    run.finish({"pairs": 0})


def _right_on_heldout(run: StageRun) -> dict[str, float]:
    """Return `heldout_accuracy` with the ends of its interval; nothing where no held-out comparison that the
    model reads whole is decided.
    """
    from plumbline.alignment.reward import RewardModel
    from plumbline.evaluation.examination import accuracy, score_comparisons
    from plumbline.preferences.prepare.reader import preferences
    from plumbline.preferences.types import comparisons_of

    model = RewardModel.load(run.folder / "model", run.params.reward_model.precision)
    rows = preferences(run.root / "data/prepared", "heldout")
    held = [pair for row in rows for pair in comparisons_of(row)]
    fitting = [pair for pair in held if all(model.fits(pair.prompt, text) for text in pair.responses)]
    scored = score_comparisons(fitting, partial(model.score, report=partial(run.report, what="held out")))
    right = accuracy(scored)
    return right.metrics("heldout_accuracy") if right else {}


judge = Stage("judge", program, retries=1, timeout_minutes=24 * 60)

if __name__ == "__main__":
    judge.main()
