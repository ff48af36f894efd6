"""What the gain costs: how likely each model finds held-out demonstrations, and the responses that people
preferred.

A policy that forgets what SFT knew pays in demonstration loss (Ouyang et al. 2022, arXiv 2203.02155, section
4.2, call it the alignment tax). Conversations longer than those of the evaluation are left out: a model may
have no position for their tokens, and the machine no room for their logits.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

from plumbline import statistics
from plumbline.evaluation.markdown import percent, table
from plumbline.lm.base import LanguageModel
from plumbline.lm.chat import encode_prompt, encode_response
from plumbline.lm.likelihood import OnProgress, response_log_likelihoods
from plumbline.preferences.splits import prompt_key
from plumbline.preferences.types import Comparison, Demonstration, Preference, Prompt, comparisons_of
from plumbline.statistics import Interval

Item = TypeVar("Item")
Report = Callable[[str], OnProgress]
"""Returns, for a name of what is done, a function that reports how much of it is done."""


def in_random_order(items: Sequence[Item], text_of: Callable[[Item], str]) -> list[Item]:
    """Return the items in the order of the hashes of their texts: random, and the same each time."""
    def place(item: Item) -> str:
        return hashlib.sha256(text_of(item).encode("utf-8", "surrogatepass")).hexdigest()

    return sorted(items, key=place)


def preference_accuracy(
    models: Mapping[str, LanguageModel], preferences: Sequence[Preference], most: int, longest: int,
    report: Report,
) -> dict[str, Interval]:
    """Return, by model, the share of comparisons whose preferred response it finds likelier, a token.

    At most `most` decided comparisons are measured, whose sides have at most `longest` tokens with their
    prompt by every model's tokenizer; the result is empty without one.
    """
    decided = [pair for row in preferences for pair in comparisons_of(row) if pair.label != "tie"]
    fitting = (pair for pair in in_random_order(decided, _text_of_comparison)
               if _fits(models, pair.prompt, pair.responses, longest))
    pairs = list(islice(fitting, most))
    if not pairs:
        return {}
    sides = [(pair.prompt, pair.chosen) for pair in pairs] + [(pair.prompt, pair.rejected) for pair in pairs]
    keys = [prompt_key(pair.prompt) for pair in pairs]
    found = {}
    for name, lm in models.items():
        likely = response_log_likelihoods(lm, sides, report(f"{name} on preferences"))
        right = [float(better > worse)
                 for better, worse in zip(likely[: len(pairs)], likely[len(pairs) :], strict=True)]
        found[name] = statistics.share(right, keys)
    return found


def demonstration_loss(
    models: Mapping[str, LanguageModel], rows: Sequence[Demonstration], most: int, longest: int,
    report: Report,
) -> dict[str, Interval]:
    """Return, by model, the mean over demonstrations of their cross-entropy, in nats a token.

    At most `most` of the rows are measured, each of at most `longest` tokens by every model's tokenizer; the
    result is empty without one.
    """
    fitting = (row for row in in_random_order(rows, lambda row: repr((row.prompt, row.response)))
               if _fits(models, row.prompt, [row.response], longest))
    chosen = list(islice(fitting, most))
    if not chosen:
        return {}
    keys = [prompt_key(row.prompt) for row in chosen]
    found = {}
    for name, lm in models.items():
        likely = response_log_likelihoods(lm, [(row.prompt, row.response) for row in chosen],
                                          report(f"{name} on demonstrations"))
        found[name] = statistics.mean([-value for value in likely], keys)
    return found


def price_metrics(accuracy: Mapping[str, Interval], loss: Mapping[str, Interval]) -> dict[str, float]:
    """Return both with their ends, as `preference_accuracy_policy` and `demonstration_loss_policy`, and n."""
    found: dict[str, float] = {}
    for what, by_model in (("preference_accuracy", accuracy), ("demonstration_loss", loss)):
        for name, interval in by_model.items():
            key = f"{what}_{name}"
            found |= {key: interval.value, f"{key}_low": interval.low, f"{key}_high": interval.high,
                      f"{what}_n": interval.n}
    return found


def price_section(accuracy: Mapping[str, Interval], loss: Mapping[str, Interval]) -> list[str]:
    """Return the report's section on it."""
    rows = []
    for name in accuracy.keys() | loss.keys():
        right, nats = accuracy.get(name), loss.get(name)
        rows.append((name, percent(right) if right else "not measured",
                     f"{nats.value:.3f} [{nats.low:.3f}, {nats.high:.3f}]" if nats else "not measured"))
    if not rows:
        return []
    return ["## The price", "", "On held-out data, with 95 % intervals over prompts.", "",
            *table(("", "finds the preferred response likelier", "loss on demonstrations, nats a token"),
                   sorted(rows))]


def reporter(report: Callable[..., None]) -> Report:
    """Return a Report that calls `report(done, total, what=name)`."""
    return lambda name: partial(report, what=name)


def _fits(
    models: Mapping[str, LanguageModel], prompt: Prompt, responses: Sequence[str], longest: int
) -> bool:
    """Return whether the prompt with any of the responses has at most `longest` tokens, whichever model reads
    it.
    """
    for lm in models.values():
        room = longest - len(encode_prompt(lm.tokenizer, prompt))
        if any(len(encode_response(lm.tokenizer, response)) > room for response in responses):
            return False
    return True


def _text_of_comparison(pair: Comparison) -> str:
    return repr((pair.prompt, pair.responses))
