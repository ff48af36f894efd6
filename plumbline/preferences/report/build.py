"""The data report: what a snapshot's rows are like, before anything is trained on them.

Each part of the rows is seen by a `Reporter`; a `ReportBuilder` takes the parts in their order and computes
all statistics at the end, shard by shard. schema.py says what they are, pages.py writes them down. What
cannot be measured is absent, never zero: agreement where no pair has two annotators, position bias where
formats record no order. Sums of whole numbers are exact however the rows were divided; those of fractions, in
agreement alone, are added in the order of the shards.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import numpy as np

from plumbline.preferences.batches.manifest import Batch
from plumbline.preferences.reading.results import shown_name
from plumbline.preferences.report import agreement, judgements
from plumbline.preferences.report.biases import bias
from plumbline.preferences.report.census import Census, Lengths, lengths
from plumbline.preferences.report.judgements import JUDGEMENT, NOBODY, Names
from plumbline.preferences.report.reporter import UNKNOWN, Reporter
from plumbline.preferences.report.schema import Agreement, DataReport
from plumbline.preferences.report.tally import Tally, second_tally, tally
from plumbline.preferences.report.text_damage import TextCounts
from plumbline.preferences.shards import Shards, shards_for
from plumbline.preferences.sums import total
from plumbline.workers import Workers

LISTED = 1000
"""The longest list of sources, annotators or reasons in report.json; `names` says how many there are."""
MATRIX = 40
"""Annotators whose agreement is measured two by two: the busiest."""


class ReportBuilder:
    """Takes the parts of a data set in their order, keeps what needs memory in `folder`, and reports on all.

    `rows` is about how many there are in all.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        shards = shards_for(rows)
        self._sources, self._annotators = Names(), Names()
        self._census, self._texts = Census(folder, shards), TextCounts()
        self._judgements = Shards(folder / "judgements", JUDGEMENT, shards)
        self._derived = 0
        self._examples: dict[str, dict[str, object]] = {}

    def take(self, part: Reporter) -> None:
        """Add what was seen of a part."""
        sources = np.array([self._sources.code(name) for name in part.sources.all()], np.int32)
        # NOBODY is the last position, too.
        annotators = np.array([*map(self._annotators.code, part.annotators.all()), NOBODY], np.int32)
        self._census.take(part.census, sources, annotators)
        self._judgements.append(part.judgements.records(sources, annotators))
        self._texts.take(part.texts, sources.tolist())
        self._derived += part.derivations
        for kind, example in part.examples.items():
            self._examples.setdefault(kind, example)

    def report(self, snapshot: str, counts: dict[str, int], sizes: dict[str, dict[str, int]],
               quarantined: Iterable[Mapping[str, object]], batches: Iterable[Batch],
               workers: Workers) -> DataReport:
        """Return the report on all rows so far.

        `sizes` are rows by part and split; `batches` have the counts of fields that were not read.
        """
        sources, annotators, census = self._sources.all(), self._annotators.all(), self._census
        found = total(workers.map(tally, [(self._judgements, n) for n in range(self._judgements.count)]))
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
            "judgements": {"pairs": found.pairs},
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
        self._look_again(report, found, workers)
        return report

    def _look_again(self, report: DataReport, found: Tally, workers: Workers) -> None:
        """Add what can only be counted once the first tally is known."""
        sources, annotators = self._sources.all(), self._annotators.all()
        either = np.zeros(len(sources), bool)
        either[: len(found.sides)] = found.sides.all(axis=1)
        busiest = found.shared.busiest(annotators, MATRIX)
        again = total(workers.map(second_tally, [(self._judgements, n, either, busiest)
                                                 for n in range(self._judgements.count)]))
        report["agreement"]["by_pair"] = agreement.by_pair(again.met, busiest, annotators)
        if (ties := found.ties.shares(1).get(0)) is not None:
            report["judgements"]["ties"] = ties
        if (longer := bias(found.longer, sources, annotators, LISTED)) is not None:
            report["bias"]["longer_wins"] = longer
            report["judgements"]["longer_wins"] = longer["overall"]
        if (first := bias(again.first_shown, sources, annotators, LISTED)) is not None:
            report["bias"]["first_shown_wins"] = first
            report["judgements"]["first_shown_wins"] = first["overall"]


def _characters(census: Census, found: Tally) -> dict[str, Lengths]:
    measured = {"prompt": census.prompt_lengths(), "response": census.response_lengths(),
                "chosen": lengths(found.chosen), "rejected": lengths(found.rejected)}
    return {name: one for name, one in measured.items() if one is not None}


def _agreement(found: Tally, annotators: list[str]) -> Agreement:
    again = found.contradictions
    out = cast(Agreement, {**again, **agreement.agreement(found.shared, annotators, LISTED)})
    if (contradicted := judgements.contradicted(again)) is not None:
        out["contradicted"] = contradicted
    if found.cycles["prompts"]:
        out["cycles"] = found.cycles
    return out


def _reasons(quarantined: Iterable[Mapping[str, object]]) -> dict[str, int]:
    found = Counter(f"{row['field']}: {row['reason']}" for row in quarantined)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))[:LISTED])


def _fields(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the number of records by field, over all batches.

    Manifests may hold names that cannot be written, of fields that were counted by an earlier version.
    """
    found = Counter[str]()
    for of_batch in counts:
        for name, records in of_batch.items():
            found[shown_name(name)] += records
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))[:LISTED])
