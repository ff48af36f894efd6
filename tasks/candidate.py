"""Stage `candidate`: a policy to set beside PPO's, by another method or with other parameters.

`python -m tasks.candidate dpo` trains what `candidates.dpo` of params.yaml says, from the SFT policy and the
data that PPO starts from. plumbline/config/methods.py lists the methods.
"""

import sys

from tasks.stage import Stage, StageRun


def program(run: StageRun) -> None:
    """Write the policy to models/candidates/NAME/model, and samples of it and of SFT to samples.md.

    Raises GateFailed for a method that uses a reward model which failed its examination.
    """
    from plumbline.config import PpoParams, candidate_params
    from plumbline.errors import UserError
    from tasks.ppo import train_against_reward

    method, params = run.params.candidates[run.item]["method"], candidate_params(run.params, run.item)
    if method == "ppo" and isinstance(params, PpoParams):
        train_against_reward(run, params)
    else:
        raise UserError(f"candidates.{run.item}.method is {method}, which this version cannot train; it can "
                        "train ppo.")


candidate = Stage("candidate", program, retries=1, timeout_minutes=7 * 24 * 60)

if __name__ == "__main__":
    candidate.of(" ".join(sys.argv[1:])).main()
