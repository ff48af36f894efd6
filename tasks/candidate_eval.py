"""Stage `candidate_eval`: a candidate on held-out prompts, as `preference_eval` judges the policy.

The prompts, SFT's answers to them and the judges are the same, so that their figures can be compared.
`python -m tasks.candidate_eval dpo` judges `models/candidates/dpo`.
"""

import sys

from tasks.stage import Stage, StageRun


def program(run: StageRun) -> None:
    """Let the candidate and SFT answer the held-out prompts, judge the answers, and write the report."""
    from tasks.preference_eval import judge_policy

    judge_policy(run, {"policy": run.root / f"models/candidates/{run.item}/model",
                       "sft": run.root / "models/sft/model"})


candidate_eval = Stage("candidate_eval", program, retries=1, timeout_minutes=24 * 60)

if __name__ == "__main__":
    candidate_eval.of(" ".join(sys.argv[1:])).main()
