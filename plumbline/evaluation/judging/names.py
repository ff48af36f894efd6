"""The judges that `preference_eval.judges` can name, and how each is made.

The first judge of the list decides. A policy is no judge of the reward that it was optimised for: two
policies that differ in the seed alone each win by their own reward model (Gao et al. 2022, arXiv 2210.10760,
call that overoptimisation). Therefore `auto` is the gold reward on simulated data, and otherwise a second
reward model, which learned from other prompts and which PPO never asked.
"""

import importlib
import importlib.machinery
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plumbline.errors import UserError
from plumbline.evaluation.judging.chat import ChatJudge
from plumbline.evaluation.judging.judges import (
    AnswerScores,
    Judge,
    LanguageModelJudge,
    ModelAnswer,
    NamedJudge,
    ScoreJudge,
)
from plumbline.evaluation.markdown import conversation
from plumbline.preferences.types import Prompt

AUTO, GOLD, SECOND, REWARD = "auto", "gold", "second", "reward"
BUILT_IN = (GOLD, SECOND, REWARD)
FUNCTION, ENDPOINT, MODEL = "function", "endpoint", "model"
FUNCTION_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
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

    Raises UserError for a judge that cannot be made.
    """
    kinds = {name: kind_of_judge(name, settings.simulated) for name in names}
    labels = labels_of_judges(kinds)
    made: dict[str, Judge] = {}
    for name, kind in kinds.items():
        if labels[name] not in made:  # `auto` may be another name of one that is there
            made[labels[name]] = MAKERS[kind](name, settings)
    return [NamedJudge(label, judge) for label, judge in made.items()]


def labels_of_judges(kinds: Mapping[str, str]) -> dict[str, str]:
    """Return a label for each judge, by name: short, and never that of another judge.

    The gate goes by labels: a function called `reward` must not be taken for the reward model.
    """
    labels: dict[str, str] = {}
    for name, kind in kinds.items():
        if kind in BUILT_IN:
            labels[name] = kind
            continue
        short = _short_label(name)
        labels[name] = safe_name(name) if short in {*BUILT_IN, *labels.values()} else short
    return labels


def _short_label(name: str) -> str:
    """Return the end of a judge's name: the function, or the model."""
    separator = "/"
    if "#" in name:
        separator = "#"
    elif FUNCTION_NAME.fullmatch(name):
        separator = ":"
    return safe_name(name.rsplit(separator, 1)[-1])


def safe_name(text: str) -> str:
    """Return a text in the characters that the name of a metric may have."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("_") or "unnamed"


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
    return ScoreJudge(scores_of_reward_model(folder, settings))


def _reward(_name: str, settings: JudgeSettings) -> Judge:
    return ScoreJudge(scores_of_reward_model(settings.root / "models/reward/model", settings))


def _function(name: str, settings: JudgeSettings) -> Judge:
    function = _imported(name, settings.home_root)

    def score(pairs: Sequence[tuple[Prompt, str]]) -> list[float]:
        texts = [(conversation(prompt), response) for prompt, response in pairs]
        try:
            scores = [float(value) for value in function(texts)]
        except Exception as error:
            raise UserError(f"The judge {name} must give a number for each (prompt, response), but failed "
                            f"with {type(error).__name__}: {error}") from error
        if len(scores) != len(texts):
            raise UserError(f"The judge {name} must give a score for each (prompt, response): it was asked "
                            f"for {len(texts)} and gave {len(scores)}.")
        return scores

    return ScoreJudge.of_texts(score)


def find_module(name: str, root: Path) -> None:
    """Raise UserError unless the module of a `module:function` can be found, without importing it."""
    package = name.partition(":")[0].split(".")[0]
    if importlib.machinery.PathFinder.find_spec(package, [str(root), *sys.path]) is None:
        raise UserError(f"There is no module `{package}` for the judge {name} of preference_eval.judges: "
                        f"expected {package}.py or a package of that name in {root}.")


def _imported(name: str, root: Path) -> Callable[[list[tuple[str, str]]], Sequence[float]]:
    """Import the function `module:function`, the module from the project's root or from Python's path."""
    module_name, _, function_name = name.partition(":")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module does when it is imported
        raise UserError(f"The judge {name} cannot be imported from {root}: {type(error).__name__}: "
                        f"{error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f"The module {module_name} ({module.__file__}) has no function `{function_name}`, "
                        f"which preference_eval.judges names.")
    return function  # type: ignore[no-any-return]


def _endpoint(name: str, settings: JudgeSettings) -> Judge:
    return ChatJudge.named(name, settings.kept, settings.limit)


def _model(name: str, settings: JudgeSettings) -> Judge:
    from plumbline.lm.base import load_base
    from plumbline.lm.likelihood import next_token_log_probs

    judge = load_base(name, settings.home_root)
    return LanguageModelJudge(lambda texts, options: next_token_log_probs(judge, texts, options))


MAKERS: Mapping[str, Callable[[str, JudgeSettings], Judge]] = {
    GOLD: _gold, SECOND: _second, REWARD: _reward, FUNCTION: _function, ENDPOINT: _endpoint, MODEL: _model}
