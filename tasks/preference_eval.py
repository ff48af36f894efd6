"""Stage `preference_eval`: is the policy better than SFT, and than the champion, on held-out prompts?

It gives the judge's win rates; the responses' rewards and the policy's KL to SFT; and the share of held-out
comparisons in which each model gives the preferred response the higher likelihood.
"""

from functools import partial
from typing import TYPE_CHECKING

from tasks.stage import Stage, StageRun

if TYPE_CHECKING:
    from plumbline.evaluation.judges import Judge
    from plumbline.evaluation.preference_report import Contestant
    from plumbline.lm.base import LanguageModel
    from plumbline.preferences.types import Prompt


def program(run: StageRun) -> None:
    """Let policy, SFT and champion answer the held-out prompts, judge the answers, and write the report."""
    from plumbline.errors import UserError
    from plumbline.evaluation.preference_report import evaluate, write_report
    from plumbline.lm.base import LanguageModel
    from plumbline.preferences.prepare.reader import prompts

    chosen = run.params.preference_eval
    asked = prompts(run.root / "data/prepared", "heldout")[: chosen.prompts]
    if not asked:
        raise UserError("There are no held-out prompts to evaluate on. Add data, or raise "
                        "ingest.heldout_fraction.")
    folders = {name: run.root / f"models/{name}/model" for name in ("policy", "sft", "champion")}
    models = {name: LanguageModel.load(folder, chosen.precision)
              for name, folder in folders.items() if folder.exists()}  # without a champion at first
    policy, *opponents = (_contestant(run, name, models[name], models["sft"], asked) for name in models)
    found = evaluate(asked, policy, opponents, _judge(run), chosen.bootstrap_samples, run.params.seed)
    write_report(run.folder / "report", found)
    run.finish(found.metrics() | _agreement(run, models))


def _contestant(
    run: StageRun, name: str, lm: "LanguageModel", reference: "LanguageModel", asked: "list[Prompt]"
) -> "Contestant":
    """Sample one model's answers, and measure reward, gold reward (on simulated data) and KL."""
    import torch

    from plumbline.alignment.reward import RewardModel
    from plumbline.alignment.rollout import kl_estimates
    from plumbline.evaluation.preference_report import Contestant
    from plumbline.lm.chat import decode_response, encode_prompt, stop_token
    from plumbline.lm.sampling import sample_all
    from plumbline.preferences.batches.manifest import read_manifest
    from plumbline.preferences.simulated import gold_reward

    chosen = run.params.preference_eval
    run.report(0, 1, what=f"{name} answers")
    ids = [encode_prompt(lm.tokenizer, prompt) for prompt in asked]
    answers = sample_all(lm.model, ids, max_response=chosen.max_response, stop=stop_token(lm.tokenizer),
                         temperature=chosen.temperature, batch_size=64,
                         generator=torch.Generator().manual_seed(run.params.seed))
    texts = [decode_response(lm.tokenizer, answer.ids) for answer in answers]
    reward = RewardModel.load(run.root / "models/reward/model", chosen.precision)
    measured = {"reward": reward.score(list(zip(asked, texts, strict=True)))}
    if read_manifest(run.root / "data/prepared").simulated:
        measured["gold"] = [gold_reward(prompt, text) for prompt, text in zip(asked, texts, strict=True)]
    if lm is not reference and chosen.temperature > 0:
        measured["kl"] = kl_estimates(lm.model, reference.model, ids, answers, chosen.temperature)
    return Contestant(name, texts, [answer.stopped for answer in answers], measured)


def _judge(run: StageRun) -> "Judge":
    """Return the judge that `preference_eval.judge` names."""
    from plumbline.alignment.reward import RewardModel
    from plumbline.evaluation.judges import LanguageModelJudge, ScoreJudge
    from plumbline.lm.base import load_base
    from plumbline.lm.likelihood import next_token_log_probs
    from plumbline.preferences.simulated import gold_reward

    chosen = run.params.preference_eval
    if chosen.judge == "gold":
        return ScoreJudge(lambda texts: [gold_reward(prompt, text) for prompt, text in texts])
    if chosen.judge == "reward":
        return ScoreJudge(RewardModel.load(run.root / "models/reward/model", chosen.precision).score)
    judge = load_base(chosen.judge, run.home.root)
    return LanguageModelJudge(lambda texts, options: next_token_log_probs(judge, texts, options))


def _agreement(run: StageRun, models: "dict[str, LanguageModel]") -> dict[str, float]:
    """Return each model's share of held-out comparisons with the higher likelihood for the preferred
    response.

    Likelihoods are means over tokens. The keys are `preference_accuracy_NAME`, and `preference_accuracy_n`
    for the number of comparisons.
    """
    from plumbline.lm.likelihood import response_log_likelihoods
    from plumbline.preferences.prepare.reader import preferences
    from plumbline.preferences.types import comparisons_of

    rows = preferences(run.root / "data/prepared", "heldout")
    decided = [pair for row in rows for pair in comparisons_of(row) if pair.label != "tie"]
    pairs = decided[: run.params.preference_eval.comparisons]
    if not pairs:
        return {}
    sides = [(pair.prompt, pair.chosen) for pair in pairs] + [(pair.prompt, pair.rejected) for pair in pairs]
    found: dict[str, float] = {"preference_accuracy_n": len(pairs)}
    for name, lm in models.items():
        likely = response_log_likelihoods(lm, sides, partial(run.report, what=f"{name} on preferences"))
        wins = zip(likely[: len(pairs)], likely[len(pairs) :], strict=True)
        right = sum(chosen > rejected for chosen, rejected in wins)
        found[f"preference_accuracy_{name}"] = right / len(pairs)
    return found


preference_eval = Stage("preference_eval", program, retries=1, timeout_minutes=24 * 60)

if __name__ == "__main__":
    preference_eval.main()
