"""Stage `ppo`: optimise the policy against the reward model, held near SFT by the KL penalty."""

from tasks.stage import Stage, StageRun

SAMPLES = 12


def program(run: StageRun) -> None:
    """Write the policy to models/policy/model, and samples of it and of SFT to samples.md.

    Raises GateFailed if the reward model failed its examination.
    """
    from plumbline.alignment.ppo import train_ppo
    from plumbline.alignment.reward import RewardModel, check_same_tokens, value_model
    from plumbline.alignment.validation import Validation
    from plumbline.evaluation.gate import require_passed
    from plumbline.lm.base import LanguageModel
    from plumbline.lm.sample_page import respond, samples_page
    from plumbline.preferences.prepare.reader import prompts

    require_passed(run.root / "reports/reward/gate.json")
    params, seed = run.params.ppo, run.params.seed
    data = run.root / "data/prepared"
    sft_folder, reward_folder, judge_folder = (
        run.root / f"models/{name}/model" for name in ("sft", "reward", "judge"))
    # Both have fp32 weights, whatever the precision of the forward passes: weights rounded to bf16 would be
    # another model, and the KL of SFT to itself would not be 0.
    policy, reference = LanguageModel.load(sft_folder), LanguageModel.load(sft_folder)
    reward = RewardModel.load(reward_folder, params.precision)
    check_same_tokens(policy, reward)
    judge = None
    if (judge_folder / "config.json").exists():  # otherwise a file in it says why there is none
        judge = RewardModel.load(judge_folder, params.precision)
        check_same_tokens(policy, judge)
    validation = Validation.prepare(reference, reward, judge, prompts(data, "validation"), params, seed)
    metrics = train_ppo(policy, reference.model, value_model(reward_folder), reward, prompts(data, "train"),
                        params, seed, run.report, run.scratch(), validation)
    policy.save(run.folder / "model")
    shown = prompts(data, "validation")[:SAMPLES]
    answers = {}
    for name, lm in (("sft", reference), ("policy", policy)):
        answers[name] = respond(lm, shown, max_response=params.max_response, temperature=params.temperature,
                                seed=seed)
    (run.folder / "samples.md").write_text(samples_page(shown, answers), encoding="utf-8")
    run.finish(metrics | {"validation_judge": "second" if judge else "reward"})


ppo = Stage("ppo", program, retries=1, timeout_minutes=7 * 24 * 60)

if __name__ == "__main__":
    ppo.main()
