"""Stage `reward_model`: learn from comparisons which response is better, starting from the SFT policy."""

from typing import TYPE_CHECKING

from tasks.stage import Stage, StageRun

if TYPE_CHECKING:
    from plumbline.preferences.splits import Split


def program(run: StageRun) -> None:
    """Write the reward model, centred on the SFT policy, to models/reward/model."""
    run.finish(train_on(run, "train", run.params.seed))


def train_on(run: StageRun, split: "Split", seed: int) -> dict[str, float]:
    """Train a reward model on the preferences of `split`, and write it, centred, to the stage's folder.

    Returns its metrics.
    """
    from plumbline.alignment.reward import RewardModel
    from plumbline.alignment.reward_training import answers_to_centre_on, centre, train_reward_model
    from plumbline.lm.base import LanguageModel
    from plumbline.preferences.prepare.reader import preferences, prompts

    params = run.params.reward_model
    data = run.root / "data/prepared"
    sft_folder = run.root / "models/sft/model"
    # SFT answers first, so that too few answers are known before the training. It is let go before the reward
    # model is loaded.
    answers = answers_to_centre_on(LanguageModel.load(sft_folder), prompts(data, "train"), run.params.ppo,
                                   params.centering_samples, seed)
    reward = RewardModel.from_policy(sft_folder, params.max_length, seed)
    metrics = train_reward_model(reward, preferences(data, split), preferences(data, "validation"), params,
                                 seed, run.report, run.scratch())
    metrics |= centre(reward, answers)
    reward.save(run.folder / "model")
    return metrics


reward_model = Stage("reward_model", program, retries=1, timeout_minutes=24 * 60)

if __name__ == "__main__":
    reward_model.main()
