"""`samples.jsonl`: what each model answered to each held-out prompt, with what was measured on it.

One line a prompt:

    {"prompt": [{"role": "user", "content": "..."}],
     "answers": {"policy": {"text": "...", "stopped": true, "measured": {"reward": 1.2, "kl": 3.4}}, "sft": {...}},
     "outcomes": {"sft": 1.0}}

An outcome is the judge's: 1 the policy's answer is better than that model's, 0.5 neither, 0 that model's. Rewards are
those of the run's own reward model, in nats before the sigmoid, and mean nothing beside those of another one.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from plumbline.preferences.types import Message, Prompt, prompt_json

SAMPLES = "samples.jsonl"


@dataclass(frozen=True)
class SampleAnswer:
    """One model's answer to a prompt."""

    text: str
    stopped: bool
    """Whether it ended by itself rather than at the longest length."""
    measured: Mapping[str, float]
    """`reward`, `gold`, `kl` (nats from the reference); absent where not measured."""


@dataclass(frozen=True)
class Sample:
    """A held-out prompt with the models' answers."""

    prompt: Prompt
    answers: Mapping[str, SampleAnswer]
    """By model: `policy`, `sft`, `champion`."""
    outcomes: Mapping[str, float]
    """The judge's verdict on the policy against each other model."""


def write_samples(file: Path, samples: Iterable[Sample]) -> None:
    """Write one line a sample: the same bytes for the same samples."""
    with file.open("w", encoding="utf-8", newline="\n") as out:
        for sample in samples:
            out.write(json.dumps(_to_json(sample), ensure_ascii=False, allow_nan=False) + "\n")


def read_samples(lines: Iterable[str]) -> Iterator[Sample]:
    """The samples on the lines of a file that `write_samples` wrote."""
    for line in lines:
        values = json.loads(line)
        prompt = tuple(Message(turn["role"], turn["content"]) for turn in values["prompt"])
        answers = {name: SampleAnswer(one["text"], one["stopped"], one["measured"])
                   for name, one in values["answers"].items()}
        yield Sample(prompt, answers, values["outcomes"])


def _to_json(sample: Sample) -> dict[str, object]:
    # JSON knows no NaN: what is no number was not measured.
    answers = {name: {"text": one.text, "stopped": one.stopped,
                      "measured": {what: value for what, value in one.measured.items() if math.isfinite(value)}}
               for name, one in sample.answers.items()}
    return {"prompt": prompt_json(sample.prompt), "answers": answers, "outcomes": dict(sample.outcomes)}
