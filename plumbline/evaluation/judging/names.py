"""The judges that `preference_eval.judges` can name, and how each is made.

The first judge of the list decides. A policy is no judge of the reward that it was optimised for: two
policies that differ in the seed alone each win by their own reward model (Gao et al. 2022, arXiv 2210.10760,
call that overoptimisation). Therefore `auto` is the gold reward on simulated data, and otherwise a second
reward model, which learned from other prompts: PPO is not rewarded by it, and chooses among its updates by
it, on validation prompts.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from plumbline.errors import UserError
from plumbline.evaluation.judging.chat import KEY, ChatJudge
from plumbline.evaluation.judging.judges import (
    AnswerScores,
    Judge,
    LanguageModelJudge,
    ModelAnswer,
    NamedJudge,
    ScoreJudge,
)
from plumbline.functions import FUNCTION_NAME, import_function, safe_name, short_label
from plumbline.preferences.types import Prompt, conversation

AUTO, GOLD, SECOND, REWARD = "auto", "gold", "second", "reward"
BUILT_IN = (GOLD, SECOND, REWARD)
FUNCTION, ENDPOINT, MODEL = "function", "endpoint", "model"
ENDS = ("_low", "_high", "_n")
"""What stands behind the names of figures for the ends of an interval and its n: no label ends so."""
LONGEST_LABEL = 80
"""Characters: MLflow refuses the name of a figure with more than 250, and some have two labels."""
NO_JUDGE = "NONE"
"""The file that stage `judge` leaves in place of a model, with the reason."""


@dataclass(frozen=True)
class JudgeSettings:
    """What the judges of one evaluation are made from."""

    root: Path
    """Of the run's workspace: models/ is there."""
    home_root: Path
    """Of the project: functions are imported and local models found from there."""
    kept: Path
    """The folder that keeps the verdicts of endpoints."""
    simulated: bool
    """True if the gold reward knows every prompt."""
    precision: str
    """Of the reward models."""
    missing_stop_deviations: float
    """Deviations below the mean that a cut answer scores."""
    limit: int
    """Requests that an endpoint may be sent in one evaluation."""
    version: str
    """Of the evaluation: a new one keeps no verdict of an endpoint."""


def kind_of_judge(name: str, simulated: bool) -> str:
    """Return what a judge of this name is: GOLD, SECOND, REWARD, FUNCTION, ENDPOINT or MODEL."""
    if name == AUTO:
        return GOLD if simulated else SECOND
    if name in BUILT_IN:
        return name
    if name.startswith(("http://", "https://")):
        return ENDPOINT
    return FUNCTION if FUNCTION_NAME.fullmatch(name) else MODEL


def make_judges(names: Sequence[str], settings: JudgeSettings) -> list[NamedJudge]:
    """Return the judges of these names, the deciding one first; one named twice is made once.

    Raises UserError for a judge that cannot be made, and where several hosts would get the same key.
    """
    kinds = {name: kind_of_judge(name, settings.simulated) for name in names}
    require_one_host(kinds)
    labels = labels_of_judges(kinds)
    made: dict[str, Judge] = {}
    for name, kind in kinds.items():
        if labels[name] not in made:  # `auto` may be another name of one that is there
            made[labels[name]] = MAKERS[kind](name, settings)
    return [NamedJudge(label, judge) for label, judge in made.items()]


def require_one_host(kinds: Mapping[str, str]) -> None:
    """Raise UserError if several hosts would get the same key, by the kinds of judges with these names."""
    hosts = {name.split("/")[2].partition("#")[0] for name, kind in kinds.items() if kind == ENDPOINT}
    if len(hosts) > 1 and os.environ.get(KEY):
        raise UserError(f"The endpoints of preference_eval.judges are on {len(hosts)} hosts "
                        f"({', '.join(sorted(hosts))}), and each would be sent the key of the variable "
                        f"{KEY}. Name endpoints of one host, or unset the variable if none of them wants a "
                        "key.")


