"""Stage `ppo`: optimise the policy against the reward model, held near SFT by the KL penalty."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tasks.stage import Stage, StageRun

if TYPE_CHECKING:
    from plumbline.config import PpoParams
    from plumbline.lm.base import LanguageModel

SAMPLES = 12


def program(run: StageRun) -> None:
    """Write the policy to models/policy/model, and samples of it and of SFT to samples.md.

    Raises GateFailed if the reward model failed its examination.
    """
    train_policy(run, "ppo", run.params.ppo)


def train_policy(run: StageRun, method: str, params: "PpoParams") -> None:
    """Train SFT by an online method, and write model and samples to the stage's folder.

    Raises UserError for parameters that contradict each other.
    """
    from plumbline.alignment.online.critics import make_critic
    from plumbline.alignment.online.loop import train_online
    from plumbline.alignment.online.policies import make_policy
    from plumbline.alignment.online.rewards import make_rewards
    from plumbline.alignment.online.validation import Validation
    from plumbline.alignment.own_answers import finished_answers
    from plumbline.alignment.reward import RewardModel, check_same_tokens, value_model
    from plumbline.config.online import require_usable
    from plumbline.evaluation.gate import require_passed
    from plumbline.lm.base import LanguageModel
    from plumbline.lm.engines.chosen import engine_for
    from plumbline.lm.ranks.world import world
    from plumbline.preferences.prepare.reader import demonstrations, prompts

    require_usable(method, params, world().size, f"candidates.{run.item}" if run.item else "ppo")
    require_passed(run.root / "reports/reward/gate.json")
    seed, data = run.params.seed, run.root / "data/prepared"
    train, held = prompts(data, "train"), prompts(data, "validation")
    samples = run.params.reward_model.centering_samples
    sft_folder, reward_folder, judge_folder = (
        run.root / f"models/{name}/model" for name in ("sft", "reward", "judge"))
    lm = LanguageModel.load(sft_folder)

    with kept_policy(run, lm, params):
        answers = finished_answers(
            lm, train, samples, seed, max_prompt=params.max_prompt, max_response=params.max_response,
            temperature=params.temperature) if params.measured_on_answers else []
        # On several ranks each whole model is taken apart before the next is loaded, SFT first. The reference
        # has fp32 weights, whatever the precision of the forward passes: weights rounded to bf16 would be
        # another model, and the KL of SFT to itself would not be 0.
        policy = make_policy(lm.model, lambda: LanguageModel.load(sft_folder).model, params, seed)
        judge = None
        if (judge_folder / "config.json").exists():  # otherwise a file in it says why there is none
            judge = RewardModel.load(judge_folder, params.precision).sharded()
            check_same_tokens(lm, judge)
        reward = RewardModel.load(reward_folder, params.precision)
        check_same_tokens(lm, reward)
        critic, alone = make_critic(method, policy, reward, lambda: value_model(reward_folder), params)
        asked = make_rewards(alone, lm, [*train, *held], params, run.home.root, params.precision, answers)
        engine = engine_for(lm, params.engine, params.precision, run.scratch(), run.report)
        engine_name = engine.name()
        validation = Validation.prepare(lm, policy, engine, asked, judge, held, params, seed)
        metrics = train_online(method, lm, policy, critic, asked, engine, train, params, seed,
                               run.report, run.scratch(), validation,
                               demonstrations(data, "train") if params.ptx_coef else ())
    run.finish(metrics | {"validation_judge": "second" if judge else "reward", "engine": engine_name})


@contextmanager
def kept_policy(run: StageRun, lm: "LanguageModel", params: "PpoParams") -> Iterator[None]:
    """Write what SFT becomes in the block to the stage's folder, with its answers before and after."""
    from plumbline.alignment.sample_page import respond, samples_page, shorter
    from plumbline.preferences.prepare.reader import prompts

    shown = shorter(lm, prompts(run.root / "data/prepared", "validation"), params.max_prompt)[:SAMPLES]

    def answers() -> list[str]:
        return respond(lm, shown, max_response=params.max_response, temperature=params.temperature,
                       seed=run.params.seed)

    before = answers()
    yield
    lm.save(run.folder / "model")
    page = samples_page(shown, {"sft": before, "policy": answers()})
    run.write("samples.md", page)


ppo = Stage("ppo", program, retries=1, timeout_minutes=7 * 24 * 60)

if __name__ == "__main__":
    ppo.main()
