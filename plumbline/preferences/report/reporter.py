"""What the report needs of some part of the rows: numbers and hashes, about 75 bytes a comparison."""

import json

from plumbline.preferences.report.census import CensusColumns, responses_of
from plumbline.preferences.report.judgements import NOBODY, JudgementColumns, Names
from plumbline.preferences.report.text_damage import TextColumns
from plumbline.preferences.splits import Split
from plumbline.preferences.types import Demonstration, Preference, Prompt, Rating, Row, to_json

EXAMPLE_CHARACTERS = 2000
UNKNOWN = "unknown"


class Reporter:
    """Sees the accepted rows of a part in their order. Another process can be handed what it has seen."""

    def __init__(self) -> None:
        self.sources, self.annotators = Names(), Names()
        self.census, self.judgements, self.texts = CensusColumns(), JudgementColumns(), TextColumns()
        self.derivations = 0
        self.examples: dict[str, dict[str, object]] = {}

    def add(self, row: Row, prompt: int, split: Split) -> None:
        """Count one accepted row; `prompt` is 64 bits of its prompt's key."""
        source, annotator = self._numbers(row)
        self.census.add(row, prompt, source, annotator, split)
        self.texts.add(source, _text(row.prompt))
        for response in responses_of(row):
            self.texts.add(source, response)
        if not isinstance(row, Demonstration | Rating):
            self.judgements.add(row, prompt, source, annotator, shown=True)
        if (kind := type(row).__name__) not in self.examples:
            self.examples[kind] = _example(row)

    def derived(self, preference: Preference, prompt: int) -> None:
        """Count a preference that ratings imply among the judgements, but not among the rows."""
        source, annotator = self._numbers(preference)
        self.derivations += 1
        self.judgements.add(preference, prompt, source, annotator, shown=False)

    def _numbers(self, row: Row) -> tuple[int, int]:
        name = row.origin.annotator
        annotator = NOBODY if name is None or name == UNKNOWN else self.annotators.code(name)
        return self.sources.code(row.origin.source), annotator


def _text(prompt: Prompt) -> str:
    return prompt[0].content if len(prompt) == 1 else "\n".join(message.content for message in prompt)


def _example(row: Row) -> dict[str, object]:
    """Return the row in our schema with long texts cut."""
    cut: dict[str, object] = json.loads(json.dumps(to_json(row)), object_hook=_cut)
    return cut


def _cut(values: dict[str, object]) -> dict[str, object]:
    return {name: _cut_value(value) for name, value in values.items()}


def _cut_value(value: object) -> object:
    if isinstance(value, list):
        return [_cut_value(one) for one in value]
    if isinstance(value, str) and len(value) > EXAMPLE_CHARACTERS:
        return value[:EXAMPLE_CHARACTERS] + " ..."
    return value
