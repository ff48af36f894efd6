"""Stage `reward_model`: learn from comparisons which response is better, starting from the SFT policy."""

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.stage import Stage, StageRun

if TYPE_CHECKING:
    from plumbline.alignment.reward import RewardModel
    from plumbline.preferences.splits import Split


def program(run: StageRun) -> None:
    """Write the reward model, centred on the SFT policy, to models/reward/model, with all its members."""
    run.finish(train_on(run, "train", run.params.seed, run.params.reward_model.members))


def train_on(run: StageRun, split: "Split", seed: int, members: int = 1) -> dict[str, float]:
    """Train a reward model on the preferences of `split`, and write it, centred, to the stage's folder.

    Returns its metrics; with several `members` those of the first one.
    """
    from plumbline.alignment.reward import MEMBERS
    from plumbline.alignment.reward_training import answers_to_centre_on
    from plumbline.lm.base import LanguageModel
    from plumbline.preferences.prepare.reader import prompts

    params = run.params.reward_model
    # SFT answers first, so that too few answers are known before the training. It is let go before the reward
    # model is loaded.
    answers = answers_to_centre_on(
        LanguageModel.load(run.root / "models/sft/model"), prompts(run.root / "data/prepared", "train"),
        run.params.ppo, params.centering_samples, seed)
    # One model at a time is in memory. The first is trained last, so that it can lead the others.
    others = [_trained_before(run, split, seed, number, answers) for number in range(2, members + 1)]
    first, metrics = _train(run, split, seed, answers)
    if others:
        first.lead([first.deviations(answers), *(deviations for _, deviations in others)])
    first.save(run.folder / "model")
    if not run.silent:
        for number, (folder, _) in enumerate(others, start=2):
            shutil.copytree(folder, run.folder / "model" / MEMBERS / str(number), dirs_exist_ok=True)
    return metrics


def _train(
    run: StageRun, split: "Split", seed: int, answers: Sequence[list[int]], member: str = ""
) -> "tuple[RewardModel, dict[str, float]]":
    """Return a reward model that has learnt from `split` and is centred on `answers`, and its metrics.

    The name of a `member` is part of those of its curves, and of its checkpoints' folder.
    """
    from plumbline.alignment.reward import RewardModel
    from plumbline.alignment.reward_training import centre, train_reward_model
    from plumbline.preferences.prepare.reader import preferences

    params, data = run.params.reward_model, run.root / "data/prepared"
    reward = RewardModel.from_policy(run.root / "models/sft/model", params.max_length, seed)
    metrics = train_reward_model(
        reward, preferences(data, split), preferences(data, "validation"), params, seed,
        partial(run.report, what=member), run.scratch() / member)
    return reward, metrics | centre(reward, answers)


def _trained_before(
    run: StageRun, split: "Split", seed: int, number: int, answers: Sequence[list[int]]
) -> tuple[Path, list[float]]:
    """Return the folder of a further member, and the deviations of `answers` by it.

    It is trained and let go, unless it is there: a run that was killed later left it beside the checkpoints.
    """
    from plumbline.lm.sampling import seed_named
    from plumbline.whole_file import write_whole

    name = f"member {number}"
    folder = run.scratch() / name
    model, done = folder / "model", folder / "deviations.json"
    if not done.exists():
        reward, _ = _train(run, split, seed_named(seed, name), answers, name)
        deviations = reward.deviations(answers)
        reward.save(model)
        if not run.silent:
            write_whole(done, json.dumps(deviations))
            for checkpoint in folder.glob("*.pt"):
                checkpoint.unlink()
        return model, deviations
    found: list[float] = json.loads(done.read_text(encoding="utf-8"))
    return model, found


reward_model = Stage("reward_model", program, retries=1, timeout_minutes=24 * 60)

if __name__ == "__main__":
    reward_model.main()
