"""The data report: what a snapshot's rows are like, before anything is trained on them.

A `Reporter` sees every accepted row once, keeps numbers and hashes of it (about 75 bytes a comparison), and
computes all statistics at the end; schema.py says what they are, pages.py writes them down. What cannot be
measured is absent, never zero: agreement where no pair has two annotators, position bias where formats record
no order.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np

from plumbline.preferences.batches.manifest import Batch
from plumbline.preferences.report import agreement, judgements
from plumbline.preferences.report.census import Census, Lengths, lengths, responses_of
from plumbline.preferences.report.cycles import cycles
from plumbline.preferences.report.judgements import NOBODY, JudgementColumns, Names
from plumbline.preferences.report.schema import Agreement, DataReport
from plumbline.preferences.report.text_damage import TextColumns
from plumbline.preferences.splits import Split
from plumbline.preferences.types import Demonstration, Preference, Prompt, Rating, Row, to_json

LISTED = 1000
"""The longest list of sources, annotators or reasons in report.json; `names` says how many there are."""
MATRIX = 40
"""Annotators whose agreement is measured two by two: the busiest."""
EXAMPLE_CHARACTERS = 2000
UNKNOWN = "unknown"


class Reporter:
    """Sees the accepted rows in their order, then reports on them."""

    def __init__(self) -> None:
        self._sources, self._annotators = Names(), Names()
        self._census, self._judgements, self._texts = Census(), JudgementColumns(), TextColumns()
        self._derived = 0
        self._examples: dict[str, dict[str, object]] = {}

    def add(self, row: Row, prompt_key: str, split: Split) -> None:
        """Count one accepted row; `prompt_key` is the hexadecimal name of its prompt."""
        prompt, source, annotator = self._numbers(row, prompt_key)
        self._census.add(row, prompt, source, annotator, split)
        self._texts.add(source, _text(row.prompt))
        for response in responses_of(row):
            self._texts.add(source, response)
        if not isinstance(row, Demonstration | Rating):
            self._judgements.add(row, prompt, source, annotator, shown=True)
        if (kind := type(row).__name__) not in self._examples:
            self._examples[kind] = _example(row)

    def derived(self, preference: Preference, prompt_key: str) -> None:
        """Count a preference that ratings imply among the judgements, but not among the rows."""
        prompt, source, annotator = self._numbers(preference, prompt_key)
        self._derived += 1
        self._judgements.add(preference, prompt, source, annotator, shown=False)

    def report(self, snapshot: str, counts: dict[str, int], sizes: dict[str, dict[str, int]],
               quarantined: Iterable[Mapping[str, object]], batches: Iterable[Batch] = ()) -> DataReport:
        """Return the report on all rows so far. After it, `add` raises BufferError.

        `sizes` are rows by part and split; `batches` have the counts of fields that were not read.
        """
        sources, annotators, census = self._sources.all(), self._annotators.all(), self._census
        found = self._judgements.table()
        report: DataReport = {
            "snapshot": snapshot, "counts": counts, "splits": sizes,
            "names": {"sources": len(sources), "annotators": len(annotators)},
            "by_kind": census.by_kind(),
            "by_source": census.by_source(sources, LISTED),
            "by_annotator": census.by_annotator(annotators, UNKNOWN, LISTED),
            "strata": {"kind_by_split": census.splits_by_kind(),
                       "source_by_split": census.splits_by_source(sources, LISTED),
                       "source_by_kind": census.kinds_by_source(sources, LISTED)},
            "leakage": census.leakage(),
            "characters": _characters(census, found),
            "judgements": {"pairs": len(found.labels)},
            "bias": {},
            "agreement": _agreement(found, annotators),
            "texts": self._texts.by_source(sources, LISTED),
            "trouble_examples": self._texts.examples(sources),
            "quarantine": _reasons(quarantined),
            "unread": _fields(batch.unread for batch in batches),
            "left_alone": _fields(batch.left_alone for batch in batches),
            "examples": list(self._examples.values()),
        }
        if (labellers := census.labellers(annotators, UNKNOWN, LISTED)) is not None:
            report["labellers"] = labellers
        if (ratings := census.ratings(self._derived)) is not None:
            report["ratings"] = ratings
        _add_bias(report, found, sources, annotators)
        return report

    def _numbers(self, row: Row, prompt_key: str) -> tuple[int, int, int]:
        name = row.origin.annotator
        annotator = NOBODY if name is None or name == UNKNOWN else self._annotators.code(name)
        return int(prompt_key[:16], 16), self._sources.code(row.origin.source), annotator


def _characters(census: Census, found: judgements.Judgements) -> dict[str, Lengths]:
    decided = np.flatnonzero(found.labels)
    chosen = found.lengths[decided, (found.labels[decided] < 0).astype(np.int64)]
    rejected = found.lengths[decided, (found.labels[decided] > 0).astype(np.int64)]
    measured = {"prompt": census.prompt_lengths(), "response": census.response_lengths(),
                "chosen": lengths(chosen), "rejected": lengths(rejected)}
    return {name: one for name, one in measured.items() if one is not None}


def _agreement(found: judgements.Judgements, annotators: list[str]) -> Agreement:
    again = judgements.contradictions(found)
    out = cast(Agreement, {**again, **agreement.agreement(found, annotators, LISTED, MATRIX)})
    if (contradicted := judgements.contradicted(again)) is not None:
        out["contradicted"] = contradicted
    if (circles := cycles(found)) is not None:
        out["cycles"] = circles
    return out


def _add_bias(report: DataReport, found: judgements.Judgements, sources: list[str],
              annotators: list[str]) -> None:
    if (ties := judgements.ties(found)) is not None:
        report["judgements"]["ties"] = ties
    if (longer := judgements.longer_wins(found, sources, annotators, LISTED)) is not None:
        report["bias"]["longer_wins"] = longer
        report["judgements"]["longer_wins"] = longer["overall"]
    if (first := judgements.first_shown_wins(found, sources, annotators, LISTED)) is not None:
        report["bias"]["first_shown_wins"] = first
        report["judgements"]["first_shown_wins"] = first["overall"]


def _reasons(quarantined: Iterable[Mapping[str, object]]) -> dict[str, int]:
    found = Counter(f"{row['field']}: {row['reason']}" for row in quarantined)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))[:LISTED])


def _fields(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the number of records by field, over all batches."""
    found = Counter[str]()
    for of_batch in counts:
        found.update(of_batch)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))[:LISTED])


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
