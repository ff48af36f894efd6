"""Stage `preference_eval`: is the policy better than SFT, and than the champion, on held-out prompts?

Policy, SFT and champion answer each prompt, sampled and greedy, and SFT also with the best of n by the reward
model. It gives the judges' win rates; what the answers are like, and how far the policy is from SFT; and what
the gain costs: the likelihood of held-out demonstrations and of preferred responses.
"""

from typing import TYPE_CHECKING

from tasks.stage import Stage, StageRun

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from plumbline.evaluation.answers import Answers, SftAnswers
    from plumbline.evaluation.judging.judges import ModelAnswer, ScoreJudge
    from plumbline.evaluation.judging.names import JudgeSettings
    from plumbline.evaluation.matches import Contestant
    from plumbline.lm.base import LanguageModel
    from plumbline.lm.engines.engine import Engine
    from plumbline.preferences.types import Prompt
    from plumbline.runs.stage_run import Measured
    from plumbline.statistics import Interval

    Models = dict[str, LanguageModel]
    Engines = dict[str, Engine]


def program(run: StageRun) -> None:
    """Let policy, SFT and champion answer the held-out prompts, judge the answers, and write the report."""
    names = ("policy", "sft", "champion")
    judge_policy(run, {name: run.root / f"models/{name}/model" for name in names}, overoptimisation=True)


def judge_policy(run: StageRun, folders: "Mapping[str, Path]", overoptimisation: bool = False) -> None:
    """Judge the policy of `folders` against the others, which are `sft`, and `champion` if its folder exists.

    With `overoptimisation`, a larger pool of SFT's answers, and what PPO measured as it went, show how far
    the reward model was optimised.
    """
    from plumbline.evaluation import overoptimisation as over
    from plumbline.evaluation.judging.names import REWARD, make_judges, optimised_judges
    from plumbline.evaluation.matches import evaluate
    from plumbline.evaluation.own_pairs import reward_accuracy, reward_accuracy_section
    from plumbline.evaluation.preference_report import write_report
    from plumbline.evaluation.price import price_metrics, price_section
    from plumbline.lm.base import LanguageModel
    from plumbline.lm.engines.chosen import engine_also_for, engine_for

    chosen = run.params.preference_eval
    settings = _judge_settings(run)
    judges = make_judges(chosen.judges, settings)
    optimised = optimised_judges(chosen.judges, _rewards(run), settings.simulated)
    independent = [judge for judge in judges if judge.name not in optimised]
    scorers = over.scorers_among([*make_judges([REWARD], settings), *independent])
    models = {name: LanguageModel.load(folder, chosen.precision)
              for name, folder in folders.items() if folder.exists()}  # without a champion at first
    asked, too_long = _asked(run, models["policy"])
    _require_context(models, asked, chosen.max_response)
    engine = engine_for(models["sft"], chosen.engine, chosen.precision, run.scratch(), run.report)
    engines = {name: engine_also_for(lm, engine, models["sft"]) for name, lm in models.items()}
    sft = _sft_answers(run, models["sft"], engine, asked, scorers.own,
                       chosen.bon_pool if overoptimisation else 0)
    contestants = _contestants(run, models, engines, asked, scorers.own, sft)
    run.report(0, 1, what="judging")
    found = evaluate(asked, contestants, judges, _kinds(run, asked))
    price = _price(run, models)
    metrics: dict[str, Measured] = {**found.metrics(), **price_metrics(*price), "prompts": len(asked),
                                    "prompts_too_long": too_long, "engine": engine.name()}
    sections = price_section(*price)
    if right := reward_accuracy(asked, sft.contestants[0], judges[0]):
        metrics |= right.metrics("reward_accuracy_on_sft")
        sections = [*reward_accuracy_section(right, judges[0].name), *sections]
    if judges[0].name in optimised:
        metrics["judge_optimised"] = 1
    curve = None
    if overoptimisation:
        first = sft.pool[: chosen.bon_prompts] if chosen.bon_pool else []
        whole = [given[: chosen.bon_pool] for given in first]
        curve = over.overoptimisation(run.root / "models", asked, contestants, whole, scorers,
                                      run.params.ppo.reward_model_alone)
        sections = [*over.overoptimisation_section(curve), *sections]
        metrics |= curve.metrics()
    write_report(run.folder / "report", found, sections)
    if curve:
        over.draw_overoptimisation(run.folder / "report" / over.PICTURE, curve)
    run.finish(metrics)


def _rewards(run: StageRun) -> list[str]:
    """Return the names of what the policy was rewarded by. A candidate, which nobody promotes, is not asked:
    its evaluation has no parameters of its own, so that all candidates share SFT's answers.
    """
    return [] if run.item else list(run.params.ppo.rewards)


