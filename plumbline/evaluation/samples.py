"""`samples.jsonl`: each model's answer to each held-out prompt, with the figures measured on it.

One line a prompt:

    {"prompt": [{"role": "user", "content": "..."}],
     "answers": {"policy": {"text": "...", "stopped": true, "measured": {"reward": 1.2, "kl": 3.4}},
                 "sft": {...}},
     "outcomes": {"sft": 1.0}, "won": {"sft": 0.75}}

An outcome is the judge's on these answers: 1 if the policy's is better than that model's, 0.5 if neither is,
0 if that model's is; `won` is the mean over all answers to the prompt, of which these are the first.

Rewards are those of the run's own reward model, in nats before the sigmoid; those of two reward
models cannot be compared.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from plumbline.preferences.types import Prompt, prompt_from_json, prompt_json

SAMPLES = "samples.jsonl"


@dataclass(frozen=True)
class SampleAnswer:
    """One model's answer to a prompt."""

    text: str
    stopped: bool
    """True if it ended by itself; False if it was cut at the longest length."""
    measured: Mapping[str, float]
    """`reward`, `gold`, `kl` (nats from the reference); without those that were not measured."""


@dataclass(frozen=True)
class Sample:
    """A held-out prompt with the models' answers."""

    prompt: Prompt
    answers: Mapping[str, SampleAnswer]
    """By model: `policy`, `sft`, `champion`."""
    outcomes: Mapping[str, float]
    """The judge's verdict on the policy against each other model."""
    won: Mapping[str, float] = field(default_factory=dict)
    """The mean of all verdicts on the prompt, in the same way; empty in files of before it was kept."""


def write_samples(file: Path, samples: Iterable[Sample]) -> None:
    """Write one line a sample; the same samples give the same bytes."""
    with file.open("w", encoding="utf-8", newline="\n") as out:
        for sample in samples:
            out.write(json.dumps(_to_json(sample), ensure_ascii=False, allow_nan=False) + "\n")


def read_samples(lines: Iterable[str]) -> Iterator[Sample]:
    """Yield the samples on the lines of a file that `write_samples` wrote."""
    for line in lines:
        values = json.loads(line)
        answers = {name: SampleAnswer(one["text"], one["stopped"], one["measured"])
                   for name, one in values["answers"].items()}
        yield Sample(prompt_from_json(values["prompt"]), answers, values["outcomes"],
                     values.get("won", {}))


def _to_json(sample: Sample) -> dict[str, object]:
    answers = {}
    for name, one in sample.answers.items():
        # JSON has no NaN: a figure that is not a number is left out, as not measured.
        measured = {what: value for what, value in one.measured.items() if math.isfinite(value)}
        answers[name] = {"text": one.text, "stopped": one.stopped, "measured": measured}
    return {"prompt": prompt_json(sample.prompt), "answers": answers, "outcomes": dict(sample.outcomes),
            "won": dict(sample.won)}
