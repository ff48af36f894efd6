"""Stage `candidate`: a policy to set beside PPO's, by another method or with other parameters.

`python -m tasks.candidate dpo` trains what `candidates.dpo` of params.yaml says, from the SFT policy and the
data that PPO starts from; an online method is trained as the stage `ppo` trains. plumbline/config/methods.py
lists the methods.
"""

import sys
from typing import TYPE_CHECKING

from tasks.stage import Stage, StageRun

if TYPE_CHECKING:
    from plumbline.config import DirectParams
    from plumbline.config.methods import RejectionParams

SFT = "models/sft/model"


def program(run: StageRun) -> None:
    """Write the policy to models/candidates/NAME/model, and samples of it and of SFT to samples.md.

    Raises GateFailed for a method that uses a reward model which failed its examination.
    """
    from plumbline.config import DirectParams, PpoParams, candidate_params
    from plumbline.config.methods import RejectionParams
    from tasks.ppo import train_policy

    method, params = run.params.candidates[run.item]["method"], candidate_params(run.params, run.item)
    if isinstance(params, PpoParams):
        train_policy(run, method, params)
    elif isinstance(params, DirectParams):
        _train_direct(run, method, params)
    else:
        assert isinstance(params, RejectionParams)
        _train_rejection(run, params)


def _train_direct(run: StageRun, method: str, params: "DirectParams") -> None:
    """Train on people's preferences, with no reward model."""
    from plumbline.alignment.direct.training import train_direct
    from plumbline.lm.base import LanguageModel
    from plumbline.preferences.prepare.reader import preferences
    from tasks.ppo import kept_policy

    data, lm = run.root / "data/prepared", LanguageModel.load(run.root / SFT)
    with kept_policy(run, lm, run.params.ppo):
        metrics = train_direct(lm, lm.model, preferences(data, "train"), preferences(data, "validation"),
                               method, params, run.params.seed, run.report, run.scratch())
    run.finish(metrics)


def _train_rejection(run: StageRun, params: "RejectionParams") -> None:
    """Fine-tune on those of SFT's own answers that have the highest reward."""
    from plumbline.alignment.direct.rejection import train_rejection
    from plumbline.alignment.online.rewards import Reward, make_rewards
    from plumbline.alignment.own_answers import finished_answers
    from plumbline.alignment.reward import RewardModel, check_same_tokens
    from plumbline.evaluation.gate import require_passed
    from plumbline.lm.base import LanguageModel
    from plumbline.lm.engines.chosen import engine_for
    from plumbline.preferences.prepare.reader import demonstrations, prompts
    from tasks.ppo import kept_policy

    require_passed(run.root / "reports/reward/gate.json")
    data, lm = run.root / "data/prepared", LanguageModel.load(run.root / SFT)
    seed, samples, train = run.params.seed, run.params.reward_model.centering_samples, prompts(data, "train")

    def reward() -> Reward:
        model = RewardModel.load(run.root / "models/reward/model", params.precision)
        check_same_tokens(lm, model)
        answers = finished_answers(
            lm, train, samples, seed, max_prompt=params.max_length - params.max_response,
            max_response=params.max_response, temperature=params.temperature, room="max_length - max_response"
        ) if params.measured_on_answers else []
        return make_rewards(model, lm, train, params, run.home.root, params.precision, answers)

    with kept_policy(run, lm, run.params.ppo):
        engine = engine_for(lm, params.engine, params.precision, run.scratch(), run.report)
        engine_name = engine.name()
        metrics = train_rejection(lm, reward, engine, train, demonstrations(data, "validation"), params, seed,
                                  run.report, run.scratch())
    run.finish(metrics | {"engine": engine_name})


candidate = Stage("candidate", program, retries=1, timeout_minutes=7 * 24 * 60)

if __name__ == "__main__":
    candidate.of(" ".join(sys.argv[1:])).main()
