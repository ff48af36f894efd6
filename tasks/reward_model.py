"""Stage `reward_model`: learn from comparisons which response is better, starting from the SFT policy."""

from itertools import islice

from tasks.stage import Stage, StageRun


def program(run: StageRun) -> None:
    """Write the reward model, centred on the SFT policy, to models/reward/model."""
    import torch

    from plumbline.alignment.reward import RewardModel
    from plumbline.alignment.reward_training import train_reward_model
    from plumbline.lm.base import LanguageModel
    from plumbline.lm.chat import encode_prompt, stop_token
    from plumbline.lm.sampling import sample_all
    from plumbline.preferences.prepare.reader import preferences, prompts
    from plumbline.preferences.types import comparisons_of

    params, seed = run.params.reward_model, run.params.seed
    data = run.root / "data/prepared"
    sft_folder = run.root / "models/sft/model"
    reward = RewardModel.from_policy(sft_folder, params.max_length, seed)
    train = [pair for row in preferences(data, "train") for pair in comparisons_of(row)]
    validation = [pair for row in preferences(data, "validation") for pair in comparisons_of(row)]
    metrics = train_reward_model(reward, train, validation, params, seed, run.report)

    # Shift the rewards so that finished answers of the SFT policy score 0 on average.
    sft = LanguageModel.load(sft_folder)
    half = params.max_length // 2
    encoded = (encode_prompt(sft.tokenizer, prompt) for prompt in prompts(data, "train"))
    asked = list(islice((ids for ids in encoded if len(ids) <= half), params.centering_samples))
    answers = sample_all(sft.model, asked, max_response=half, stop=stop_token(sft.tokenizer), temperature=1.0,
                         generator=torch.Generator().manual_seed(seed), batch_size=64)
    pairs = zip(asked, answers, strict=True)
    reward.centre([prompt + answer.ids for prompt, answer in pairs if answer.stopped])
    reward.save(run.folder / "model")
    run.finish(metrics | {"offset": reward.model.config.reward_offset, "std": reward.std})


reward_model = Stage("reward_model", program, retries=1, timeout_minutes=24 * 60)

if __name__ == "__main__":
    reward_model.main()