def _judge_settings(run: StageRun) -> "JudgeSettings":
    from plumbline.evaluation.judging.names import JudgeSettings
    from plumbline.preferences.batches.manifest import read_manifest

    chosen = run.params.preference_eval
    return JudgeSettings(
        root=run.root, home_root=run.home.root, kept=run.home.folder / "verdicts",
        simulated=read_manifest(run.root / "data/prepared").simulated, precision=chosen.precision,
        missing_stop_deviations=run.params.ppo.missing_stop_deviations,
        limit=chosen.judge_limit, version=chosen.version)


def _asked(run: StageRun, policy: "LanguageModel") -> "tuple[list[Prompt], int]":
    """Return a random sample of the held-out prompts that fit, the same for equal data, and how many do
    not.
    """
    from plumbline.errors import UserError
    from plumbline.lm.chat import encode_prompt
    from plumbline.preferences.prepare.reader import prompts
    from plumbline.preferences.splits import prompt_key

    longest = run.params.ppo.max_prompt
    heldout = prompts(run.root / "data/prepared", "heldout")
    fitting = [prompt for prompt in heldout if len(encode_prompt(policy.tokenizer, prompt)) <= longest]
    if not fitting:
        raise UserError(f"There are no held-out prompts to evaluate on: {len(heldout)} are held out, and "
                        f"none has at most ppo.max_prompt = {longest} tokens. Add data, or raise "
                        "ingest.heldout_fraction or ppo.max_prompt.")
    # A prompt's key is a hash: its order has nothing to do with arrival or content.
    return sorted(fitting, key=prompt_key)[: run.params.preference_eval.prompts], len(heldout) - len(fitting)


def _require_context(models: "Models", asked: "list[Prompt]", max_response: int) -> None:
    """Raise UserError for a model that has no place for a prompt with its answer.

    Pre-flight has asked the base model; a champion may be of another one.
    """
    from plumbline.errors import UserError
    from plumbline.lm.chat import encode_prompt
    from plumbline.lm.source import context_of

    for name, lm in models.items():
        context = context_of(lm.model.config)
        longest = max(len(encode_prompt(lm.tokenizer, prompt)) for prompt in asked) + max_response
        if context is not None and longest > context:
            raise UserError(f"The model `{name}` reads at most {context} tokens, but a held-out prompt with "
                            f"an answer of preference_eval.max_response = {max_response} has {longest}. "
                            "Lower ppo.max_prompt or preference_eval.max_response, or roll back to a "
                            "champion that reads as much.")


def _contestants(
    run: StageRun, models: "Models", engines: "Engines", asked: "list[Prompt]", reward: "ScoreJudge",
    sft: "SftAnswers",
) -> "list[Contestant]":
    """Let each model answer, sampled and greedy; what SFT answered is there, the best of its pool, too."""
    sampled_and_greedy = {"sft": sft.contestants[:2]}
    for name, lm in models.items():
        if name not in sampled_and_greedy:
            sampled_and_greedy[name] = _sampled_and_greedy(run, name, lm, models["sft"], engines[name], asked,
                                                           reward)
    return [*(one for name in models for one in sampled_and_greedy[name]), *sft.contestants[2:]]


def _sampled_and_greedy(
    run: StageRun, name: str, lm: "LanguageModel", sft: "LanguageModel", engine: "Engine",
    asked: "list[Prompt]", reward: "ScoreJudge",
) -> "list[Contestant]":
    from plumbline.evaluation.answers import answer_all

    chosen, found = run.params.preference_eval, []
    for label, temperature, count in ((name, chosen.temperature, chosen.answers_per_prompt),
                                      (f"{name}_greedy", 0.0, 1)):
        run.report(0, 1, what=f"{label} answers")
        answers = answer_all(
            lm, engine, asked, [count] * len(asked), max_response=chosen.max_response,
            temperature=temperature, seed=_seed(run, name), keep_ids=_same_tokens(lm, sft))
        found.append(_contestant(run, label, lm, sft, asked, answers, temperature, reward))
    return found


def _seed(run: StageRun, name: str) -> int:
    """Return the seed of a contestant's sampled answers, which no other contestant has.

    Two answers that are drawn with the same random numbers are not independent: which one wins would depend
    on the order of the tokens in the vocabulary.
    """
    from plumbline.lm.sampling import seed_named

    return seed_named(run.params.seed, name)