def labels_of_judges(kinds: Mapping[str, str]) -> dict[str, str]:
    """Return a label for each judge, by name: short, and never that of another judge.

    The gate goes by labels: a function called `reward` must not be taken for the reward model. Where the
    whole name is taken, too, it is numbered.
    """
    labels: dict[str, str] = {}
    for name, kind in kinds.items():
        if kind in BUILT_IN:
            labels[name] = kind
            continue
        taken = {*BUILT_IN, *labels.values()}
        whole = safe_name(name)[-LONGEST_LABEL:]
        numbered = (f"{whole}_{number}" for number in count(2))
        labels[name] = next(label for label in chain((short_label(name)[-LONGEST_LABEL:], whole), numbered)
                            if label not in taken and not label.endswith(ENDS))
    return labels


def optimised_judges(names: Sequence[str], rewards: Collection[str], simulated: bool) -> frozenset[str]:
    """Return the labels of those judges that are among the `rewards` which a policy was trained for."""
    labels = labels_of_judges({name: kind_of_judge(name, simulated) for name in names})
    return frozenset(labels[name] for name in names if name in rewards)


def scores_of_reward_model(folder: Path, settings: JudgeSettings) -> AnswerScores:
    """Return a function that scores answers as PPO does: by their tokens, and cut ones by a constant."""
    from plumbline.alignment.reward import RewardModel
    from plumbline.lm.chat import encode_prompt
    from plumbline.lm.sampling import Response

    model = RewardModel.load(folder, settings.precision)
    deviations = settings.missing_stop_deviations

    def score(pairs: Sequence[tuple[Prompt, ModelAnswer]]) -> list[float]:
        found: dict[int, float] = {}
        own = [i for i, (_, answer) in enumerate(pairs) if answer.ids]
        prompts = [encode_prompt(model.tokenizer, pairs[i][0]) for i in own]
        responses = [Response(list(pairs[i][1].ids), pairs[i][1].stopped) for i in own]
        found.update(zip(own, model.score_sampled(prompts, responses, deviations), strict=True))
        # Of an answer in other tokens there is only the text.
        other = [i for i, (_, answer) in enumerate(pairs) if not answer.ids and answer.stopped]
        texts = [(pairs[i][0], pairs[i][1].text) for i in other]
        found.update(zip(other, model.score(texts), strict=True))
        cut = -deviations * model.std
        return [found.get(i, cut) for i in range(len(pairs))]

    return score


def _gold(_name: str, settings: JudgeSettings) -> Judge:
    from plumbline.preferences.simulated import gold_reward

    if not settings.simulated:
        raise UserError("The judge `gold` knows the simulated world only, and the data has other rows. Set "
                        "preference_eval.judges=[auto], which is a second reward model there.")
    return ScoreJudge.of_texts(lambda pairs: [gold_reward(prompt, text) for prompt, text in pairs])


def _second(_name: str, settings: JudgeSettings) -> Judge:
    folder = settings.root / "models/judge/model"
    if not (folder / "config.json").is_file():
        why = folder / NO_JUDGE
        reason = f" ({' '.join(why.read_text(encoding='utf-8').split())})" if why.is_file() else ""
        raise UserError(f"There is no second reward model to judge with in models/judge/model{reason}. Add "
                        "preferences, raise ingest.judge_fraction, or name another judge in "
                        "preference_eval.judges.")
    return ScoreJudge(scores_of_reward_model(folder, settings), f"judge {SECOND}")


def _reward(_name: str, settings: JudgeSettings) -> Judge:
    return ScoreJudge(scores_of_reward_model(settings.root / "models/reward/model", settings),
                      f"judge {REWARD}")


def _function(name: str, settings: JudgeSettings) -> Judge:
    function = import_function("judge", name, settings.home_root, "preference_eval.judges")
    return ScoreJudge.of_texts(
        lambda pairs: function([(conversation(prompt), response) for prompt, response in pairs]),
        function.called)


def _endpoint(name: str, settings: JudgeSettings) -> Judge:
    return ChatJudge.named(name, settings.kept, settings.limit, settings.version)


def _model(name: str, settings: JudgeSettings) -> Judge:
    from plumbline.lm.base import load_base
    from plumbline.lm.likelihood import next_token_log_probs

    judge = load_base(name, settings.home_root)
    return LanguageModelJudge(lambda texts, options: next_token_log_probs(judge, texts, options))


MAKERS: Mapping[str, Callable[[str, JudgeSettings], Judge]] = {
    GOLD: _gold, SECOND: _second, REWARD: _reward, FUNCTION: _function, ENDPOINT: _endpoint, MODEL: _model}
