"""Stage `reward_model`: learn from comparisons which response is better, starting from the SFT policy."""

from tasks.stage import Stage, StageRun


def program(run: StageRun) -> None:
    """Leave the reward model, centred on the SFT policy, in models/reward/model."""
    import torch

    from plumbline.alignment.reward import RewardModel
    from plumbline.alignment.reward_training import train_reward_model
    from plumbline.lm.base import LanguageModel
    from plumbline.lm.chat import encode_prompt, stop_token
    from plumbline.lm.sampling import sample_all
    from plumbline.preferences.prepare.reader import preferences, prompts
    from plumbline.preferences.types import comparisons_of

    params, seed, data = run.params.reward_model, run.params.seed, run.root / "data/prepared"
    reward = RewardModel.from_policy(run.root / "models/sft/model", params.max_length, seed)
    train, validation = ([pair for row in preferences(data, split) for pair in comparisons_of(row)]
                         for split in ("train", "validation"))
    metrics = train_reward_model(reward, train, validation, params, seed, run.report)
    sft = LanguageModel.load(run.root / "models/sft/model")
    asked = [ids for prompt in prompts(data, "train") if len(ids := encode_prompt(sft.tokenizer, prompt))
             <= params.max_length // 2][: params.centering_samples]
    answers = sample_all(sft.model, asked, max_response=params.max_length // 2, stop=stop_token(sft.tokenizer),
                         temperature=1.0, generator=torch.Generator().manual_seed(seed), batch_size=64)
    offset = reward.centre([prompt + answer.ids for prompt, answer in zip(asked, answers, strict=True)])
    reward.save(run.folder / "model")
    run.finish(metrics | {"offset": offset})


reward_model = Stage("reward_model", program, retries=1, timeout_minutes=24 * 60)

if __name__ == "__main__":
    reward_model.main()