def _sft_answers(
    run: StageRun, sft: "LanguageModel", engine: "Engine", asked: "list[Prompt]", reward: "ScoreJudge",
    more: int,
) -> "SftAnswers":
    """Let SFT answer, sampled and greedy, and with the best of its pool by the reward model; or take what it
    answered for another policy. `more` answers are in the pool of some prompts, see `_pool`.
    """
    from plumbline.evaluation.answers import SftAnswers, best_of, kept_answers, scored
    from plumbline.preferences.splits import prompt_key

    def made() -> SftAnswers:
        chosen = run.params.preference_eval
        found = _sampled_and_greedy(run, "sft", sft, sft, engine, asked, reward)
        pool = _pool(run, sft, engine, asked, more)
        if chosen.best_of:
            first = [given[: chosen.best_of] for given in pool]
            answers = best_of(scored(reward, asked, first), first, chosen.best_of)
            found.append(_contestant(run, f"sft_best_of_{chosen.best_of}", sft, sft, asked, answers, 0.0,
                                     reward))
        return SftAnswers(found, pool)

    # Which prompts fit depends on the policy's tokenizer.
    others = {"asked": " ".join(map(prompt_key, asked)), "more": str(more)}
    inputs = ("models/sft/model", "models/reward/model", "data/prepared")
    return kept_answers(run.shared_file("answers", inputs, others), made)


def _pool(
    run: StageRun, sft: "LanguageModel", engine: "Engine", asked: "list[Prompt]", more: int
) -> "list[list[ModelAnswer]]":
    """Sample answers of SFT of which the best are taken: `best_of`, and to the first prompts `more` in all.

    The first `best_of` are the same whatever `more` is, so that every policy meets the same best ones.
    """
    from plumbline.evaluation.answers import answer_all

    chosen = run.params.preference_eval
    run.report(0, 1, what="sft, a pool of answers")
    pool: list[list[ModelAnswer]] = [[] for _ in asked]
    for prompts, count, seed in ((asked, chosen.best_of, _seed(run, "best of")),
                                 (asked[: chosen.bon_prompts], more - chosen.best_of, _seed(run, "pool"))):
        if count > 0:
            answers = answer_all(
                sft, engine, prompts, [count] * len(prompts), max_response=chosen.max_response,
                temperature=chosen.temperature, seed=seed, keep_ids=True)
            for given, found in zip(pool, answers, strict=False):
                given += found
    return pool


def _same_tokens(lm: "LanguageModel", sft: "LanguageModel") -> bool:
    from plumbline.evaluation.answers import same_tokens

    return lm is sft or same_tokens(lm, sft)


def _contestant(
    run: StageRun, name: str, lm: "LanguageModel", sft: "LanguageModel", asked: "list[Prompt]",
    answers: "Answers", temperature: float, reward: "ScoreJudge",
) -> "Contestant":
    """Measure reward, gold reward (on simulated data), and likelihoods where SFT reads the same tokens."""
    from plumbline.evaluation.answers import gold_figures, likelihood_figures, scored
    from plumbline.evaluation.matches import Contestant
    from plumbline.preferences.batches.manifest import read_manifest

    measured = {"reward": scored(reward, asked, answers)}
    if read_manifest(run.root / "data/prepared").simulated:
        measured |= gold_figures(asked, answers)
    if answers[0][0].ids:
        measured |= likelihood_figures(lm, sft, asked, answers, temperature)
    return Contestant(name, answers, measured)


def _kinds(run: StageRun, asked: "list[Prompt]") -> list[str]:
    """Return the kind of each prompt: the simulated world's, otherwise the source of its first row."""
    from plumbline.evaluation.matches import OTHER, kind_labels
    from plumbline.preferences.batches.manifest import read_manifest
    from plumbline.preferences.prepare.reader import demonstrations, preferences
    from plumbline.preferences.simulated import kind_of
    from plumbline.preferences.splits import prompt_key

    data = run.root / "data/prepared"
    if read_manifest(data).simulated:
        return [kind_of(prompt) or OTHER for prompt in asked]
    sources: dict[str, str] = {}
    for row in [*preferences(data, "heldout"), *demonstrations(data, "heldout")]:
        sources.setdefault(prompt_key(row.prompt), row.origin.source)
    labels = kind_labels(set(sources.values()))
    kinds = {prompt: labels[source] for prompt, source in sources.items()}
    return [kinds.get(prompt_key(prompt), OTHER) for prompt in asked]


def _price(run: StageRun, models: "Models") -> "tuple[dict[str, Interval], dict[str, Interval]]":
    """Return accuracy on held-out comparisons and loss on held-out demonstrations, by model."""
    from plumbline.evaluation.price import demonstration_loss, preference_accuracy, reporter
    from plumbline.preferences.prepare.reader import demonstrations, preferences

    chosen, data = run.params.preference_eval, run.root / "data/prepared"
    longest = run.params.ppo.max_prompt + chosen.max_response
    settings = (chosen.comparisons, longest, reporter(run.report))
    return (preference_accuracy(models, preferences(data, "heldout"), *settings),
            demonstration_loss(models, demonstrations(data, "heldout"), *settings))


preference_eval = Stage("preference_eval", program, retries=1, timeout_minutes=24 * 60)

if __name__ == "__main__":
    preference_eval.main()
